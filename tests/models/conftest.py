"""What the tests of the Hub share."""

import pytest

import admodels
from tests import HUB


@pytest.fixture
def hub():
    """An empty Hub."""
    HUB.clear()
    return HUB


@pytest.fixture
def no_waiting(monkeypatch):
    """Retries come at once."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture
def pushed(hub, isvd):
    """One model, private, at its owner's."""
    return admodels.push(isvd, "owner/paper", category="paper with specks", licence="mit", token="hf_owner")

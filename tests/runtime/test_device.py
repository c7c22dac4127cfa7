"""Which devices are taken, and what is said of the others."""

import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import admodels
from admodels.runtime.device import DEVICES, resolve_device


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")])
def test_the_cpu_has_several_names(device):
    assert resolve_device(device).type == "cpu"
    assert admodels.create("fapm", device=device).device.type == "cpu"


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("gpu", "expected one of"),
        ("", "expected one of"),
        (None, "expected one of"),
        (0, "expected one of"),
        (b"cpu", "expected one of"),
        ("cuda:abc", "expected one of"),
        ("cpu:", "expected one of"),
        ("cpu:-1", "expected one of"),
        ("cpu:²", "expected one of"),
        ("cpu:99", "there is only cpu here. Use device='cpu'"),
        ("cuda:900", "cuda"),
        (torch.device("meta"), "expected one of"),
    ],
)
def test_other_devices_are_refused_with_the_remedy(device, said):
    with pytest.raises(admodels.OptionError, match=said):
        resolve_device(device)


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(admodels.OptionError, match="there is only cuda:0 to cuda:1 here"):
        resolve_device("cuda:7")


@given(st.text() | st.sampled_from(DEVICES).flatmap(lambda kind: st.text().map(lambda rest: f"{kind}:{rest}")))
def test_any_text_is_a_device_or_our_error(device):
    with contextlib.suppress(admodels.OptionError):
        assert isinstance(resolve_device(device), torch.device)

"""The interface for programs on the app's port."""

import httpx
import pytest

import admodels
from demo.app import build, launch
from tests.conftest import SMALL

KEY = "a key that nobody guesses"


@pytest.fixture
def parts(normals):
    """A model of the machine."""
    detector = admodels.create("fapm", device="cpu", **SMALL["fapm"]).fit(normals)
    admodels.save(detector, "of-the-machine", overwrite=True)
    yield detector
    admodels.delete("of-the-machine")


@pytest.fixture
def started():
    """Starts another app of this process."""
    apps = []

    def start():
        apps.append(build())
        _, url, _ = launch(apps[-1], prevent_thread_lock=True, server_port=None, quiet=True)
        return url

    yield start
    for app in apps:
        app.close()


def ask(url, path, example, **more):
    return httpx.post(f"{url}{path}", content=example.test[0].path.read_bytes(), timeout=60, **more)


def test_one_request_to_the_app_scores_a_picture(app, parts, example):
    answer = ask(app, "v1/score?model=local:of-the-machine", example)
    assert answer.status_code == 200
    assert answer.json()["score"] == pytest.approx(parts.predict(example.test[0].path).score, rel=1e-4)
    for path in ("healthz", "readyz", "metrics", "v1/models", "v1/docs", "v1/openapi.json"):
        assert httpx.get(f"{app}{path}", timeout=60).status_code == 200
    assert "Visual anomaly detection" in httpx.get(app, timeout=60).text


def test_on_a_server_that_visitors_share_it_is_there_only_for_those_with_the_key(started, parts, example, monkeypatch):
    monkeypatch.setenv("ADMODELS_SHARED", "1")
    url = started()
    for path in ("v1/models", "v1/score?model=local:of-the-machine", "metrics"):
        answer = ask(url, path, example)
        assert answer.status_code in (404, 405)
        assert "score" not in answer.text
    monkeypatch.setenv("ADMODELS_API_KEY", KEY)
    url = started()
    path = "v1/score?model=local:of-the-machine"
    assert ask(url, path, example).status_code == 401
    assert ask(url, path, example, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_a_key_that_is_too_short_is_said_at_the_start(started, monkeypatch):
    monkeypatch.setenv("ADMODELS_API_KEY", "short")
    with pytest.raises(admodels.OptionError, match="at least 16"):
        started()

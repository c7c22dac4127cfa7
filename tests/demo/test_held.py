"""What all visitors of a shared server hold together is bounded, on its disk and in its memory."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import anyio
import httpx
import pytest
from huggingface_hub import scan_cache_dir
from starlette.responses import PlainTextResponse

import admodels
from admodels import OptionError
from admodels.models import Store, keep_within
from demo.state import held
from demo.state.current import Current
from demo.state.downloaded import LIMIT
from demo.state.sessions import Sessions
from tests import HUB


@pytest.fixture
def shared(monkeypatch, tmp_path):
    """A shared server whose uploads lie in a folder of this test."""
    monkeypatch.setenv("ADMODELS_SHARED", "1")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def visitors(monkeypatch):
    """Sessions of this test's own; gives one with a page for each call."""
    sessions = Sessions()
    monkeypatch.setattr(held, "SESSIONS", sessions)

    def arrive():
        page = SimpleNamespace(session_hash=uuid.uuid4().hex)
        sessions.arrive("", page)
        return page, sessions.of(page)

    arrive.sessions = sessions
    return arrive


@pytest.fixture
def copied(isvd, tmp_path):
    """Gives a model that learned the same, and is another one in memory."""
    store = Store(admodels.DETECTORS, tmp_path / "copied")
    store.save(isvd, "line")
    return lambda: store.load("line", device="cpu")


def post(app, n_bytes):
    """Upload one file of that size as a page does."""
    return httpx.post(f"{app}gradio_api/upload", files={"files": ("part.png", b"0" * n_bytes)}, timeout=60)


def test_an_upload_is_refused_where_all_visitors_hold_as_much_as_they_may(app, visitors, shared, monkeypatch):
    (shared / "other").mkdir()
    (shared / "other" / "part.png").write_bytes(b"0" * 3 * 2**20)
    monkeypatch.setenv(held.DISK, str(4 / 2**10))  # 4 MiB
    assert post(app, 2**19).status_code == 200
    refused = post(app, 2**20)
    assert refused.status_code == 413
    assert "of this server's disk" in refused.text
    assert "Delete models you no longer need, or try again later" in refused.text
    (shared / "other" / "part.png").unlink()
    assert post(app, 2**20).status_code == 200


def test_uploads_that_are_under_way_count(visitors, shared, monkeypatch):
    monkeypatch.setenv(held.DISK, str(4 / 2**10))
    inside, goes_on, statuses = threading.Event(), threading.Event(), []

    async def slow(scope, receive, send):
        inside.set()
        while not goes_on.is_set():
            await anyio.sleep(0.01)
        await PlainTextResponse("taken")(scope, receive, send)

    within = held.UploadsWithin(slow)

    async def send_all():
        transport = httpx.ASGITransport(within)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:

            async def send(n_mib, path="upload"):
                answer = await client.post(f"/gradio_api/{path}", content=b"0" * n_mib * 2**20)
                statuses.append(answer.status_code)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send, 3)
                while not inside.is_set():
                    await anyio.sleep(0.01)
                await send(3)
                goes_on.set()
            await send(3)
            await send(5, "queue/join")

    with ThreadPoolExecutor(1) as thread:  # in this one the browser's loop may run
        thread.submit(anyio.run, send_all).result()
    assert statuses == [413, 200, 200, 200]


def test_models_that_visitors_saved_count_and_a_server_of_ones_own_refuses_nothing(visitors, shared, isvd, monkeypatch):
    _, session = visitors()
    monkeypatch.setenv(held.DISK, str(1e-6))
    held.check_disk()
    session.store().save(isvd, "line")
    assert held.on_disk() > isvd.model_mib * 2**20
    with pytest.raises(OptionError, match="may take 1e-06 GiB"):
        held.check_disk()
    monkeypatch.setenv("ADMODELS_SHARED", "0")
    held.check_disk()


def test_other_visitors_models_in_memory_are_bounded(visitors, shared, isvd, copied, monkeypatch):
    (page, other), (_, newcomer) = visitors(), visitors()
    monkeypatch.setenv(held.MODELS, str(1.5 * isvd.model_mib / 2**10))
    other.use(Current(isvd, "not saved"))
    held.check_memory(newcomer)
    third_page, third = visitors()
    third.use(Current(isvd, "the same"))  # of several visitors, once
    held.check_memory(newcomer)
    third.use(Current(isvd.with_threshold(threshold=1.0), "the same, judged otherwise"))
    held.check_memory(newcomer)
    third.use(Current(copied(), "one more"))
    with pytest.raises(OptionError, match=r"Nothing was changed\. Try again later"):
        held.check_memory(newcomer)
    held.check_memory(third)  # whose own model would make room
    third.use(Current(copied(), "kept", is_kept=True))
    with pytest.raises(OptionError):
        held.check_memory(newcomer)
    visitors.sessions.close(third_page)  # there is nothing to lose, so this one makes room
    held.check_memory(newcomer)
    monkeypatch.setenv(held.MODELS, str(0.1 * isvd.model_mib / 2**10))
    visitors.sessions.close(page)
    with pytest.raises(OptionError):
        held.check_memory(newcomer)
    assert other.current is not None
    monkeypatch.setenv("ADMODELS_SHARED", "0")
    held.check_memory(newcomer)


def test_downloaded_models_make_room_for_others_and_those_in_use_stay(visitors, shared, isvd, monkeypatch):
    HUB.clear()
    sessions = visitors.sessions
    monkeypatch.setattr("admodels.models.downloads.RECENT_SECONDS", 0)
    keep_within(0)
    commits = {}
    for name in ("one", "two", "three"):
        commits[name] = admodels.push(isvd, f"owner/{name}", private=False, token="hf_owner").reference.revision

    def cached():
        return {each.commit_hash for repo in scan_cache_dir().repos for each in repo.revisions} & {*commits.values()}

    _, session = visitors()
    session.use(sessions.pulled("owner/one", False))
    monkeypatch.setenv(LIMIT, str(1.5 * keep_within(float("inf")) / 2**30))
    sessions.pulled("owner/two", False)
    assert cached() == {commits["one"], commits["two"]}
    sessions.pulled("owner/three", False)
    assert cached() == {commits["one"], commits["three"]}  # the first is in use
    monkeypatch.setenv(LIMIT, "1e-9")
    with pytest.raises(OptionError, match=r"that visitors use take .* may take 1e-09 GiB. Nothing was changed"):
        sessions.pulled("owner/two", False)
    assert cached() == {commits["one"]}
    monkeypatch.setenv("ADMODELS_SHARED", "0")
    sessions.pulled("owner/two", False)
    assert cached() == {commits["one"], commits["two"]}

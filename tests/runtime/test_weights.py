"""Backbones' weights: downloaded once, checked, within a time limit, and without holding up those who need none."""

import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torchvision

import admodels
from admodels.pictures.images import inspect_set
from admodels.runtime import backbone_specs, backbone_weights, backbones
from admodels.runtime.backbones import get_backbone
from admodels.runtime.shared import Shared
from admodels.runtime.weights_download import download as download_within
from tests.conftest import SMALL
from tests.runtime.lively import with_lively_norms
from tests.runtime.weights_server import WeightsServer

CPU = torch.device("cpu")
CONTENT = bytes(range(256)) * 4096
NAME = f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


def stall_seconds(way):
    """A short limit only where it is to be met: a busy machine stalls too."""
    return 0.5 if way == "stalled" else 60.0


def download(url, folder, *, stall_seconds=60.0, minutes=1.0):
    return download_within(url, folder, stall_seconds=stall_seconds, minutes=minutes)


@pytest.fixture(scope="module")
def resnet():
    return with_lively_norms(torchvision.models.resnet18())


@pytest.fixture
def server():
    with WeightsServer(CONTENT) as running:
        yield running


@pytest.fixture
def published(resnet, tmp_path, monkeypatch):
    """A server that has weights for resnet18, and a machine that has none."""
    buffer = io.BytesIO()
    torch.save(resnet.state_dict(), buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:8]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(backbones, "_loaded", Shared(n_kept=4))
    with WeightsServer(buffer.getvalue()) as running:
        spec = replace(backbone_specs.KNOWN_BACKBONES["resnet18"], source=f"{running.url}/resnet18-{digest}.pth")
        monkeypatch.setitem(backbone_specs.KNOWN_BACKBONES, "resnet18", spec)
        yield running


def test_a_file_is_fetched_once(server, tmp_path):
    path = download(f"{server.url}/{NAME}", tmp_path / "new")
    assert path.read_bytes() == CONTENT
    assert download(f"{server.url}/{NAME}", tmp_path / "new") == path
    assert server.asked == [f"/{NAME}"]


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("stalled", "no data received for 0.5 seconds"),
        ("cut", "bytes received"),
        ("other", "SHA-256 begins with"),
        ("missing", "404"),
    ],
)
def test_a_bad_download_says_why_leaves_nothing_and_can_be_tried_again(server, tmp_path, way, said):
    server.way = way
    with pytest.raises(OSError, match=said):
        download(f"{server.url}/{NAME}", tmp_path, stall_seconds=stall_seconds(way))
    assert list(tmp_path.iterdir()) == []
    server.way = "whole"
    assert download(f"{server.url}/{NAME}", tmp_path).read_bytes() == CONTENT


def test_a_download_that_never_stalls_ends_in_time_too(server, tmp_path):
    with pytest.raises(OSError, match="MiB received in 0 minutes"):
        download(f"{server.url}/{NAME}", tmp_path, minutes=0)
    assert list(tmp_path.iterdir()) == []


def test_nobody_there(tmp_path):
    with WeightsServer(b"") as gone:
        pass
    with pytest.raises(OSError, match="refused"):
        download(f"{gone.url}/{NAME}", tmp_path)


@pytest.mark.parametrize("way", ["stalled", "cut", "other", "missing"])
def test_a_failed_download_says_what_from_where_and_what_works_offline(published, tmp_path, monkeypatch, way):
    published.way = way
    with monkeypatch.context() as patch:
        patch.setattr(backbone_weights, "STALL_SECONDS", stall_seconds(way))
        with pytest.raises(admodels.WeightsError) as caught:
            get_backbone("resnet18", CPU)
    for part in (
        "resnet18",
        published.url,
        str(tmp_path),
        "put the file there by hand",
        "weights=FILE",
        "efficientnet_lite0",
    ):
        assert part in str(caught.value)
    published.way = "whole"
    assert get_backbone("resnet18", CPU, "float32").name == "resnet18"


def test_a_damaged_file_is_named_and_not_used(published):
    get_backbone("resnet18", CPU, "float32")
    (path,) = backbone_weights.weights_folder().iterdir()
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(admodels.WeightsError, match=r"resnet18-\w+\.pth are damaged .* Delete that file"):
        get_backbone("resnet18", CPU, "bfloat16")


def test_many_threads_share_one_download_and_one_backbone(published):
    ways = [("resnet18", CPU, precision) for precision in ("float32", "bfloat16")] * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda way: get_backbone(*way), ways))
    assert len(published.asked) == 1
    assert len({id(backbone) for backbone in found}) == 2


def test_threads_that_wait_for_a_failed_download_are_told_too(published, monkeypatch):
    monkeypatch.setattr(backbone_weights, "STALL_SECONDS", stall_seconds("stalled"))
    published.way = "stalled"
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(get_backbone, "resnet18", CPU, "float32") for _ in range(4)]
        errors = [future.exception() for future in waiting]
    assert all(isinstance(error, admodels.WeightsError) for error in errors)
    assert len({id(error) for error in errors}) == 4


def test_who_has_a_backbone_goes_on_while_another_is_downloaded(published, monkeypatch, normals):
    monkeypatch.setattr(backbone_weights, "STALL_SECONDS", 600.0)
    published.way = "stalled"
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(get_backbone, "resnet18", CPU, "float32")
        assert published.begun.wait(60)
        detector = admodels.create("padim_isvd", device="cpu", **SMALL["padim_isvd"])
        quick = pool.submit(lambda: detector.fit(normals[:8]).predict(normals[0]).score)
        try:
            assert quick.result(60) > 0
            assert not slow.done()
        finally:
            published.release.set()
        assert slow.result(60).name == "resnet18"


@pytest.mark.parametrize("method", ["fapm", "padim", "padim_isvd", "patchcore", "tiled"])
def test_an_estimate_downloads_nothing_and_says_what_a_fit_will(published, normals, method):
    options = SMALL[method] | ({"member.backbone": "resnet18"} if method == "tiled" else {"backbone": "resnet18"})
    detector = admodels.create(method, device="cpu", **options)
    images = inspect_set(normals[:8])
    before = detector.estimate(images)
    assert published.asked == []
    assert before.download_mib == pytest.approx(44.6, abs=0.1)
    assert "resnet18 are not on this machine yet: about 45 MiB" in before.notice
    assert before.seconds > 0
    detector.fit(images)
    assert len(published.asked) == 1
    after = detector.estimate(images)
    assert (after.download_mib, after.notice) == (0.0, None)
    assert after.model_mib == before.model_mib


def test_what_is_shared_is_made_once_and_the_oldest_is_forgotten():
    made = []
    shared = Shared(n_kept=2)

    def get(key):
        return shared.get(key, lambda: made.append(key) or key.upper())

    assert [get(key) for key in "abab"] == ["A", "B", "A", "B"]
    assert get("a") + get("c") + get("a") == "ACA"
    assert made == ["a", "b", "c"]
    get("b")
    assert made == ["a", "b", "c", "b"]


def test_another_threads_interrupt_is_not_this_ones():
    shared, began, go_on = Shared(n_kept=1), threading.Event(), threading.Event()

    def interrupted():
        began.set()
        go_on.wait()
        raise KeyboardInterrupt

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(shared.get, "x", interrupted)
        began.wait()
        second = pool.submit(shared.get, "x", lambda: "made")
        go_on.set()
        assert isinstance(first.exception(), KeyboardInterrupt)
        assert second.result() == "made"

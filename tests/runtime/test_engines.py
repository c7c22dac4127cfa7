"""What runs a network: OpenVINO where it is installed and gives the same maps, else PyTorch."""

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import admodels
from admodels.errors import OptionError
from admodels.runtime import Shared, backbones, openvino_engine
from admodels.runtime.backbones import get_backbone
from admodels.runtime.device import resolve_precision
from admodels.runtime.engine_choice import asked_engine, engine_for, engine_title
from admodels.runtime.engines import TORCH_TITLE, TorchEngine, chunk_sizes
from admodels.runtime.feature_networks import Stages
from admodels.runtime.networks import build_network
from admodels.runtime.normalising import Normalisation
from admodels.runtime.openvino_engine import OpenVinoEngine

CPU = torch.device("cpu")
NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
needs_openvino = pytest.mark.skipif(not openvino_engine.is_installed(), reason="OpenVINO is not installed")


@pytest.fixture(autouse=True)
def nothing_asked_for(monkeypatch):
    """Whatever the whole run is started with."""
    monkeypatch.delenv("ADMODELS_ENGINE", raising=False)


def pictures(n, height, width):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8))


def both(name, dtype=torch.float32, is_kept=False):
    """The same network by OpenVINO and by PyTorch in float32."""
    networks = [build_network(name, pretrained=False) for _ in range(2)]
    any_size = isinstance(networks[0], Stages)
    fast = OpenVinoEngine(networks[0], NORMALISATION, dtype, takes_any_size=any_size, is_kept=is_kept)
    return fast, TorchEngine(networks[1], NORMALISATION, CPU, torch.float32)


def assert_alike(found, expected, tolerance=1e-3):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == torch.float32
        assert a.is_contiguous(memory_format=torch.channels_last)
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@needs_openvino
@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "efficientnet_b0", "test_vit", "test_convnext"])
def test_both_engines_give_the_same_maps_of_any_shape_and_number(name, caplog):
    fast, plain = both(name)
    for shape in ((1, 64, 64), (9, 64, 96), (3, 130, 75), (1, 200, 64)):
        assert_alike(fast(pictures(*shape)), plain(pictures(*shape)))
    assert not caplog.records
    assert fast.title == openvino_engine.title()


@needs_openvino
def test_bfloat16_is_openvinos_only_where_it_is_multiplied():
    network = build_network("efficientnet_lite0", pretrained=False)
    asked = {"asked": "auto", "takes_any_size": True, "is_kept": False}
    engine = engine_for(network, NORMALISATION, CPU, torch.bfloat16, **asked)
    if openvino_engine.multiplies_bfloat16():
        fast, plain = both("efficientnet_lite0", torch.bfloat16)
        assert_alike(fast(pictures(2, 96, 64)), plain(pictures(2, 96, 64)), 0.1)
        assert isinstance(engine, OpenVinoEngine)
    else:
        assert isinstance(engine, TorchEngine)


@needs_openvino
def test_threads_get_the_maps_of_their_own_pictures():
    fast, _ = both("efficientnet_lite0")
    batches = [pictures(n, 64, 64).flip(0) + n for n in range(1, 6)] * 4
    expected = [fast(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(fast, batches), expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@needs_openvino
@pytest.mark.parametrize("way", ["other maps", "not a number", "an error"])
def test_where_it_does_not_give_the_same_pytorch_steps_in_and_the_log_says_so(way, monkeypatch, caplog):
    fast, plain = both("resnet18")
    convert = openvino_engine._converted

    def converted(network, normalisation, size):
        if way == "an error":
            raise RuntimeError("no such layer")
        other = build_network("resnet18", pretrained=False)
        with torch.no_grad():
            next(other.parameters()).mul_(1.01 if way == "other maps" else float("nan"))
        return convert(other, normalisation, size)

    monkeypatch.setattr(openvino_engine, "_converted", converted)
    with caplog.at_level(logging.WARNING):
        found = fast(pictures(2, 64, 96))
    assert_alike(found, plain(pictures(2, 64, 96)))
    assert "PyTorch runs a network in place of OpenVINO" in caplog.text
    assert fast.title == TORCH_TITLE


@needs_openvino
def test_what_was_made_of_a_network_is_kept_and_made_again_if_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("ADMODELS_HOME", str(tmp_path))
    convert, made = openvino_engine._converted, []
    monkeypatch.setattr(openvino_engine, "_converted", lambda *what: made.append(1) or convert(*what))

    def run():
        fast, plain = both("efficientnet_lite0", is_kept=True)
        assert_alike(fast(pictures(1, 64, 64)), plain(pictures(1, 64, 64)))

    run()
    run()
    assert len(made) == 1
    [kept] = (tmp_path / "engines").iterdir()
    assert {path.name for path in kept.iterdir()} == {"network.xml", "network.bin"}
    (kept / "network.xml").write_text("<net", encoding="utf-8")
    run()
    run()
    assert len(made) == 2
    weights = kept / "network.bin"
    weights.write_bytes(bytes(weights.stat().st_size))
    run()  # of other weights: compared with PyTorch, and not used


@needs_openvino
def test_a_folder_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("ADMODELS_HOME", str(tmp_path / "file"))
    fast, plain = both("efficientnet_lite0", is_kept=True)
    assert_alike(fast(pictures(1, 64, 64)), plain(pictures(1, 64, 64)))
    assert fast.title == openvino_engine.title()


@needs_openvino
def test_several_processes_keep_it_at_the_same_time(tmp_path):
    code = (
        "import torch; from admodels.runtime.backbones import get_backbone;"
        "b = get_backbone('efficientnet_lite0', torch.device('cpu'), 'float32');"
        "print(b.features(torch.full((1, 64, 64, 3), 9, dtype=torch.uint8))[2].sum().item(), b.engine.title)"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"ADMODELS_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        for _ in range(3)
    ]
    said = {process.communicate()[0] for process in running}
    assert len(said) == 1
    assert openvino_engine.title() in said.pop()
    [kept] = (tmp_path / "engines").iterdir()
    assert "partial" not in kept.name


def test_without_the_package_pytorch_is_the_engine(monkeypatch, normals):
    monkeypatch.setattr(openvino_engine, "is_installed", lambda: False)
    monkeypatch.setattr(backbones, "_loaded", Shared(n_kept=1))
    detector = admodels.create("padim", device="cpu", image_size=64, n_features=20).fit(normals)
    assert detector.engine_title == engine_title(CPU, torch.float32) == TORCH_TITLE
    monkeypatch.setenv("ADMODELS_ENGINE", "openvino")
    with pytest.raises(OptionError, match="pip install openvino"):
        asked_engine()


def test_an_unknown_engine_is_refused_with_those_there_are(monkeypatch, normals):
    monkeypatch.setenv("ADMODELS_ENGINE", "tensorrt")
    with pytest.raises(OptionError, match="'tensorrt'; expected one of auto, torch, openvino"):
        admodels.create("padim", device="cpu", image_size=64, n_features=20).fit(normals)


def test_the_engine_that_is_asked_for_runs_and_is_named(monkeypatch):
    for asked, title in (("torch", TORCH_TITLE), ("auto", engine_title(CPU, torch.float32))):
        monkeypatch.setenv("ADMODELS_ENGINE", asked)
        assert get_backbone("efficientnet_lite0", CPU, "float32").engine.title == title


@needs_openvino
def test_a_model_saved_with_one_engine_is_the_same_with_another(monkeypatch, normals, specks):
    monkeypatch.setenv("ADMODELS_ENGINE", "openvino")
    detector = admodels.create("fapm", device="cpu", image_size=64, grid=3, precision="float32").fit(normals)
    admodels.save(detector, "local:engines", overwrite=True)
    fast = [detector.predict(item.path) for item in specks.test]
    monkeypatch.setenv("ADMODELS_ENGINE", "torch")
    loaded = admodels.load("local:engines", device="cpu")
    assert loaded.engine_title == TORCH_TITLE
    for a, item in zip(fast, specks.test, strict=True):
        b = loaded.predict(item.path)
        assert b.score == pytest.approx(a.score, rel=1e-3)
        assert b.is_anomalous == a.is_anomalous


def test_bfloat16_can_be_masked(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert resolve_precision("auto", CPU) == torch.bfloat16
    monkeypatch.setenv("ADMODELS_BFLOAT16", "0")
    assert resolve_precision("auto", CPU) == torch.float32


def test_chunks_are_about_equal():
    assert chunk_sizes(9, 256 * 256) == [3, 3, 3]
    assert chunk_sizes(8, 256 * 256) == [4, 4]
    assert chunk_sizes(2, 2048 * 2048) == [1, 1]
    assert chunk_sizes(1, 64) == [1]

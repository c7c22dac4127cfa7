"""`benchmark gpu`, on the CPU: every part gives figures, and a run that was cut off goes on."""

import json

import numpy as np
import pytest
import torch

import admodels
from admodels.errors import StoreError
from admodels.evaluation import gpu_benchmark, timing
from admodels.evaluation.gpu_benchmark import GpuBenchmark, Size


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """As few repetitions as can be: what they show is not looked at here."""
    monkeypatch.setattr(timing, "_repeat", lambda measure_once, *_: np.array([measure_once()]))
    monkeypatch.setattr(Size, "for_device", classmethod(lambda cls, device: cls(8, (2,), ("efficientnet_lite0",), 1)))


def test_every_part_gives_figures_and_the_command_prints_them(tmp_path, run):
    file = tmp_path / "figures.json"
    said = run("benchmark", "gpu", "--out", file, "--device", "cpu")
    found = json.loads(file.read_text(encoding="utf-8"))
    assert [name for name, part in found.items() if "error" in part] == []
    assert found["environment"]["versions"]["torch"] == torch.__version__
    assert "RTX A6000" in found["environment"]["published"]["efficientad small"]
    variants = found["backbone efficientnet_lite0"]["pictures_per_second"]
    assert all(isinstance(value, float) for row in variants.values() for value in row.values())
    methods = [name for name in found if name.startswith("method ")]
    assert len([name for name in methods if "padim_isvd" in name]) == 5
    for name in methods:
        assert found[name]["fit_pictures_per_second"] > 0
        for protocol in ("network", "end_to_end"):
            assert found[name]["predict"]["batch 2"][protocol]["p50_ms"] > 0
        assert name.removeprefix("method ") in said
    assert found["training efficientad small"]["hours_for_70000"] > 0


def test_a_run_goes_on_where_it_was_cut_off_and_tries_again_what_failed(tmp_path, monkeypatch):
    file, measured = tmp_path / "figures.json", []

    def parts(self):
        def part(name, fails):
            measured.append(name)
            if fails:
                raise RuntimeError("no memory")
            return {"figure": 1}

        return {"environment": self._environment} | {
            name: lambda name=name: part(name, name == "second" and "second" not in measured)
            for name in ("first", "second", "third")
        }

    monkeypatch.setattr(GpuBenchmark, "parts", parts)
    begun = GpuBenchmark(admodels.DETECTORS, file, device="cpu")
    steps = begun.run(60)
    assert [next(steps)[0] for _ in range(3)] == ["environment", "first", "second"]
    assert "no memory" in json.loads(file.read_text(encoding="utf-8"))["second"]["error"]
    again = GpuBenchmark(admodels.DETECTORS, file, device="cpu")
    assert again.missing == ["second", "third"]
    assert [name for name, _ in again.run(60)] == ["second", "third"]
    assert again.missing == []
    assert measured == ["first", "second", "second", "third"]


def test_no_part_is_begun_after_its_time(tmp_path):
    running = GpuBenchmark(admodels.DETECTORS, tmp_path / "figures.json", device="cpu")
    assert list(running.run(-1)) == []
    assert running.missing == list(running.parts())


def test_figures_of_another_machine_are_not_mixed_in(tmp_path, monkeypatch):
    file = tmp_path / "figures.json"
    file.write_text(json.dumps({"environment": {"device": "CUDA (NVIDIA L4)"}}), encoding="utf-8")
    with pytest.raises(StoreError, match="holds figures of CUDA"):
        GpuBenchmark(admodels.DETECTORS, file, device="cpu")
    for content in ("", "[]", '{"a": 1}'):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(StoreError, match="no figures of this benchmark"):
            GpuBenchmark(admodels.DETECTORS, file, device="cpu")
    monkeypatch.setattr(gpu_benchmark, "describe_device", lambda device: "CUDA (NVIDIA L4)")
    file.write_text(json.dumps({"environment": {"device": "CUDA (NVIDIA L4)"}}), encoding="utf-8")
    assert GpuBenchmark(admodels.DETECTORS, file, device="cpu").found

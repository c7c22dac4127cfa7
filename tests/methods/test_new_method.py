"""A new method needs one file and one line: here a toy, whose file is this test and whose line is `monkeypatch`."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

import admodels
from admodels.core import Cost, Layout, Learner, Method, Scored, State
from admodels.core.method import DetectorConfig, layout_bytes
from admodels.deploy.exporting import write_onnx
from admodels.deploy.onnx_file import read
from admodels.deploy.runtimes import check_probe, runtimes_here
from admodels.options import option
from admodels.pictures import WorkingShape, inspect_set
from tests.conftest import DEVICE


@dataclass(frozen=True)
class ToyConfig(DetectorConfig):
    """Options of the toy."""

    power: float = option(1.0, "Of the difference from the mean picture.", minimum=0.1, maximum=4.0)


class ToyLearner(Learner):
    """The mean of all pictures."""

    stage = "computing the components"

    def __init__(self, before: State | None) -> None:
        self.total = before["mean"] * before["n"] if before else 0.0
        self.n = int(before["n"]) if before else 0

    def add(self, encoded: list[Tensor]) -> None:
        self.total = self.total + encoded[0].sum(0)
        self.n += len(encoded[0])

    def finish(self, on_step=None) -> State:
        return {"mean": self.total / self.n, "n": torch.tensor(self.n)}


class Toy(Method):
    """How far each pixel is from its mean."""

    key, title, summary, Config = "toy", "Toy", "Remembers the mean picture.", ToyConfig
    network_name = "none"

    def encode(self, batch: Tensor) -> list[Tensor]:
        return [batch.float().mean(-1)]

    def encoded_bytes(self, shape: WorkingShape) -> int:
        return 4 * shape.cropped[0] * shape.cropped[1]

    def learner(self, shape: WorkingShape, n_images: int, state: State | None = None) -> Learner:
        return ToyLearner(state)

    def scorer(self, state: State, shape: WorkingShape):
        def score(encoded: list[Tensor]) -> Scored:
            maps = (encoded[0] - state["mean"]).abs() ** self.config.power
            return Scored(maps.amax((1, 2)), maps)

        return score

    def layout(self, shape: WorkingShape, n_images: int) -> Layout:
        return {"mean": (shape.cropped, torch.float32), "n": ((), torch.int64)}

    def cost(self, shape: WorkingShape, n_images: int) -> Cost:
        size = layout_bytes(self.layout(shape, n_images))
        return Cost(0.0, size, size)


@pytest.fixture
def toy(monkeypatch):
    """The line in the registry; the list of all detectors is made of it when the library is imported."""
    monkeypatch.setitem(admodels.METHODS, "toy", Toy)
    monkeypatch.setitem(admodels.DETECTORS, "toy", Toy)


def test_a_new_method_is_fitted_estimated_saved_tiled_and_exported(toy, normals, specks, run, tmp_path):
    detector = admodels.create("toy", device=DEVICE, image_size=64, power="2").fit(normals)
    assert detector.estimate(inspect_set(normals)).n_learned == len(normals)
    path = specks.test[0].path
    found = detector.predict(path)
    pixels = detector.working_shape_.prepare(detector.read(path).pixels).astype(np.float32).mean(2)
    expected = np.square(pixels - detector.state_["mean"].numpy()).max()
    assert found.score == pytest.approx(expected, rel=1e-4)
    admodels.save(detector, "a-toy")
    assert admodels.load("a-toy", device=DEVICE).update(normals[:6]).fit_report_.n_learned > len(normals)
    assert "power" in run("options", "toy")
    admodels.delete("a-toy")
    tiles = {"image_size": 64, "tile_size": 32, "stride": 32, "method": "toy", "member.power": "2"}
    check = check_probe(read(write_onnx(detector, tmp_path / "toy.onnx").path), runtimes_here(tmp_path / "toy.onnx"))
    assert all(result.is_close for result in check)
    ensemble = admodels.create("tiled", device=DEVICE, **tiles).fit(normals)
    assert ensemble.predict(path).tile_scores.shape == (2, 2)
    with pytest.raises(admodels.OptionError, match="power is 9"):
        admodels.create("toy", power=9)

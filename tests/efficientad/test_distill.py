"""A teacher is distilled, resumed and written; its targets lie where its patches do."""

import dataclasses
import inspect
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import admodels
from admodels.efficientad import distill as module
from admodels.efficientad.distill import Recipe, distill
from admodels.efficientad.networks import FIRST_MIDDLE, STRIDE, output_size
from admodels.efficientad.teachers import teacher_weights
from admodels.runtime.backbones import get_backbone


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("anything")
    rng = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (40 + i, 60, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def quick(monkeypatch):
    """A run of seconds."""
    for name, value in (("CROP_SIDE", 64), ("N_HELD_OUT", 4), ("N_STATISTICS", 8), ("LOG_EVERY", 2)):
        monkeypatch.setattr(module, name, value)
    return Recipe(layers=(0, 1), minutes=0.05, batch_size=2)


def test_a_teacher_is_made_with_its_recipe_and_log(pictures, quick, tmp_path):
    lines = []
    out = distill(pictures, tmp_path / "teacher.safetensors", quick, device="cpu", on_log=lines.append)
    weights = teacher_weights(str(out), "small")
    assert weights["conv4.weight"].shape == (64, 256, 4, 4)
    with safe_open(out, "pt") as opened:
        about = opened.metadata()
        assert opened.get_tensor("conv1.weight").dtype == torch.float16
    assert json.loads(about["recipe"])["layers"] == [0, 1]
    assert json.loads(about["result"])["steps"] == lines[-1].step > 0
    logged = [json.loads(line) for line in out.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]
    assert logged == [dataclasses.asdict(line) for line in lines]
    assert not out.with_suffix(".part").exists()


def test_a_stopped_run_goes_on(pictures, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    out = tmp_path / "teacher.safetensors"

    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(pictures, out, dataclasses.replace(quick, minutes=10), device="cpu", on_log=stop)
    assert not out.exists()
    part = torch.load(out.with_suffix(".part"), weights_only=True)
    with pytest.raises(admodels.DataError, match="another recipe"):
        distill(pictures, out, quick, device="cpu")
    part["recipe"]["minutes"] = quick.minutes
    part["seconds"] = 60 * quick.minutes - 2
    torch.save(part, out.with_suffix(".part"))
    lines = []
    distill(pictures, out, quick, device="cpu", on_log=lines.append)
    assert lines[0].step > part["step"]
    assert lines[-1].seconds >= 60 * quick.minutes


@pytest.mark.parametrize("scale", [1, 2])
def test_targets_are_the_backbones_features_at_the_middles_of_the_patches(scale):
    # Along x the picture grows brighter; wherever the features are sampled, they must be those of that place.
    side = 128
    ramp = np.linspace(0, 255, scale * side).round().astype(np.uint8)
    crops = torch.from_numpy(np.broadcast_to(ramp[None, None, :, None], (1, scale * side, scale * side, 3)).copy())
    recipe = Recipe(layers=(0,), scale=scale)
    backbone = get_backbone(recipe.backbone, torch.device("cpu"))
    sampled = module._sampled(backbone, crops, recipe)[0]
    n = output_size((side, side))[0]
    assert sampled.shape[1:] == (n, n)
    features = torch.nn.functional.avg_pool2d(backbone.features(crops)[0], 3, 1, 1, count_include_pad=False)[0]
    places = (torch.arange(n) * STRIDE + FIRST_MIDDLE) * scale / 4 - 0.5  # in the map of stride 4
    left = places.floor().long()
    part = (places - left)[None]
    row = features[:, 15 * scale]
    expected = row[:, left] * (1 - part) + row[:, left + 1] * part
    assert torch.allclose(sampled[:, 6], expected, atol=2e-2 * float(features.abs().max()))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"size": "large"}, "small, medium"),
        ({"backbone": "vgg"}, "efficientnet_lite0"),
        ({"layers": (7,)}, "positions from 0 to 2"),
        ({"minutes": 0}, "more than 0"),
        ({"scale": 3}, "one of 1, 2"),
    ],
)
def test_wrong_recipes_are_refused(pictures, quick, tmp_path, changed, said):
    with pytest.raises(admodels.OptionError, match=said):
        distill(pictures, tmp_path / "t.safetensors", dataclasses.replace(quick, **changed), device="cpu")


def test_too_few_pictures_are_refused(pictures, tmp_path):
    with pytest.raises(admodels.OptionError, match="24 pictures found; at least 72"):
        distill(pictures, tmp_path / "t.safetensors", Recipe(), device="cpu")


def test_the_command_lines_defaults_are_the_recipes():
    from admodels.cli import distill as command_line

    defaults = {
        name: parameter.default for name, parameter in inspect.signature(command_line.distill).parameters.items()
    }
    recipe = dataclasses.asdict(Recipe()) | {"layers": ",".join(map(str, Recipe().layers))}
    shared = defaults.keys() & recipe.keys()
    assert shared == {"backbone", "layers", "size", "minutes", "batch_size", "scale", "seed"}
    assert {name: defaults[name] for name in shared} == {name: recipe[name] for name in shared}

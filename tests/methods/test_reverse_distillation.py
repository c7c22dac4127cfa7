"""Reverse Distillation's equations and the sizes of its maps."""

import pytest
import torch

import admodels
from admodels.methods.reverse_distillation import Block, Decoder


def decoder(channels, n_blocks=1):
    made = Decoder(channels, n_blocks)
    with torch.no_grad():
        made.initialise(torch.Generator().manual_seed(0))
    return made.eval()


def maps_of(channels, size, n=3):
    generator, found = torch.Generator().manual_seed(1), []
    for c in channels:
        found.append(torch.randn(n, c, *size, generator=generator))
        size = [-(-side // 2) for side in size]
    return found


@pytest.mark.parametrize("size", [(16, 16), (13, 18), (4, 5), (1, 3)])
@pytest.mark.parametrize("channels", [[8], [6, 8], [4, 6, 8]])
def test_the_decoder_reproduces_maps_of_every_size(channels, size):
    maps = maps_of(channels, size)
    assert [x.shape for x in decoder(channels)(maps)] == [m.shape for m in maps]


def test_the_loss_takes_each_map_as_one_vector_and_the_score_each_position():
    channels = [4, 6, 8]
    made, maps = decoder(channels), maps_of(channels, (8, 12))
    loss = 0.0
    for m, x in zip(maps, made(maps), strict=True):
        a, b = m.flatten(1), x.flatten(1)
        loss += (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean()
    torch.testing.assert_close(made.loss(maps), loss)
    for found, m, x in zip(made.anomaly_maps(maps), maps, made(maps), strict=True):
        for i, j in ((0, 0), (1, 2)):
            a, b = m[:, :, i, j], x[:, :, i, j]
            torch.testing.assert_close(found[:, i, j], 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)))


@pytest.mark.parametrize(("way", "factor"), [("down", 0.5), ("", 1), ("up", 2)])
def test_a_block_changes_the_size_as_it_says(way, factor):
    assert Block(4, 6 if way else 4, way)(torch.ones(2, 4, 8, 12)).shape[2:] == (8 * factor, 12 * factor)


@pytest.mark.parametrize("layers", ["4,16", "16,4"])
def test_layers_that_leave_a_stride_out_are_refused(layers):
    with pytest.raises(admodels.OptionError, match="each is twice the one before"):
        admodels.create("reverse_distillation", layers=layers)

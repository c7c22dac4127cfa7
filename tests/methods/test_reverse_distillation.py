"""Reverse Distillation's equations and the sizes of its maps."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import admodels
from admodels.methods.reverse_distillation import MAX_OVERLAID, Block, Decoder, overlaid


def decoder(channels, n_blocks=1, share=0.0):
    made = Decoder(channels, n_blocks, share)
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


def test_parts_are_overlaid_at_one_place_of_all_layers_by_another_picture():
    # Each number says which picture it is from, and where it was there.
    n, rng = 6, np.random.default_rng(0)
    column = torch.arange(24.0).expand(n, 1, 16, 24) / 100
    fine = torch.arange(n)[:, None, None, None] + column
    coarse = torch.arange(n, dtype=torch.float32)[:, None, None, None].expand(n, 3, 8, 12)
    share_of_area, n_moved, n_changed, n_there = [], 0, 0, 0
    for _ in range(50):
        found_fine, found_coarse = overlaid([fine, coarse], 1.0, rng)
        changed_fine, changed_coarse = (found_fine != fine)[:, 0], (found_coarse != coarse)[:, 0]
        share_of_area += changed_coarse.flatten(1).double().mean(1).tolist()
        for i in range(n):
            sources = {*found_coarse[i][:, changed_coarse[i]].tolist()[0]}
            # A picture can be overlaid by itself, moved, which only the fine map shows.
            assert len(sources | {*found_fine[i, 0][changed_fine[i]].floor().tolist()} - {i}) <= 1
            if not sources:
                continue
            n_moved += int(not torch.equal(found_fine[i, 0][changed_fine[i]] % 1, fine[i, 0][changed_fine[i]] % 1))
            grown = F.max_pool2d(changed_fine[i][None].float(), 5, 1, 2)[0].bool()
            up = changed_coarse[i].repeat_interleave(2, 0).repeat_interleave(2, 1)
            n_changed, n_there = n_changed + int(up.sum()), n_there + int((up & grown).sum())
    assert n_there > 0.98 * n_changed  # the same place, but for the rounding of its edge
    assert 0.1 < np.mean(share_of_area) < MAX_OVERLAID / 2
    assert n_moved > 100


def test_as_many_pictures_are_overlaid_as_asked_for_and_only_in_training():
    n, rng = 1000, np.random.default_rng(0)
    maps = [torch.randn(n, 1, 8, 8)]
    changed = (overlaid(maps, 0.3, rng)[0] != maps[0]).flatten(1).any(1)
    assert changed.double().mean() == pytest.approx(0.3, abs=0.05)
    maps = maps_of([4, 6], (8, 8))
    as_it_is, all_overlaid = decoder([4, 6]), decoder([4, 6], share=1.0)
    torch.testing.assert_close(all_overlaid.loss(maps), as_it_is.loss(maps), rtol=0, atol=0)
    assert not torch.equal(all_overlaid.train().loss(maps), as_it_is.train().loss(maps))


@pytest.mark.parametrize(("way", "factor"), [("down", 0.5), ("", 1), ("up", 2)])
def test_a_block_changes_the_size_as_it_says(way, factor):
    assert Block(4, 6 if way else 4, way)(torch.ones(2, 4, 8, 12)).shape[2:] == (8 * factor, 12 * factor)


@pytest.mark.parametrize("layers", ["4,16", "16,4"])
def test_layers_that_leave_a_stride_out_are_refused(layers):
    with pytest.raises(admodels.OptionError, match="each is twice the one before"):
        admodels.create("reverse_distillation", layers=layers)

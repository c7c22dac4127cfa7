import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from admodels import OptionError
from admodels.methods.feature_maps import concatenate, local_average, parse_layers, realign


@pytest.mark.parametrize(("size", "target", "sigma"), [((7, 5), (56, 40), 4.0), ((4, 9), (64, 70), 2.5)])
def test_realigning_is_upsampling_and_then_blurring(rng, size, target, sigma):
    maps = torch.from_numpy(rng.normal(size=(3, *size)).astype(np.float32))
    large = F.interpolate(maps[:, None], target, mode="bilinear", align_corners=False)[:, 0].numpy()
    expected = np.stack([gaussian_filter(m, sigma) for m in large])
    np.testing.assert_allclose(realign(maps, target, sigma).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("count_padding", [False, True])
def test_local_average_counts_what_is_there_or_zeros_beyond(rng, count_padding):
    m = rng.normal(size=(1, 2, 5, 4)).astype(np.float32)
    found = local_average(torch.from_numpy(m), count_padding).numpy()
    for y in range(5):
        for x in range(4):
            part = m[0, :, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            n = 9 if count_padding else part[0].size
            np.testing.assert_allclose(found[0, :, y, x], part.sum((1, 2)) / n, rtol=1e-5, atol=1e-6)


def test_concatenation_keeps_positions(rng):
    fine, coarse = rng.normal(size=(2, 3, 4, 6)), rng.normal(size=(2, 5, 2, 3))
    x = concatenate([torch.from_numpy(fine), torch.from_numpy(coarse)])
    assert x.shape == (2, 24, 8)
    np.testing.assert_allclose(x[1, 9, :3].numpy(), fine[1, :, 1, 3])
    np.testing.assert_allclose(x[1, 0, 3:].numpy(), coarse[1, :, 0, 0])


def test_layers_are_strides_of_the_backbone():
    assert parse_layers("8,16", "efficientnet_lite0") == (1, 2)
    assert parse_layers(" 16, 4", "efficientnet_lite0") == (0, 2)
    assert parse_layers("16", "efficientnet_b0") == (2, 3)
    for wrong in ("", "2", "8,8", "8;16", "8,x"):
        with pytest.raises(OptionError, match="4,8,16"):
            parse_layers(wrong, "efficientnet_lite0")

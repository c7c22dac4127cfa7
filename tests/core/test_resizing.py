"""A GPU's resize gives the grey levels of the CPU's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from admodels.core import batches
from admodels.core.resizing import MAX_RATIO, is_for_a_gpu, resized
from admodels.pictures.working_shape import WorkingShape
from tests.conftest import DEVICE


def noise(height, width, seed=0):
    """Of black, white and everything between, which is the worst that rounding can meet."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.where(rng.random((height, width, 1)) < 0.3, 255 * (levels > 127).astype(np.uint8), levels)


def by_both(pixels, shape):
    return resized(torch.from_numpy(pixels).to(DEVICE), shape).cpu().numpy(), shape.prepare(pixels)


@given(
    size=st.tuples(st.integers(16, 300), st.integers(16, 300)),
    to=st.tuples(st.integers(32, 160), st.integers(32, 160)),
    cut=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    seed=st.integers(0, 99),
)
def test_it_gives_the_grey_levels_of_the_cpu(size, to, cut, seed):
    shape = WorkingShape(to, tuple(n - c for n, c in zip(to, cut, strict=True)))
    found, expected = by_both(noise(*size, seed), shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(2048, 1500), (1200, 1600), (16 * 64, 16 * 96), (1000, 64), (3000, 33)])
@pytest.mark.parametrize("white", [False, True])
def test_large_and_narrow_pictures_too(size, white):
    shape = WorkingShape((64, 96), (64, 96)) if max(size) < 2000 else WorkingShape((256, 224), (224, 200))
    pixels = np.full((*size, 3), 255, np.uint8) if white else noise(*size)
    found, expected = by_both(pixels, shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1200, 1600), True),
        ((999, 1000), False),  # small
        ((3000, 4000), False),  # large
        ((256 * MAX_RATIO, 1000), True),
        ((256 * MAX_RATIO + 1, 1000), False),  # its sums would be rounded
    ],
)
def test_which_pictures_are_worth_it(size, expected):
    assert is_for_a_gpu(size, WorkingShape((256, 256), (224, 224))) == expected
    assert not is_for_a_gpu((1024, 1024), WorkingShape((1024, 1024), (1024, 1024)))


def test_a_gpu_gets_large_pictures_as_they_are_and_the_same_batches(monkeypatch):
    """A CPU plays the GPU; pictures of both kinds and of several sizes come in one batch."""
    there = torch.device(DEVICE if DEVICE.startswith("cuda") else "cuda")
    given, asked = [noise(1000 + 100 * i, 1001, i) if i % 3 else noise(90, 70, i) for i in range(7)], []

    def on_gpu(pixels, shape):
        asked.append(tuple(pixels.shape))
        return resized(pixels, shape)

    monkeypatch.setattr(batches, "resized", on_gpu)
    if str(there) != DEVICE:
        monkeypatch.setattr(batches, "sent", lambda tensor, device: tensor)
    shape, told = WorkingShape((128, 96), (96, 64)), []
    made = [
        [batch.cpu() for batch in batches.prepared_batches(given, shape, 3, "learning", told.append, device)]
        for device in (torch.device("cpu"), there)
    ]
    assert [len(batch) for batch in made[0]] == [3, 3, 1]
    for expected, found in zip(*made, strict=True):
        assert torch.equal(expected, found)
    assert asked == [pixels.shape for pixels in given if pixels.shape[0] > 90]
    assert [at.done for at in told] == [3, 6, 7] * 2

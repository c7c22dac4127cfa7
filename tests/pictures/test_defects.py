"""Painted defects: where they are, what they cover, and what scaling them does."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from admodels.pictures import defects

SIZES = st.tuples(st.integers(32, 200), st.integers(32, 200))
KINDS = st.sampled_from([defects.scratch, defects.spot])


def by_hand(pixels, layer):
    """Laying over, by its definition."""
    opacity = layer[..., 3:].astype(float) / 255
    return pixels * (1 - opacity) + layer[..., :3] * opacity


@given(SIZES, KINDS, st.integers(0, 2**32 - 1))
def test_a_random_defect_is_small_visible_and_inside(size, kind, seed):
    layer = kind(size, np.random.default_rng(seed))
    assert layer.shape == (*size, 4)
    assert layer.dtype == np.uint8
    top, left, bottom, right = defects.extent(layer)
    assert layer[..., 3].max() >= 30  # a line thinner than a pixel is fainter
    assert max(bottom - top, right - left) <= 0.5 * min(size) + 4
    assert (layer[..., 3] > 0).mean() < 0.15


@given(
    st.tuples(st.integers(16, 2000), st.integers(16, 2000)).filter(lambda size: size[0] * size[1] <= 600_000),
    KINDS,
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 255), min_size=3, max_size=3),
)
@example((16, 16), defects.scratch, 0, [128, 128, 128])
@example((300, 2000), defects.scratch, 1, [255, 255, 255])
@example((2000, 300), defects.scratch, 2, [0, 0, 0])
def test_a_random_defect_stands_out_wholly_inside_whatever_it_lies_on(size, kind, seed, colour):
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal(colour, 10, (*size, 3)), 0, 255).round().astype(np.uint8)
    layer = kind(size, rng, pixels)
    top, left, bottom, right = defects.extent(layer)
    assert 1 <= top < bottom <= size[0] - 1
    assert 1 <= left < right <= size[1] - 1
    assert max(bottom - top, right - left) >= (5 if kind is defects.scratch else 3)
    change = np.abs(defects.lay_over(pixels, layer).mean(axis=2) - pixels.mean(axis=2))
    assert (change >= 40).sum() >= 4, "it can be seen"


def test_the_same_seed_paints_the_same(rng):
    first, again = (defects.scratch((60, 80), np.random.default_rng(3)) for _ in "ab")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, defects.scratch((60, 80), np.random.default_rng(4)))


@given(SIZES, KINDS, st.integers(0, 2**32 - 1))
def test_laying_over_changes_the_defect_only(size, kind, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    layer = kind(size, rng)
    shown = defects.lay_over(pixels, layer)
    assert np.abs(shown - by_hand(pixels, layer)).max() <= 1
    clear = layer[..., 3] == 0
    assert np.array_equal(shown[clear], pixels[clear])


def test_layers_are_put_together_as_one_after_the_other(rng):
    pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    layers = [defects.spot((40, 50), rng), defects.scratch((40, 50), rng)]
    together = defects.lay_over(pixels, defects.together(layers))
    one_by_one = defects.lay_over(defects.lay_over(pixels, layers[0]), layers[1])
    assert np.abs(together.astype(int) - one_by_one).max() <= 2


@given(KINDS, st.integers(0, 2**32 - 1), st.floats(0.1, 1))
def test_a_scaled_defect_is_smaller_and_stays_where_it_is(kind, seed, factor):
    layer = kind((120, 160), np.random.default_rng(seed))
    top, left, bottom, right = defects.extent(layer)
    small = defects.scaled(layer, factor)
    box = defects.extent(small)
    for (start, end), (low, high) in (((box[0], box[2]), (top, bottom)), ((box[1], box[3]), (left, right))):
        assert end - start <= max(1, round((high - low) * factor))
        assert abs((start + end) / 2 - (low + high) / 2) <= 1 + 0.5 * factor * (high - low)
    assert small[..., 3].sum() <= layer[..., 3].sum() * max(factor, 1 / (bottom - top)) * 1.5
    if factor == 1:
        assert np.array_equal(small[..., 3], layer[..., 3])


def test_colours_do_not_fade_when_a_defect_is_scaled():
    layer = np.zeros((20, 20, 4), np.uint8)
    layer[4:16, 4:16] = (200, 10, 10, 255)
    small = defects.scaled(layer, 0.3)
    drawn = small[small[..., 3] > 0]
    assert len(drawn) == 16
    assert np.abs(drawn[:, :3].astype(int) - (200, 10, 10)).max() <= 2


def test_where_nothing_is_painted_there_is_no_extent():
    clear = np.zeros((30, 30, 4), np.uint8)
    assert defects.extent(clear) is None
    assert np.array_equal(defects.scaled(clear, 0.5), clear)
    clear[3:5, 7] = 255
    assert defects.extent(clear) == (3, 7, 5, 8)


@pytest.mark.parametrize("size", [(16, 16), (16, 4000)])
def test_the_smallest_and_the_longest_pictures_get_one_too(size, rng):
    for kind in (defects.scratch, defects.spot):
        assert defects.extent(kind(size, rng)) is not None

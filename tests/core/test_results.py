"""What is said of a picture: its verdict, and the regions that are above the pixel threshold."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from admodels import Prediction, Verdict
from admodels.core import verdict_of

maps = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.floats(0, 9, width=16)
)


def prediction(anomaly_map):
    return Prediction(1.0, anomaly_map, 5.0, 5.0, 0.5, 0.5, (0.0, 10.0))


def regions_by_hand(mask):
    """Sets of connected positions, found by walking from pixel to pixel."""
    left, found = set(zip(*mask.nonzero(), strict=True)), []
    while left:
        region, border = set(), [left.pop()]
        while border:
            y, x = border.pop()
            region.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            border += near
        found.append(region)
    return found


@given(maps)
def test_regions_are_the_connected_parts_of_the_mask(anomaly_map):
    found = prediction(anomaly_map).regions
    expected = []
    for region in regions_by_hand(anomaly_map > 5):
        ys, xs = zip(*region, strict=True)
        peak = float(max(anomaly_map[y, x] for y, x in region))
        expected.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1, len(region), peak))
    assert sorted((r.left, r.top, r.right, r.bottom, r.area, r.peak) for r in found) == sorted(expected)
    assert [r.peak for r in found] == sorted((r.peak for r in found), reverse=True)


def test_a_border_that_was_not_scored_is_in_no_region():
    anomaly_map = np.full((6, 6), 9.0, np.float32)
    anomaly_map[:, :2] = np.nan
    (region,) = prediction(anomaly_map).regions
    assert (region.left, region.right, region.area, region.peak) == (2, 6, 24, 9.0)


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0.001, 1))
def test_the_verdict_follows_threshold_and_p_value(score, threshold, p_value):
    said = verdict_of(score, threshold, p_value)
    assert (said is Verdict.SUSPECTED) == (score > threshold)
    assert (said is Verdict.BORDERLINE) == (score <= threshold and p_value <= 0.05)

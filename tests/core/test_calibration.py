import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from admodels.core.calibration import (
    TAIL_RATIOS,
    Calibration,
    HeldOutScores,
    conformal_threshold,
    n_apart,
    n_needed,
    split_held_out,
)
from admodels.errors import OptionError

scores = st.lists(st.floats(-100, 100), min_size=1, max_size=60)


@given(scores, st.floats(0.001, 0.999))
def test_the_threshold_keeps_the_conformal_count(values, rate):
    threshold = conformal_threshold(values, rate)
    n, above = len(values), sum(v > threshold for v in values)
    assert threshold in values
    # At most rate·(n + 1) of n + 1 exchangeable scores may exceed it.
    assert above <= rate * (n + 1) + 1e-6


@given(scores, st.floats(-200, 200))
def test_the_p_value_is_the_literal_count(values, score):
    calibration = Calibration(tuple(sorted(values)), tuple(sorted(values)), 0.0)
    assert calibration.p_value(score) == (1 + sum(v >= score for v in values)) / (len(values) + 1)
    assert calibration.rarer_than(score) == sum(v < score for v in values) / len(values)


@given(st.floats(1e-4, 0.9))
def test_as_many_normals_as_said_promise_a_rate_and_one_fewer_does_not(rate):
    n = n_needed(rate)
    assert Calibration(tuple(range(n)), (), 0.0, false_alarm_rate=rate).supports_rate or n == 0
    assert n <= 1 or not Calibration(tuple(range(n - 1)), (), 0.0, false_alarm_rate=rate).supports_rate


@given(st.lists(st.floats(10, 11), min_size=8, max_size=40), st.integers(0, 2), st.floats(50, 1e6))
def test_scores_far_above_the_others_stand_apart(values, n, far):
    together = sorted([*values, *[far] * n], reverse=True)
    assert n_apart(together) >= (n if n <= len(together) // 4 - 1 else 0)
    low, high = np.quantile(together, [0.25, 0.75])
    assert n_apart(together) == sum(v > high + 3 * (high - low) for v in together)
    assert n_apart(together[:7]) == 0


def test_scores_of_one_kind_seldom_stand_apart():
    rng = np.random.default_rng(0)
    found = [n_apart(sorted(rng.gamma(9, size=50), reverse=True)) for _ in range(500)]
    assert np.mean(np.array(found) > 0) < 0.1


def test_false_alarms_stay_at_the_rate_on_new_pictures():
    rng, rate, n, alarms = np.random.default_rng(0), 0.1, 49, []
    for _ in range(2000):
        drawn = rng.gamma(2, size=n + 1)
        alarms.append(drawn[-1] > conformal_threshold(drawn[:-1], rate))
    assert abs(np.mean(alarms) - rate) < 0.02


def test_too_few_for_the_rate_is_said_and_the_largest_is_used():
    calibration = Calibration(tuple(range(16)), tuple(range(16)), 0.0, false_alarm_rate=0.01)
    assert not calibration.supports_rate
    assert calibration.threshold == pytest.approx(15, rel=1e-3)
    assert "5.9%" in calibration.statement
    assert "takes 99." in calibration.statement
    enough = Calibration(tuple(range(99)), tuple(range(99)), 0.0, false_alarm_rate=0.01)
    assert enough.supports_rate
    assert enough.threshold == pytest.approx(98, rel=1e-3)


def test_the_scale_puts_the_threshold_in_the_middle():
    calibration = Calibration((1.0, 2.0), (4.0, 6.0), map_median=2.0, false_alarm_rate=0.01)
    assert calibration.scale == (2.0, 10.0)


@given(st.integers(4, 200), st.floats(0.01, 0.5), st.integers(0, 5))
def test_the_split_parts_the_pictures(n, ratio, seed):
    learned, held_out = split_held_out(list(range(n)), ratio, seed)
    assert sorted(learned + held_out) == list(range(n))
    assert len(held_out) == min(max(round(ratio * n), 5), n // 2)
    assert len(learned) >= 2
    assert (learned, held_out) == split_held_out(list(range(n)), ratio, seed)


def test_copies_stay_on_one_side():
    groups = [0, 1, 2, 3, 0, 5, 0, 1]
    for seed in range(20):
        learned, held_out = split_held_out(groups, 0.3, seed)
        assert not {groups[i] for i in learned} & {groups[i] for i in held_out}


@pytest.mark.parametrize("groups", [[], [0], [0, 1, 2], [0, 0, 0, 0, 0]])
def test_too_few_different_pictures_are_refused(groups):
    with pytest.raises(OptionError, match="at least 4 are needed"):
        split_held_out(groups, 0.2, 0)


@given(scores, st.floats(-200, 200))
def test_a_threshold_set_by_hand_counts_what_lies_above_it(values, threshold):
    calibration = Calibration(tuple(sorted(values)), tuple(sorted(values)), 0.0).with_threshold(threshold)
    above = sum(v > threshold for v in values)
    assert calibration.threshold == threshold
    assert calibration.n_above == above
    assert f"{above} of {len(values)}" in calibration.statement
    # As many maps are above the pixels' threshold as pictures above theirs, the lowest one left out.
    assert sum(v > calibration.map_threshold for v in sorted(set(values))) <= above
    by_rate = conformal_threshold(values, 0.2)
    assert 0 <= calibration.with_rate(0.2).threshold - by_rate <= 1.01e-4 * max(map(abs, values))


def test_the_scale_stays_when_the_threshold_moves():
    calibration = Calibration((1.0, 2.0, 3.0), (4.0, 6.0, 7.0), map_median=2.0)
    assert calibration.with_rate(0.6).map_threshold < calibration.map_threshold
    assert calibration.with_rate(0.6).scale == calibration.with_threshold(0.0).scale == calibration.scale


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_threshold_that_is_no_number_is_refused(value):
    with pytest.raises(OptionError, match="finite raw score"):
        Calibration((1.0,), (1.0,), 0.0).with_threshold(value)


def collected(maps):
    held_out = HeldOutScores()
    held_out.add(maps.amax((1, 2)), maps)
    return held_out.calibration(0.01)


def test_pixel_p_values_are_the_fraction_of_held_out_pixels_that_reach_the_value():
    maps = torch.randn(6, 64, 64, generator=torch.Generator().manual_seed(0)).exp()
    calibration = collected(maps)
    assert calibration.n_pixels == maps.numel()
    assert len(calibration.pixel_tail) == len(TAIL_RATIOS)
    for value in (0.2, 1.0, 3.0, 8.0, 15.0):
        literal = float((maps >= value).float().mean())
        assert calibration.pixel_p_values(np.array([value]))[0] == pytest.approx(literal, rel=0.12)
    far = calibration.pixel_p_values(np.array([-1.0, 1e9]))
    assert far.tolist() == [1.0, pytest.approx(1 / (maps.numel() + 1))]


def test_joined_tails_are_those_of_all_pixels():
    maps = torch.randn(12, 64, 64, generator=torch.Generator().manual_seed(1))
    maps[8:] += 1
    joined = collected(maps[:8]).joined(collected(maps[8:]))
    values = np.linspace(-1, 4, 11)
    assert joined.n_before_update == 8
    assert joined.pixel_p_values(values) == pytest.approx(collected(maps).pixel_p_values(values), rel=0.1)


def test_a_model_without_a_tail_says_so():
    with pytest.raises(OptionError, match="Fit it again"):
        Calibration((1.0,), (1.0,), 0.0).pixel_p_values(np.zeros(3))

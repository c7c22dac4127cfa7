"""What each false-alarm rate finds, against the rule and the counts worked out by hand."""

from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from admodels.core.calibration import Calibration, n_needed
from admodels.evaluation.rates import RATES, at_rates, found_at
from admodels.evaluation.report import RATE_COLUMNS, rate_cells, rate_rows, rates_statement

# Few different values, so that held-out, good and defective pictures tie.
SCORES = st.integers(-3, 12).map(float)
ASKED = (Fraction(1, 100), Fraction(1, 20), Fraction(1, 10))


def calibrated(scores, **more):
    return Calibration(tuple(sorted(scores)), (0.0, 1.0), 0.0, **more)


def by_counting(held_out, asked):
    """The lowest held-out score that at most so many lie above, the new picture counted among them; or None."""
    allowed = [t for t in held_out if Fraction(1 + sum(s > t for s in held_out), len(held_out) + 1) <= asked]
    return min(allowed, default=None)


@given(
    st.one_of(st.lists(SCORES, min_size=2, max_size=30), st.lists(SCORES, min_size=95, max_size=120)),
    st.lists(st.tuples(st.booleans(), SCORES), min_size=1, max_size=40),
)
def test_the_counts_are_those_of_the_pictures_above_the_models_own_thresholds(held_out, pictures):
    labels, scores = np.array([bad for bad, _ in pictures]), np.array([score for _, score in pictures])
    rows = at_rates(labels, scores, calibrated(held_out))
    asked = list(ASKED)
    if len(held_out) < 99:  # 1 % is more than these can promise
        asked.append(Fraction(1, len(held_out) + 1))
    assert [row.rate for row in rows] == [float(rate) for rate in sorted(asked)]
    for row, rate in zip(rows, sorted(asked), strict=True):
        threshold = by_counting(held_out, rate)
        assert row.threshold == threshold
        assert row.n_held_out == len(held_out)
        bad, good = ([score for is_bad, score in pictures if is_bad == kind] for kind in (True, False))
        assert (row.n_defective, row.n_good) == (len(bad), len(good))
        counted = [None if threshold is None else sum(s > threshold for s in kind) for kind in (bad, good)]
        assert [row.n_found, row.n_false_alarms] == counted
        rates = [None if n is None or not kind else n / len(kind) for n, kind in zip(counted, (bad, good), strict=True)]
        assert [row.detection_rate, row.false_alarm_rate] == rates
    found = [row.n_found for row in rows if row.is_promised]
    assert found
    assert found == sorted(found)  # a lower rate never finds more


@given(st.integers(2, 400), st.integers(2, 200))
def test_a_rate_needs_as_many_held_out_normals_as_the_calibration_says(n, parts):
    rate = 1 / parts
    assert calibrated(range(n), false_alarm_rate=rate).supports_rate == (n >= n_needed(rate))
    assert n_needed(0.3) == 3  # (3 + 1) · 0.3 is above 1, (2 + 1) · 0.3 is not


def test_the_current_threshold_does_not_matter():
    labels, scores = np.array([True, False]), np.array([5.0, 1.0])
    calibration = calibrated(range(40))
    rows = at_rates(labels, scores, calibration)
    assert at_rates(labels, scores, calibration.with_threshold(1e9)) == rows
    assert at_rates(labels, scores, calibration.with_rate(0.5)) == rows


def test_what_sets_the_threshold_does_not_alarm_by_rounding():
    calibration = calibrated(np.arange(1.0, 101.0), rounding_ratio=1e-4)
    rows = at_rates(np.array([True, True]), np.array([100.0 * (1 + 1e-6), 101.0]), calibration)
    assert [row.n_found for row in rows] == [1, 2, 2]
    assert [row.threshold for row in rows] == [calibration.with_rate(rate).threshold for rate in RATES]


def test_a_rate_that_cannot_be_promised_has_no_figures_and_that_is_said():
    rows = at_rates(np.array([True, True, False]), np.array([50.0, 10.0, 30.0]), calibrated(range(24)))
    header, *shown = rate_rows(rows)
    assert len(header) == 4
    assert shown == [
        ["1 %", "–", "–", "–"],
        ["4 %", "1 of 2: 50%", "1 of 1: 100%", "23"],
        ["5 %", "1 of 2: 50%", "1 of 1: 100%", "23"],
        ["10 %", "1 of 2: 50%", "1 of 1: 100%", "22"],
    ]
    assert rates_statement(rows).endswith(
        "1 % takes 99 good pictures kept aside; there are 24, enough for 4 % at best."
    )
    fewer = rates_statement(at_rates(np.array([True]), np.array([1.0]), calibrated(range(7))))
    assert "1 % takes 99 and 5 % takes 19 and 10 % takes 9 good pictures kept aside; there are 7" in fewer
    enough = rates_statement(at_rates(np.array([True]), np.array([1.0]), calibrated(range(99))))
    assert "takes" not in enough


@pytest.mark.parametrize("is_defective", [True, False])
def test_one_kind_of_pictures_only_has_counts_of_that_kind_only(is_defective):
    rows = at_rates(np.array([is_defective] * 2), np.array([500.0, 1.0]), calibrated(range(99)))
    cells = ["1 of 2: 50%", "–"] if is_defective else ["–", "1 of 2: 50%"]
    assert all(row[1:3] == cells for row in rate_rows(rows)[1:])
    assert [row.detection_rate is None for row in rows] == [not is_defective] * 3


def test_cells_are_by_rate_and_empty_in_what_earlier_versions_wrote():
    rows = at_rates(np.array([True, True, False]), np.array([50.0, 10.0, 22.5]), calibrated(range(24)))
    row = {"at_rates": [asdict(at) for at in rows]}
    assert rate_cells(row, lambda value: f"{value:.2f}") == ["–", "0.50 / 0.00", "0.50 / 1.00"]
    assert found_at(row, 0.1) == (0.5, 1.0)
    assert rate_cells({"image_auroc": 0.9}, str) == ["–"] * len(RATE_COLUMNS)
    assert RATE_COLUMNS[1] == "found / false alarms at 5 %"

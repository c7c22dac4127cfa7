"""Small changes of a picture, and what they are said to do to scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from admodels.core.calibration import Calibration
from admodels.evaluation.robustness import CHANGES, check_robustness, shift, spread_out
from admodels.pictures.images import decode
from tests.conftest import gradient


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("size", [(48, 32), (16, 200), (101, 37)])
def test_a_change_is_small_and_keeps_the_size(name, size):
    pixels = np.asarray(gradient(*size))
    before = pixels.copy()
    changed = CHANGES[name](pixels)
    assert changed.shape == pixels.shape
    assert changed.dtype == np.uint8
    assert (pixels == before).all()
    moved = np.abs(changed.astype(float) - pixels).mean()
    assert 0 < moved < 30


def test_changes_do_what_their_names_say(specks):
    pixels = decode(specks.train[0]).pixels
    assert CHANGES["10 % brighter"](pixels).mean() == pytest.approx(1.1 * pixels.mean(), rel=0.02)
    assert CHANGES["10 % darker"](pixels).mean() == pytest.approx(0.9 * pixels.mean(), rel=0.02)
    n = round(0.02 * pixels.shape[0])
    assert (CHANGES["shifted by 2 %"](pixels)[n:, n:] == pixels[:-n, :-n]).all()
    noise = CHANGES["noise, σ 2 %"](np.full((64, 64, 3), 128, np.uint8)).astype(float) - 128
    assert noise.std() == pytest.approx(0.02 * 255, rel=0.05)
    # Turning back by the opposite rotation of the coordinates finds the same values near the middle.
    ramp = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (200, 1, 3))
    turned = CHANGES["rotated by 2°"](ramp).astype(float)[..., 0]
    y, x = np.mgrid[40:160, 40:160] - 99.5
    expected = 99.5 + x * np.cos(np.radians(2)) - y * np.sin(np.radians(2))
    assert np.abs(turned[40:160, 40:160] - expected).max() < 1.5


@given(st.lists(st.booleans(), max_size=90))
def test_pictures_are_taken_from_both_kinds(labels):
    chosen = spread_out(labels)
    assert len(chosen) == len(set(chosen)) == min(24, len(labels))
    n_bad = sum(labels)
    assert sum(labels[i] for i in chosen) >= min(n_bad, 12)
    assert sum(not labels[i] for i in chosen) >= min(len(labels) - n_bad, 12)


def test_shifts_are_in_held_out_spreads_and_flips_are_counted():
    calibration = Calibration((1.0, 2.0, 3.0), (1.0, 2.0, 3.0), 0.0)
    row = shift("x", (1.0, 2.0, 5.0, 6.0), (1.0, 4.0, 2.0, 6.0), calibration)
    spread = np.std([1, 2, 3])
    assert row.mean_shift == pytest.approx(-0.25 / spread)
    assert row.mean_absolute_shift == pytest.approx(1.25 / spread)
    assert (row.n_new_alarms, row.n_lost_alarms) == (1, 1)
    assert shift("x", (1.0,), (2.0,), Calibration((1.0, 1.0), (1.0, 1.0), 0.0)).mean_shift is None


def test_a_detector_is_checked_on_real_pictures(isvd, specks):
    paths = [item.path for item in specks.test[:3]]
    rows = check_robustness(isvd, paths)
    assert [row.change for row in rows] == list(CHANGES)
    expected = [isvd.predict(CHANGES["10 % darker"](decode(p).pixels)).score for p in paths]
    assert rows[2].after == pytest.approx(expected, rel=1e-5)
    assert rows[2].before == pytest.approx([isvd.predict(p).score for p in paths], rel=1e-5)

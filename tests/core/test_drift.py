"""What is called drift, and what is not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageEnhance
from PIL.Image import open as open_image
from scipy.stats import mannwhitneyu

import admodels
from admodels.core.calibration import Calibration
from admodels.core.drift import drift_of, rank_sum
from tests.conftest import DEVICE

values = st.lists(st.integers(-5, 5), min_size=1, max_size=30)


@given(values, values)
def test_the_rank_sum_counts_pairs_and_its_chance_is_never_too_small(sample, others):
    pairs = [(a > b) + (a == b) / 2 for a in sample for b in others]
    exceeds, chance = rank_sum(sample, others)
    assert exceeds == pytest.approx(np.mean(pairs))
    if len(set(sample + others)) > 1:
        expected = mannwhitneyu(sample, others, alternative="greater", method="asymptotic").pvalue
        if len(set(sample + others)) == len(sample) + len(others):
            assert chance == pytest.approx(expected)
        elif expected < 0.5:
            assert chance >= expected - 1e-12


def pictures(rng, n, rise=0.0, spot=0.0):
    """Scores and backgrounds of pictures that share what makes a picture unusual as a whole."""
    whole = rng.gamma(9, size=n) / 9 + rise
    return whole + rng.gamma(4, size=n) / 4 + spot * rng.random(n), whole / 3


@pytest.mark.parametrize("n_good", [5, 24, 100])
@pytest.mark.parametrize("n", [8, 20, 200])
def test_ordinary_batches_are_seldom_called_drift(n_good, n):
    rng, n_rounds = np.random.default_rng(0), 1000
    called = {"good": 0, "a third defective": 0, "defective": 0, "light": 0}
    for _ in range(n_rounds):
        scores, backgrounds = pictures(rng, n_good)
        calibration = Calibration(tuple(np.sort(scores)), (0.0,) * n_good, 0.0, backgrounds=tuple(np.sort(backgrounds)))
        good, defective = pictures(rng, n - n // 3), pictures(rng, n // 3, spot=5)
        batches = {
            "good": pictures(rng, n),
            "a third defective": [np.concatenate(parts) for parts in zip(good, defective, strict=True)],
            "defective": pictures(rng, n, spot=5),
            "light": pictures(rng, n, rise=2),
        }
        for name, batch in batches.items():
            called[name] += drift_of(calibration, *batch).is_drift
    rates = {name: n_called / n_rounds for name, n_called in called.items()}
    assert rates["good"] <= 0.01
    assert rates["a third defective"] <= 0.01
    assert rates["defective"] <= 0.01
    assert rates["light"] > (0.4 if n_good == 5 else 0.75)


def test_few_pictures_and_models_of_earlier_versions_say_nothing():
    calibration = Calibration((1.0, 2.0), (1.0, 2.0), 0.0, backgrounds=(0.1, 0.2))
    assert drift_of(calibration, [9.0] * 7, [9.0] * 7) is None
    assert drift_of(calibration, [9.0] * 8, [9.0] * 8) is not None
    assert drift_of(Calibration((1.0, 2.0), (1.0, 2.0), 0.0), [9.0] * 8, [9.0] * 8) is None


@pytest.mark.parametrize("method", ["fapm", "padim_isvd"])
def test_another_light_is_drift_and_specks_are_not(example, method):
    detector = admodels.create(method, device=DEVICE, image_size=128).fit(example.train)

    def of(images):
        found = detector.predict_batch(images)
        return drift_of(detector.calibration_, [p.score for p in found], [p.background for p in found])

    good = [item.path for item in example.test if not item.is_defective]
    defective = [item.path for item in example.test if item.is_defective]
    brighter = [ImageEnhance.Brightness(open_image(path).convert("RGB")).enhance(1.2) for path in good]
    assert not of(good).is_drift
    assert not of(defective).is_drift
    assert not of([*good, *defective[:4]]).is_drift
    assert of(good).statement == ""
    changed = of(brighter)
    assert changed.is_drift
    assert changed.n == len(good)
    assert "12 pictures are unlike the good ones" in changed.statement

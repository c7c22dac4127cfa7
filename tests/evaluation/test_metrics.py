"""Pixel and image measures against scikit-learn and against a slow, literal AUPRO."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from admodels.evaluation import metrics
from admodels.evaluation.metrics import PixelCurve, auroc, auroc_interval, average_precision, f1_max


def pictures(n=6, size=(24, 20), seed=0, levels=None):
    """Maps with masks of blobs, every third picture good; with few levels there are many ties."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        mask = np.zeros(size, dtype=bool)
        if i % 3:
            for _ in range(rng.integers(1, 4)):
                y, x, side = rng.integers(0, size[0] - 4), rng.integers(0, size[1] - 4), rng.integers(1, 6)
                mask[y : y + side, x : x + side] = True
        values = rng.normal(size=size) + 1.2 * mask
        if levels:
            values = np.round(values * levels) / levels
        out.append((values.astype(np.float32), mask if i % 3 else None))
    return out


def curve_of(items, **options):
    curve = PixelCurve(**options)
    for values, mask in items:
        curve.add(values, mask)
    return curve


def literal_aupro(items, max_fpr):
    """Every distinct threshold, every region by itself."""
    values = np.unique(np.concatenate([v.ravel() for v, _ in items]))[::-1]
    regions, good = [], []
    for v, mask in items:
        mask = np.zeros(v.shape, bool) if mask is None else mask
        numbered, n = label(mask, np.ones((3, 3)))
        regions += [v[numbered == k] for k in range(1, n + 1)]
        good.append(v[~mask])
    good = np.concatenate(good)
    x, y = [0.0], [0.0]
    for t in values:
        x.append((good >= t).mean())
        y.append(np.mean([(r >= t).mean() for r in regions]))
    area = 0.0
    for x0, x1, y0, y1 in zip(x[:-1], x[1:], y[:-1], y[1:], strict=True):
        if x1 <= max_fpr:
            area += (x1 - x0) * (y0 + y1) / 2
        else:
            middle = y0 + (y1 - y0) * (max_fpr - x0) / (x1 - x0)
            area += (max_fpr - x0) * (y0 + middle) / 2
            break
    return area / max_fpr


@pytest.mark.parametrize("levels", [None, 4, 1])
@pytest.mark.parametrize("max_fpr", [0.05, 0.3, 1.0])
def test_aupro_is_the_literal_one(levels, max_fpr):
    items = pictures(levels=levels)
    assert curve_of(items).aupro(max_fpr) == pytest.approx(literal_aupro(items, max_fpr), rel=1e-9)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([None, 2]), st.integers(2, 7))
def test_pixel_measures_are_scikit_learns(seed, levels, n):
    items = pictures(n, (12, 13), seed, levels)
    curve = curve_of(items)
    values = np.concatenate([v.ravel() for v, _ in items])
    masks = np.concatenate([(np.zeros(v.shape, bool) if m is None else m).ravel() for v, m in items])
    assert curve.auroc() == pytest.approx(roc_auc_score(masks, values), rel=1e-9)
    assert curve.average_precision() == pytest.approx(average_precision_score(masks, values), rel=1e-9)
    assert 0 <= curve.aupro() <= 1


def test_merging_while_pictures_come_changes_nothing(monkeypatch):
    items = pictures(12)
    whole = curve_of(items)
    monkeypatch.setattr(metrics, "MERGE_PIXELS", 500)
    parts = curve_of(items)
    assert (parts.auroc(), parts.aupro()) == pytest.approx((whole.auroc(), whole.aupro()), rel=1e-12)


def test_memory_is_bounded_and_little_is_lost(monkeypatch):
    monkeypatch.setattr(metrics, "MERGE_PIXELS", 500)
    items = pictures(30)
    curve = curve_of(items, max_thresholds=1000)
    exact = curve_of(items)
    assert curve.auroc() == pytest.approx(exact.auroc(), abs=2e-3)
    assert curve.aupro() == pytest.approx(exact.aupro(), abs=5e-3)
    assert curve.dropped_bits > 0
    assert len(curve._good.keys) + len(curve._defective.keys) <= 1000
    assert exact.dropped_bits == 0


def test_an_unscored_border_is_left_out():
    items = pictures()
    bordered = []
    for values, mask in items:
        v = np.full((28, 24), np.nan, np.float32)
        v[2:-2, 2:-2] = values
        bordered.append((v, None if mask is None else np.pad(mask, 2, mode="edge")))
    assert curve_of(bordered).auroc() == curve_of(items).auroc()
    assert curve_of(bordered).aupro() == pytest.approx(curve_of(items).aupro())
    nothing = curve_of([(np.full((4, 4), np.nan, np.float32), None)])
    assert nothing.auroc() is None


def test_one_class_alone_has_no_measure():
    good = [(v, None) for v, _ in pictures()]
    curve = curve_of(good)
    assert curve.auroc() is curve.aupro() is curve.average_precision() is None
    labels, scores = np.zeros(5, bool), np.arange(5.0)
    for measure in (auroc, average_precision, f1_max, auroc_interval):
        assert measure(labels, scores) is None


def test_f1_max_is_the_largest_over_all_thresholds(rng):
    labels = rng.random(60) < 0.4
    scores = np.round(rng.normal(size=60) + labels, 1)
    best, threshold = f1_max(labels, scores)
    tried = [f1_score(labels, scores >= t) for t in np.unique(scores)]
    assert best == pytest.approx(max(tried))
    assert f1_score(labels, scores >= threshold) == pytest.approx(best)


def test_the_interval_is_the_bootstraps(rng):
    labels = np.arange(80) < 30
    scores = np.round(rng.normal(size=80) + labels, 1)
    low, high = auroc_interval(labels, scores)
    resampled = []
    for _ in range(1500):
        chosen = np.concatenate([rng.choice(np.flatnonzero(labels), 30), rng.choice(np.flatnonzero(~labels), 50)])
        resampled.append(roc_auc_score(labels[chosen], scores[chosen]))
    assert (low, high) == pytest.approx(tuple(np.percentile(resampled, [2.5, 97.5])), abs=0.02)
    assert low < auroc(labels, scores) < high
    assert auroc_interval(labels, labels.astype(float)) == (1.0, 1.0)


@given(st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=1, max_size=14))
def test_the_threshold_with_the_fewest_errors_is_the_best_of_all(judged):
    labels, scores = np.array([bad for bad, _ in judged]), np.array([score for _, score in judged], dtype=float)
    found = metrics.fewest_errors(labels, scores)
    if labels.all() or not labels.any():
        assert found is None
        return
    threshold, missed, false_alarms = found
    assert missed == (scores[labels] <= threshold).sum()
    assert false_alarms == (scores[~labels] > threshold).sum()
    assert threshold not in scores
    assert missed + false_alarms == min(((scores > t) != labels).sum() for t in np.arange(-6.5, 6.5))

"""Accuracy measures: for images from scikit-learn, for pixels from one pass over the maps in bounded memory.

Pixel measures need every pixel's score in order. `PixelCurve` keeps, for each distinct score, how many good and how
many defective pixels had it, and what those are worth in their regions; that is exact, and enough for all of them.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from admodels.core.results import EIGHT_NEIGHBOURS

N_BOOTSTRAP = 1000
MAX_THRESHOLDS = 2**22  # distinct scores kept exactly: 112 MiB
MERGE_PIXELS = 2**22  # pixels that wait to be merged


def auroc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve; None where only one class is present. Any shape; both are flattened."""
    from sklearn.metrics import roc_auc_score  # here, since it takes a second that only an evaluation needs

    labels, scores = np.ravel(labels), np.ravel(scores)
    if labels.min() == labels.max():
        return None
    return float(roc_auc_score(labels, scores))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the precision–recall curve as a step function; None where only one class is present."""
    from sklearn.metrics import average_precision_score

    labels, scores = np.ravel(labels), np.ravel(scores)
    if labels.min() == labels.max():
        return None
    return float(average_precision_score(labels, scores))


def f1_max(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float] | None:
    """Largest F1 over all thresholds, and the threshold (scores at least that high count as defective).

    The threshold is chosen on the labels it is judged by, so this is an upper bound, not what a user will see; whoever
    prints it must say "chosen on the test labels".
    """
    from sklearn.metrics import precision_recall_curve

    labels, scores = np.ravel(labels), np.ravel(scores)
    if labels.min() == labels.max():
        return None
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    return float(f1[best]), float(thresholds[best])


def auroc_interval(labels: np.ndarray, scores: np.ndarray, *, seed: int = 0) -> tuple[float, float] | None:
    """95 % bootstrap interval of the image AUROC: good and defective pictures are drawn anew, each class by itself."""
    labels, scores = np.ravel(labels).astype(bool), np.ravel(scores).astype(np.float64)
    if labels.all() or not labels.any():
        return None
    rng = np.random.default_rng(seed)
    good, bad = np.sort(scores[~labels]), np.sort(scores[labels])
    # How often each good picture is beaten by each defective one: 1, or ½ for a tie. A resample then only weighs rows.
    wins = (bad[:, None] > good[None]) + 0.5 * (bad[:, None] == good[None])
    times_good = rng.multinomial(len(good), np.full(len(good), 1 / len(good)), N_BOOTSTRAP)
    times_bad = rng.multinomial(len(bad), np.full(len(bad), 1 / len(bad)), N_BOOTSTRAP)
    resampled = ((times_bad @ wins) * times_good).sum(1) / wins.size
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def roc_points(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """False-alarm and detection rate over all thresholds, from 0 to 1; None where only one class is present."""
    from sklearn.metrics import roc_curve

    if labels.min() == labels.max():
        return None
    false_alarms, detections, _ = roc_curve(labels, scores)
    return false_alarms, detections


def precision_recall_points(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Recall and precision over all thresholds; None where only one class is present."""
    from sklearn.metrics import precision_recall_curve

    if labels.min() == labels.max():
        return None
    precision, recall, _ = precision_recall_curve(labels, scores)
    return recall, precision


def fewest_errors(labels: np.ndarray, scores: np.ndarray) -> tuple[float, int, int] | None:
    """The threshold that judges the fewest of these pictures wrongly, and how many it misses and alarms falsely.

    It lies in the middle between two scores; of several the one with the largest distance to them. It is chosen on the
    labels, so new pictures will be judged a little worse. None where only one class is present.

    Args:
        labels: bool (n,), which pictures are defective.
        scores: float (n,); a picture alarms above the threshold.
    """
    if labels.min() == labels.max():
        return None
    values = np.unique(scores)
    # Below all of them everything alarms, and above all nothing: as far away as the others are from each other.
    edge = float(np.diff(values).mean()) if len(values) > 1 else max(1e-3 * abs(float(values[0])), 1e-6)
    around = np.concatenate([[values[0] - edge], values, [values[-1] + edge]])
    missed = np.searchsorted(np.sort(scores[labels]), around[:-1], side="right")
    false_alarms = (~labels).sum() - np.searchsorted(np.sort(scores[~labels]), around[:-1], side="right")
    errors, gaps = missed + false_alarms, np.diff(around)
    best = max(range(len(gaps)), key=lambda i: (-errors[i], gaps[i]))
    return float(around[best] + gaps[best] / 2), int(missed[best]), int(false_alarms[best])


def rate_interval(n_hits: int, n: int) -> tuple[float, float]:
    """Exact 95 % interval (Clopper and Pearson) of a rate of which `n_hits` of `n` were seen."""
    from scipy.stats import binomtest

    interval = binomtest(n_hits, n).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


@dataclass
class _Tally:
    """Keys with one or more counts (n_columns, n) each."""

    keys: np.ndarray
    counts: np.ndarray

    @classmethod
    def empty(cls, n_columns: int) -> Self:
        return cls(np.empty(0, np.uint32), np.empty((n_columns, 0)))

    @classmethod
    def joined(cls, tallies: list[Self]) -> Self:
        """All of them together, ascending, each key once."""
        keys = np.concatenate([t.keys for t in tallies])
        return cls(keys, np.concatenate([t.counts for t in tallies], axis=1)).summed()

    def summed(self, *, ordered: bool = False) -> Self:
        """Ascending, each key once; `ordered` where the keys ascend already."""
        keys, counts = self.keys, self.counts
        if not len(keys):
            return self
        if not ordered:
            # A sort of whole 64-bit numbers is several times as fast as one that gives positions.
            packed = np.sort(keys.astype(np.uint64) << np.uint64(32) | np.arange(len(keys), dtype=np.uint64))
            keys, counts = (packed >> np.uint64(32)).astype(np.uint32), counts[:, packed & np.uint64(0xFFFFFFFF)]
        first = _firsts(keys)
        return type(self)(keys[first], np.add.reduceat(counts, first, axis=1))


@dataclass
class PixelCurve:
    """Scores of good and defective pixels, merged over pictures as they come.

    Exact up to `max_thresholds` distinct scores; beyond, the last bits of the scores are dropped, which moves a score
    by at most one part in 2^(23 − `dropped_bits`). Memory is bounded whatever the number of pictures.
    """

    max_thresholds: int = MAX_THRESHOLDS
    dropped_bits: int = 0
    n_regions: int = 0
    _good: _Tally = field(default_factory=lambda: _Tally.empty(1))
    _defective: _Tally = field(default_factory=lambda: _Tally.empty(2))  # pixels, and what they are worth by region
    _waiting: list[np.ndarray] = field(default_factory=list)  # keys of good pixels
    _waiting_defective: list[_Tally] = field(default_factory=list)

    def add(self, anomaly_map: np.ndarray, mask: np.ndarray | None) -> None:
        """Take in one picture.

        Args:
            anomaly_map: float H×W; NaN is left out.
            mask: bool H×W of the same size, or None for a good picture.
        """
        from scipy.ndimage import label  # here, since it takes a while that only an evaluation needs

        scored = np.isfinite(anomaly_map)
        if mask is not None and (inside := mask & scored).any():
            regions, n = label(inside, EIGHT_NEIGHBOURS)
            at = regions[inside]
            worth = 1 / np.bincount(at, minlength=n + 1)[at]
            keys = _ordered_keys(anomaly_map[inside])
            self._waiting_defective.append(_Tally(keys, np.stack([np.ones_like(worth), worth])))
            self.n_regions += n
            scored &= ~mask
        self._waiting.append(_ordered_keys(anomaly_map[scored]))
        if sum(map(len, self._waiting)) + sum(len(t.keys) for t in self._waiting_defective) > MERGE_PIXELS:
            self._merge()

    def auroc(self) -> float | None:
        """Pixel AUROC; None without defective or without good pixels."""
        curve = self._cumulative()
        if curve is None:
            return None
        good, bad, _ = curve
        return float(np.trapezoid(bad / bad[-1], good / good[-1]))

    def average_precision(self) -> float | None:
        """Pixel average precision."""
        curve = self._cumulative()
        if curve is None:
            return None
        good, bad, _ = curve
        precision = bad[1:] / (good[1:] + bad[1:])
        return float((np.diff(bad) / bad[-1] * precision).sum())

    def aupro(self, max_fpr: float = 0.3) -> float | None:
        """Per-region overlap, its mean over all regions, integrated up to `max_fpr` of the good pixels and normalised.

        Between two thresholds the curve is linear, at the limit it is cut there.
        """
        curve = self._cumulative()
        if curve is None:
            return None
        good, _, by_region = curve
        fpr, overlap = good / good[-1], by_region / self.n_regions
        n = int(np.searchsorted(fpr, max_fpr, side="right"))  # points up to the limit
        area = np.trapezoid(overlap[:n], fpr[:n])
        if n < len(fpr):
            part = (max_fpr - fpr[n - 1]) / (fpr[n] - fpr[n - 1])
            at_limit = overlap[n - 1] + part * (overlap[n] - overlap[n - 1])
            area += (max_fpr - fpr[n - 1]) * (overlap[n - 1] + at_limit) / 2
        return float(area / max_fpr)

    def _cumulative(self) -> np.ndarray | None:
        """Cumulative sums (3, n + 1) from the highest score down, beginning with 0."""
        self._merge()
        if not len(self._good.keys) or not len(self._defective.keys):
            return None
        parts = [np.pad(self._good.counts, ((0, 2), (0, 0))), np.pad(self._defective.counts, ((1, 0), (0, 0)))]
        keys = np.concatenate([self._good.keys, self._defective.keys])
        counts = _Tally(keys, np.concatenate(parts, axis=1)).summed().counts
        return np.concatenate([np.zeros((3, 1)), counts[:, ::-1].cumsum(1)], axis=1)

    def _merge(self) -> None:
        drop, waiting, defective = self.dropped_bits, self._waiting, self._waiting_defective
        self._waiting, self._waiting_defective = [], []
        if waiting:
            # Nearly all pixels are good and count one each: sorting their keys alone is much the fastest.
            good = _counted(np.sort(np.concatenate(waiting) >> drop))
            self._good = _Tally.joined([self._good, good]) if len(self._good.keys) else good
        if defective:
            self._defective = _Tally.joined([self._defective, *(_Tally(t.keys >> drop, t.counts) for t in defective)])
        while len(self._good.keys) + len(self._defective.keys) > self.max_thresholds:
            self.dropped_bits += 1
            for tally in (self._good, self._defective):
                tally.keys >>= 1
            self._good, self._defective = self._good.summed(ordered=True), self._defective.summed(ordered=True)


def _ordered_keys(values: np.ndarray) -> np.ndarray:
    """uint32 in the same order as the float32 values."""
    bits = (np.asarray(values, np.float32) + np.float32(0)).view(np.uint32)  # the sum makes −0 a 0
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _counted(ordered: np.ndarray) -> _Tally:
    """How often each of the ascending keys is there."""
    first = _firsts(ordered)
    counts = np.diff(first, append=len(ordered)).astype(float)
    return _Tally(ordered[first], counts[None])


def _firsts(ordered: np.ndarray) -> np.ndarray:
    """Where each distinct key begins."""
    return np.flatnonzero(np.concatenate([np.ones(min(1, len(ordered)), bool), ordered[1:] != ordered[:-1]]))

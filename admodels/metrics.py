"""Accuracy measures: for images from scikit-learn, for pixels from one pass over the maps in bounded memory.

Pixel measures need every pixel's score in order. `PixelCurve` keeps, for each distinct score, how many good and how
many defective pixels had it, and what those are worth in their regions; that is exact, and enough for all of them.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import label

N_BOOTSTRAP = 1000
MAX_THRESHOLDS = 2**22  # distinct scores kept exactly: 112 MiB
MERGE_PIXELS = 2**22  # pixels that wait to be merged
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)  # regions touch at corners too, as in MVTec's own evaluation


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


@dataclass
class PixelCurve:
    """Scores of good and defective pixels, merged over pictures as they come.

    Exact up to `max_thresholds` distinct scores; beyond, the last bits of the scores are dropped, which moves a score
    by at most one part in 2^(23 − `dropped_bits`). Memory is bounded whatever the number of pictures.
    """

    max_thresholds: int = MAX_THRESHOLDS
    dropped_bits: int = 0
    n_regions: int = 0
    _keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint32))  # ascending
    _counts: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))  # good, defective, defective by region
    _waiting: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, anomaly_map: np.ndarray, mask: np.ndarray | None) -> None:
        """Take in one picture.

        Args:
            anomaly_map: float H×W; NaN is left out.
            mask: bool H×W of the same size, or None for a good picture.
        """
        scored = np.isfinite(anomaly_map)
        keys = _ordered_keys(anomaly_map[scored])
        counts = np.zeros((len(keys), 3))
        if mask is None:
            counts[:, 0] = 1
        else:
            regions, n = label(mask & scored, EIGHT_NEIGHBOURS)
            sizes = np.bincount(regions.ravel(), minlength=n + 1).astype(float)
            sizes[0] = np.inf
            inside = mask[scored]
            counts[:, 0], counts[:, 1] = ~inside, inside
            counts[:, 2] = 1 / sizes[regions[scored]]
            self.n_regions += n
        self._waiting.append((keys, counts))
        if sum(len(k) for k, _ in self._waiting) > MERGE_PIXELS:
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
        totals = self._counts.sum(0)
        if totals[0] == 0 or totals[1] == 0:
            return None
        return np.concatenate([np.zeros((3, 1)), self._counts[::-1].T.cumsum(1)], axis=1)

    def _merge(self) -> None:
        waiting, self._waiting = self._waiting, []
        parts = [(self._keys, self._counts), *((k >> self.dropped_bits, c) for k, c in waiting)]
        self._keys, self._counts = _summed(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        while len(self._keys) > self.max_thresholds:
            self.dropped_bits += 1
            self._keys, self._counts = _summed(self._keys >> 1, self._counts)


def _ordered_keys(values: np.ndarray) -> np.ndarray:
    """uint32 in the same order as the float32 values."""
    bits = (np.asarray(values, np.float32) + np.float32(0)).view(np.uint32)  # the sum makes −0 a 0
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _summed(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    if not len(keys):
        return keys, counts
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[first], np.add.reduceat(counts[order], first, axis=0)

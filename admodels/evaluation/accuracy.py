"""Fit on a data set's good pictures and measure on its labelled ones."""

import time
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F

from admodels.core.calibration import Calibration
from admodels.core.detector import Detector
from admodels.core.results import OnProgress, Progress
from admodels.evaluation.datasets import Dataset, TestImage
from admodels.evaluation.masks import check_masks, mask_of_size
from admodels.evaluation.metrics import PixelCurve, auroc, auroc_interval, average_precision, f1_max, fewest_errors
from admodels.evaluation.rates import AtRate, at_rates
from admodels.evaluation.robustness import Shift, check_robustness, shift, spread_out
from admodels.evaluation.timing import time_feature_pass

PIXEL_SIDE = 256
PICTURES_PER_REPORT = 8  # between two reports of progress


@dataclass(frozen=True)
class ScoredImage:
    """A labelled picture with its raw score."""

    name: str
    kind: str
    score: float

    @property
    def is_defective(self) -> bool:
        """Everything that is not of the kind "good"."""
        return self.kind != "good"


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What labelled pictures say of a fitted detector.

    Attributes:
        image_auroc_ci: its 95 % bootstrap interval over the test pictures.
        f1_max: the largest F1 of the images over all thresholds, chosen on the test labels: an upper bound.
        average_precision: of the images.
        pixel_auroc, pixel_average_precision, aupro, aupro_5: over maps and masks of at most `pixel_side` px a side;
            AUPRO is the per-region overlap up to 30 % and 5 % of the good pixels. None without masks.
        predict_fps: pictures per second through `predict_batch`, reading included.
        false_alarm_rate, detection_rate: fractions of good and of defective pictures above `threshold`.
        at_rates: the same at the thresholds that the model sets for 1 %, 5 % and 10 % false alarms.
        pictures: each with its raw score.
        robustness: what small changes of up to 24 of the pictures do; empty where it was not asked for.
    """

    n_test: int
    image_auroc: float | None
    image_auroc_ci: tuple[float, float] | None
    average_precision: float | None
    f1_max: float | None
    pixel_auroc: float | None
    pixel_average_precision: float | None
    aupro: float | None
    aupro_5: float | None
    predict_fps: float
    threshold: float
    false_alarm_rate: float | None
    detection_rate: float | None
    at_rates: tuple[AtRate, ...]
    pictures: tuple[ScoredImage, ...]
    robustness: tuple[Shift, ...]

    @property
    def labels(self) -> np.ndarray:
        """bool (n_test,): which pictures are defective."""
        return np.array([picture.is_defective for picture in self.pictures], dtype=bool)

    @property
    def scores(self) -> np.ndarray:
        """float64 (n_test,)."""
        return np.array([picture.score for picture in self.pictures], dtype=np.float64)

    @property
    def is_right(self) -> np.ndarray:
        """bool (n_test,): which pictures are on their side of the threshold, defective ones above it."""
        return (self.scores > self.threshold) == self.labels

    def judged(self, calibration: Calibration) -> Self:
        """The same scores at the threshold of another calibration of the same model."""
        return replace(
            self,
            **_judged(self.labels, self.scores, calibration),
            robustness=tuple(shift(s.change, s.before, s.after, calibration) for s in self.robustness),
        )

    def mistakes(self, n: int) -> list[int]:
        """Positions of at most `n` pictures on the wrong side of the threshold, the farthest from it first."""
        distance = np.where(self.labels, self.threshold - self.scores, self.scores - self.threshold)
        wrong = ~self.is_right
        return [int(i) for i in np.argsort(-distance, kind="stable") if wrong[i]][:n]

    def fewer_errors(self) -> tuple[float, int, int] | None:
        """What `fewest_errors` says of these pictures; None where the threshold in use judges no more wrongly."""
        best = fewest_errors(self.labels, self.scores)
        n_wrong = int((~self.is_right).sum())
        return best if best is not None and best[1] + best[2] < n_wrong else None


@dataclass(frozen=True, kw_only=True)
class Evaluation(Accuracy):
    """What `evaluate` measured; the fields are the keys of its JSON.

    Attributes:
        n_train: good pictures given to the fit, those held out for the threshold included.
        fit_seconds: wall time of the whole fit, reading and holding out included.
        feature_seconds: wall time of reading the same pictures and running only the backbone over them.
        peak_rss_mib: highest resident memory of the process during the fit.
    """

    method: str
    options: dict
    n_train: int
    fit_seconds: float
    feature_seconds: float
    fit_fps: float
    peak_rss_mib: float
    model_mib: float


def evaluate(
    detector: Detector,
    data: Dataset,
    *,
    n_train: int | None = None,
    seed: int = 0,
    pixel_side: int | None = PIXEL_SIDE,
    robustness: bool = True,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Fit `detector` on the good pictures of `data` and measure it on the labelled ones.

    Args:
        n_train: how many good pictures to fit on, chosen by `seed`; all of them where None.
        seed: of that choice and of the pictures held out.
        pixel_side, robustness, on_progress: as for `measure`; `on_progress` is told of the fit too.
    """
    check_masks((item.path, item.masks) for item in data.test)  # before the fit, not after it
    train = data.train
    if n_train is not None and n_train < len(train):
        chosen = np.random.default_rng(seed).permutation(len(train))[:n_train]
        train = [train[i] for i in sorted(chosen)]
    # The network's first pass over a batch loads it; it belongs to neither figure.
    time_feature_pass(detector, train[:8])
    report = detector.fit(train, seed=seed, on_progress=on_progress).fit_report_
    feature_seconds = time_feature_pass(detector, train)
    accuracy = measure(detector, data.test, pixel_side=pixel_side, robustness=robustness, on_progress=on_progress)
    return Evaluation(
        method=detector.key,
        options=detector.config.stored(),
        n_train=len(train),
        fit_seconds=report.seconds,
        feature_seconds=feature_seconds,
        fit_fps=report.images_per_second,
        peak_rss_mib=report.peak_memory_mib,
        model_mib=detector.model_mib,
        **vars(accuracy),
    )


def measure(
    detector: Detector,
    test: list[TestImage],
    *,
    pixel_side: int | None = PIXEL_SIDE,
    robustness: bool = True,
    on_progress: OnProgress | None = None,
) -> Accuracy:
    """Measure a fitted detector on labelled pictures.

    Args:
        pixel_side: maps and masks are brought to at most that many pixels a side; None keeps their own size. Memory
            does not grow with it beyond a picture and `metrics.PixelCurve`.
        robustness: also score up to 24 of the pictures after each of seven small changes.
        on_progress: called with a `Progress` after every part of the pictures; raise `Cancelled` in it to stop.

    Raises:
        NotFittedError: nothing was learned yet.
        ImageSetError, ImageError, DataError: a picture or a mask cannot be used.
    """
    check_masks((item.path, item.masks) for item in test)
    scores, pixels, seconds = _score(detector, test, pixel_side, on_progress)
    labels = np.array([item.is_defective for item in test])
    few = [test[i].path for i in spread_out(labels)] if robustness else []
    best_f1 = f1_max(labels, scores)
    return Accuracy(
        n_test=len(test),
        image_auroc=auroc(labels, scores),
        image_auroc_ci=auroc_interval(labels, scores),
        average_precision=average_precision(labels, scores),
        f1_max=best_f1[0] if best_f1 else None,
        pixel_auroc=pixels.auroc(),
        pixel_average_precision=pixels.average_precision(),
        aupro=pixels.aupro(0.3),
        aupro_5=pixels.aupro(0.05),
        predict_fps=len(test) / seconds,
        **_judged(labels, scores, detector.calibration_),
        pictures=tuple(
            ScoredImage(item.path.name, item.kind, float(score)) for item, score in zip(test, scores, strict=True)
        ),
        robustness=check_robustness(detector, few, on_progress=on_progress) if few else (),
    )


def _judged(labels: np.ndarray, scores: np.ndarray, calibration: Calibration) -> dict[str, Any]:
    alarms = scores > calibration.threshold
    return {
        "threshold": calibration.threshold,
        "false_alarm_rate": float(alarms[~labels].mean()) if (~labels).any() else None,
        "detection_rate": float(alarms[labels].mean()) if labels.any() else None,
        "at_rates": at_rates(labels, scores, calibration),
    }


def _score(
    detector: Detector,
    test: list[TestImage],
    pixel_side: int | None,
    on_progress: OnProgress | None,
) -> tuple[np.ndarray, PixelCurve, float]:
    has_masks = any(item.masks for item in test)
    scores, pixels, started = [], PixelCurve(), time.perf_counter()
    beside = 0.0  # seconds that are no part of predicting
    for item, prediction in zip(test, detector.predict_stream([item.path for item in test]), strict=True):
        predicted = time.perf_counter()
        scores.append(prediction.score)
        # A defective picture without a mask says nothing about its pixels.
        if has_masks and (item.masks or not item.is_defective):
            pixels.add(*map_and_mask(item, prediction.anomaly_map, pixel_side))
        if on_progress is not None and (len(scores) % PICTURES_PER_REPORT == 0 or len(scores) == len(test)):
            on_progress(Progress("testing", len(scores), len(test), time.perf_counter() - started))
        beside += time.perf_counter() - predicted
    return np.array(scores), pixels, time.perf_counter() - started - beside


def map_and_mask(item: TestImage, anomaly_map: np.ndarray, side: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Map H×W and mask of one picture, brought to at most `side` pixels a side; without masks, None for the latter.

    Raises:
        DataError: the mask cannot be used.
    """
    size = anomaly_map.shape
    factor = min(1.0, side / max(size)) if side else 1.0
    target = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    values = F.interpolate(torch.from_numpy(anomaly_map)[None, None], target, mode="nearest")[0, 0].numpy()
    if not item.masks:
        return values, None
    truth = torch.from_numpy(mask_of_size(item.masks, size, item.path.name))[None, None].float()
    return values, F.interpolate(truth, target, mode="nearest")[0, 0].numpy() > 0.5

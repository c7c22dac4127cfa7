"""Fit on a data set's good pictures and measure on its labelled ones."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F

from admodels.base import Detector
from admodels.datasets import Dataset, TestImage, read_mask
from admodels.metrics import PixelCurve, auroc, auroc_interval, average_precision, f1_max
from admodels.results import OnProgress, Prediction, Progress
from admodels.timing import time_feature_pass

PIXEL_SIDE = 256
PICTURES_AT_ONCE = 32

OnPrediction = Callable[[TestImage, Prediction], None]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured; the fields are the keys of its JSON.

    Attributes:
        n_train: good pictures given to the fit, those held out for the threshold included.
        image_auroc_interval: its 95 % bootstrap interval over the test pictures.
        image_f1_max: the largest F1 over all thresholds, chosen on the test labels: an upper bound.
        pixel_auroc, pixel_average_precision, aupro_30, aupro_5: over maps and masks of at most `pixel_side` px a side;
            AUPRO is the per-region overlap up to 30 % and 5 % of the good pixels. None without masks.
        fit_seconds: wall time of the whole fit, reading and holding out included.
        feature_seconds: wall time of reading the same pictures and running only the backbone over them.
        predict_fps: pictures per second through `predict_batch`, reading included.
        peak_rss_mib: highest resident memory of the process during the fit.
        false_alarm_rate, detection_rate: fractions of good and of defective test pictures above the threshold.
    """

    method: str
    options: dict
    n_train: int
    n_test: int
    image_auroc: float | None
    image_auroc_interval: tuple[float, float] | None
    image_average_precision: float | None
    image_f1_max: float | None
    pixel_auroc: float | None
    pixel_average_precision: float | None
    aupro_30: float | None
    aupro_5: float | None
    fit_seconds: float
    feature_seconds: float
    fit_fps: float
    predict_fps: float
    peak_rss_mib: float
    model_mib: float
    threshold: float
    false_alarm_rate: float | None
    detection_rate: float | None


def evaluate(
    detector: Detector,
    data: Dataset,
    *,
    n_train: int | None = None,
    seed: int = 0,
    pixel_side: int | None = PIXEL_SIDE,
    on_prediction: OnPrediction | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Fit `detector` on the good pictures of `data` and measure it on the labelled ones.

    Args:
        n_train: how many good pictures to fit on, chosen by `seed`; all of them where None.
        seed: of that choice and of the pictures held out.
        pixel_side: maps and masks are brought to at most that many pixels a side; None keeps their own size. Memory
            does not grow with it beyond a picture and `metrics.PixelCurve`.
        on_prediction: called with every test picture and its prediction.
        on_progress: called with a `Progress` after every batch, and after every part of the test pictures.
    """
    train = data.train
    if n_train is not None and n_train < len(train):
        chosen = np.random.default_rng(seed).permutation(len(train))[:n_train]
        train = [train[i] for i in sorted(chosen)]
    # The network's first pass over a batch loads it; it belongs to neither figure.
    time_feature_pass(detector, train[:8])
    report = detector.fit(train, seed=seed, on_progress=on_progress).fit_report_
    feature_seconds = time_feature_pass(detector, train)
    scores, pixels, predict_seconds = _score(detector, data.test, pixel_side, on_prediction, on_progress)
    labels = np.array([item.is_defective for item in data.test])
    threshold = detector.calibration_.threshold
    alarms = scores > threshold
    best_f1 = f1_max(labels, scores)
    return Evaluation(
        method=detector.key,
        options=asdict(detector.config),
        n_train=len(train),
        n_test=len(data.test),
        image_auroc=auroc(labels, scores),
        image_auroc_interval=auroc_interval(labels, scores),
        image_average_precision=average_precision(labels, scores),
        image_f1_max=best_f1[0] if best_f1 else None,
        pixel_auroc=pixels.auroc(),
        pixel_average_precision=pixels.average_precision(),
        aupro_30=pixels.aupro(0.3),
        aupro_5=pixels.aupro(0.05),
        fit_seconds=report.seconds,
        feature_seconds=feature_seconds,
        fit_fps=report.images_per_second,
        predict_fps=len(data.test) / predict_seconds,
        peak_rss_mib=report.peak_memory_mib,
        model_mib=detector.model_mib,
        threshold=threshold,
        false_alarm_rate=float(alarms[~labels].mean()) if (~labels).any() else None,
        detection_rate=float(alarms[labels].mean()) if labels.any() else None,
    )


def _score(
    detector: Detector,
    test: list[TestImage],
    pixel_side: int | None,
    on_prediction: OnPrediction | None,
    on_progress: OnProgress | None,
) -> tuple[np.ndarray, PixelCurve, float]:
    has_masks = any(item.masks for item in test)
    scores, pixels, seconds, started = [], PixelCurve(), 0.0, time.perf_counter()
    for first in range(0, len(test), PICTURES_AT_ONCE):
        part = test[first : first + PICTURES_AT_ONCE]
        before = time.perf_counter()
        predictions = detector.predict_batch([item.path for item in part])
        seconds += time.perf_counter() - before
        for item, prediction in zip(part, predictions, strict=True):
            scores.append(prediction.score)
            if on_prediction is not None:
                on_prediction(item, prediction)
            # A defective picture without a mask says nothing about its pixels.
            if has_masks and (item.masks or not item.is_defective):
                pixels.add(*_pixels(item, prediction.anomaly_map, pixel_side))
        if on_progress is not None:
            on_progress(Progress("testing", first + len(part), len(test), time.perf_counter() - started))
    return np.array(scores), pixels, seconds


def _pixels(item: TestImage, anomaly_map: np.ndarray, side: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Map and mask of one picture, brought to at most `side` pixels."""
    size = anomaly_map.shape
    factor = min(1.0, side / max(size)) if side else 1.0
    target = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    values = F.interpolate(torch.from_numpy(anomaly_map)[None, None], target, mode="nearest")[0, 0].numpy()
    if not item.masks:
        return values, None
    truth = torch.from_numpy(read_mask(item.masks))[None, None].float()
    return values, F.interpolate(truth, target, mode="nearest")[0, 0].numpy() > 0.5

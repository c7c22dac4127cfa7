"""Fit on a data set's good pictures and measure on its labelled ones."""

import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F

from admodels.base import Detector
from admodels.datasets import Dataset, TestImage, read_mask
from admodels.metrics import auroc
from admodels.results import OnProgress, Progress
from admodels.timing import time_feature_pass

MAX_MASK_SIDE = 256
PICTURES_AT_ONCE = 32


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured; the fields are the keys of its JSON.

    Attributes:
        n_train: good pictures given to the fit, those held out for the threshold included.
        pixel_auroc: over maps and masks of at most 256 px a side; None without masks.
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
    pixel_auroc: float | None
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
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Fit `detector` on the good pictures of `data` and measure it on the labelled ones.

    Args:
        n_train: how many good pictures to fit on, chosen by `seed`; all of them where None.
        seed: of that choice and of the pictures held out.
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
    scores, pixels, predict_seconds = _score(detector, data.test, on_progress)
    labels = np.array([item.is_defective for item in data.test])
    threshold = detector.calibration_.threshold
    alarms = scores > threshold
    return Evaluation(
        method=detector.key,
        options=asdict(detector.config),
        n_train=len(train),
        n_test=len(data.test),
        image_auroc=auroc(labels, scores),
        pixel_auroc=auroc(*pixels) if pixels is not None else None,
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
    detector: Detector, test: list[TestImage], on_progress: OnProgress | None
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None, float]:
    has_masks = any(item.mask for item in test)
    scores, truths, values, seconds, started = [], [], [], 0.0, time.perf_counter()
    for first in range(0, len(test), PICTURES_AT_ONCE):
        part = test[first : first + PICTURES_AT_ONCE]
        before = time.perf_counter()
        predictions = detector.predict_batch([item.path for item in part])
        seconds += time.perf_counter() - before
        for item, prediction in zip(part, predictions, strict=True):
            scores.append(prediction.score)
            if has_masks and (item.mask or not item.is_defective):
                truth, value = _pixels(item, prediction.anomaly_map)
                truths.append(truth)
                values.append(value)
        if on_progress is not None:
            on_progress(Progress("testing", first + len(part), len(test), time.perf_counter() - started))
    pixels = (np.concatenate(truths), np.concatenate(values)) if has_masks else None
    return np.array(scores), pixels, seconds


def _pixels(item: TestImage, anomaly_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mask and map of one picture, brought to at most 256 px a side, without the unscored border."""
    size = anomaly_map.shape
    truth = read_mask(item.mask) if item.mask else np.zeros(size, dtype=bool)
    factor = min(1.0, MAX_MASK_SIDE / max(size))
    target = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    truth = F.interpolate(torch.from_numpy(truth)[None, None].float(), target, mode="nearest")[0, 0].numpy() > 0.5
    value = F.interpolate(torch.from_numpy(anomaly_map)[None, None], target, mode="nearest")[0, 0].numpy()
    scored = np.isfinite(value)
    return truth[scored], value[scored]

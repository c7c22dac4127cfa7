"""How much scores move when pictures change in ways that make no part defective.

A camera's compression, a lamp that ages, a part that lies a little differently: a detector whose verdicts flip under
these cannot be trusted, however high its AUROC on the pictures as they came.
"""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from admodels.core.calibration import Calibration
from admodels.core.detector import Detector
from admodels.core.results import OnProgress, Progress
from admodels.pictures.images import ImageLike

MAX_IMAGES = 24


@dataclass(frozen=True)
class Shift:
    """What one change does to the scores.

    Attributes:
        change: its name, a key of `CHANGES`.
        mean_shift: of the scores, in standard deviations of the held-out normals' scores; None where those are equal.
        mean_absolute_shift: the same, whichever direction.
        n_new_alarms, n_lost_alarms: verdicts that flip.
        before, after: raw scores of the same pictures, good and defective ones.
    """

    change: str
    mean_shift: float | None
    mean_absolute_shift: float | None
    n_new_alarms: int
    n_lost_alarms: int
    before: tuple[float, ...]
    after: tuple[float, ...]


def _jpeg(pixels: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return np.asarray(Image.open(buffer))


def _brightness(pixels: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(np.rint(pixels * factor), 0, 255).astype(np.uint8)


def _rotated(pixels: np.ndarray, degrees: float = 2.0) -> np.ndarray:
    height, width = pixels.shape[:2]
    margin = int(np.ceil(max(height, width) * np.sin(np.radians(degrees)))) + 1
    padded = Image.fromarray(_mirrored(pixels, margin, margin)).rotate(degrees, Image.Resampling.BILINEAR)
    return np.asarray(padded)[margin : margin + height, margin : margin + width]


def _shifted(pixels: np.ndarray, ratio: float = 0.02) -> np.ndarray:
    height, width = pixels.shape[:2]
    down, right = max(1, round(ratio * height)), max(1, round(ratio * width))
    return _mirrored(pixels, down, right)[:height, :width]


def _noisy(pixels: np.ndarray, ratio: float = 0.02) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 255 * ratio, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def _mirrored(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    # What a black border would do to the scores is not the question.
    return np.pad(pixels, ((rows, rows), (columns, columns), (0, 0)), mode="reflect")


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "JPEG, quality 90": _jpeg,
    "10 % brighter": lambda pixels: _brightness(pixels, 1.1),
    "10 % darker": lambda pixels: _brightness(pixels, 0.9),
    "rotated by 2°": _rotated,
    "shifted by 2 %": _shifted,
    "noise, σ 2 %": _noisy,
}


def spread_out(is_defective: Sequence[bool], n: int = MAX_IMAGES) -> list[int]:
    """Positions of at most `n` pictures, half of them defective where there are enough, evenly spaced."""
    labels = np.asarray(is_defective, dtype=bool)
    good, defective = np.flatnonzero(~labels), np.flatnonzero(labels)
    n_defective = min(len(defective), max(n // 2, n - len(good)))
    parts = ((good, min(len(good), n - n_defective)), (defective, n_defective))
    return sorted(int(part[i]) for part, k in parts if k for i in np.linspace(0, len(part) - 1, k).round().astype(int))


def check_robustness(
    detector: Detector, images: Sequence[ImageLike], *, on_progress: OnProgress | None = None
) -> tuple[Shift, ...]:
    """Score the pictures as they are and after each of the `CHANGES`, made at their original size."""
    before: list[float] = []
    after: dict[str, list[float]] = {name: [] for name in CHANGES}
    started = time.perf_counter()
    for image in images:  # one after the other: large ones and their changed copies take much memory
        pixels = detector.read(image).pixels
        changed = [pixels, *(change(pixels) for change in CHANGES.values())]
        score, *others = (prediction.score for prediction in detector.predict_stream(changed))
        before.append(score)
        for name, other in zip(CHANGES, others, strict=True):
            after[name].append(other)
        if on_progress is not None:
            seconds = time.perf_counter() - started
            on_progress(Progress("checking robustness", len(before), len(images), seconds))
    return tuple(shift(name, tuple(before), tuple(scores), detector.calibration_) for name, scores in after.items())


def shift(change: str, before: tuple[float, ...], after: tuple[float, ...], calibration: Calibration) -> Shift:
    """What moving from the scores `before` to `after` means at the calibration's threshold."""
    old, new, spread = np.array(before), np.array(after), float(np.std(calibration.scores))
    moved = (new - old) / spread if spread > 0 and before else None
    was_alarm, is_alarm = old > calibration.threshold, new > calibration.threshold
    return Shift(
        change=change,
        mean_shift=None if moved is None else float(moved.mean()),
        mean_absolute_shift=None if moved is None else float(np.abs(moved).mean()),
        n_new_alarms=int((is_alarm & ~was_alarm).sum()),
        n_lost_alarms=int((was_alarm & ~is_alarm).sum()),
        before=before,
        after=after,
    )

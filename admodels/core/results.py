"""What a fit and a prediction give back."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol, Self

import numpy as np

BORDERLINE_P = 0.05
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)  # regions touch at corners too, as in MVTec's own evaluation


@dataclass(frozen=True)
class Progress:
    """Where a fit stands, `seconds` after the stage began.

    Stages: "learning" and "setting the threshold" count pictures, "selecting the coreset" (of methods with a memory
    bank) vectors, "computing the covariances" positions, "training" (of methods that train a network) steps, with the
    loss of the last ones; before the first step there is none.
    """

    stage: str
    done: int
    total: int
    seconds: float
    loss: float | None = None

    @property
    def fraction(self) -> float:
        """Done, from 0 to 1."""
        return self.done / max(self.total, 1)


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class FitReport:
    """What a fit did.

    Attributes:
        n_learned, n_held_out: pictures the model learned from, and pictures that set the threshold; most methods learn
            from those too, afterwards.
        n_duplicates: pictures that are exact copies of another one in the set.
        seconds: wall time of the whole fit, reading included.
        peak_memory_mib: highest resident memory of the process during the fit; on a GPU, of tensors there.
        n_folds: how many models held pictures out in turn; 0 where a part was held out once.
        notices: what the user should know about how the pictures were read.
        n_learned_later: how many of those held out were learned from once they were scored, without folds.
    """

    n_learned: int
    n_held_out: int
    n_duplicates: int
    seconds: float
    peak_memory_mib: float
    n_folds: int = 0
    notices: tuple[str, ...] = ()
    n_learned_later: int = 0

    @property
    def images_per_second(self) -> float:
        """Pictures given, learned from or held out, per second of wall time."""
        n = self.n_learned if self.n_folds else self.n_learned + self.n_held_out - self.n_learned_later
        return n / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class Origin:
    """Where and when a saved model was fitted; it stays with the model wherever that is saved again.

    Attributes:
        fitted_on: device and precision.
        saved_at: when it was first saved, ISO 8601 in UTC.
        versions: of the packages that it was fitted with, by name.
    """

    fitted_on: Mapping[str, str]
    saved_at: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Estimate:
    """What a fit will take, said before it starts.

    Attributes:
        n_learned, n_held_out: pictures that will be learned from, and pictures that will set the threshold.
        seconds: wall time of the whole fit.
        peak_memory_mib: highest resident memory of this process; on a GPU, of the GPU.
        available_mib: what this process may use there, its present use included.
        model_mib: size of the learned state.
        advice: which options make the fit smaller.
        network: what sees the pictures.
        download_mib: of the network's weights, which are not here yet; its time is not part of `seconds`.
    """

    n_learned: int
    n_held_out: int
    seconds: float
    peak_memory_mib: float
    available_mib: float
    model_mib: float
    advice: str
    network: str = ""
    download_mib: float = 0.0

    @property
    def notice(self) -> str | None:
        """What comes before the fit; None where nothing does."""
        if not self.download_mib:
            return None
        return (
            f"The weights of {self.network} are not on this machine yet: about {self.download_mib:,.0f} MiB will be "
            "downloaded first, in addition to this time."
        )

    @property
    def warning(self) -> str | None:
        """Why this fit should not be started, and what to change; None where it fits."""
        if self.peak_memory_mib <= self.available_mib:
            return None
        return (
            f"This fit needs about {self.peak_memory_mib:,.0f} MiB and only {self.available_mib:,.0f} MiB are free. "
            f"It would run out of memory. To avoid this, {self.advice}."
        )


class Verdict(StrEnum):
    """What is said of a picture."""

    GOOD = "good"
    BORDERLINE = "borderline"  # below the threshold, but more unusual than nearly all good pictures
    SUSPECTED = "suspected"


def verdict_of(score: float, threshold: float, p_value: float) -> Verdict:
    """Suspected above the threshold; below it borderline where no more than 5 % of good pictures score as high."""
    if score > threshold:
        return Verdict.SUSPECTED
    return Verdict.BORDERLINE if p_value <= BORDERLINE_P else Verdict.GOOD


@dataclass(frozen=True)
class Region:
    """Connected pixels above the pixel threshold, in pixels of the original picture; they touch at corners too.

    Attributes:
        left, top, right, bottom: the box around them; right and bottom are the first that are not in it.
        area: how many they are.
        peak: the largest value of the anomaly map there.
    """

    left: int
    top: int
    right: int
    bottom: int
    area: int
    peak: float


class Thresholds(Protocol):
    """What a `Calibration` says of scores and of maps."""

    @property
    def threshold(self) -> float:
        """Raw score above which a picture counts as anomalous."""

    @property
    def map_threshold(self) -> float:
        """Value above which a pixel counts as anomalous."""


@dataclass(frozen=True)
class Prediction:
    """The verdict on one picture. Higher is always more anomalous.

    Attributes:
        score: raw image score.
        anomaly_map: float32 H×W at the original picture's size; NaN where a crop left the border unscored.
        threshold: raw score above which a picture counts as anomalous.
        map_threshold: value above which a pixel counts as anomalous.
        p_value: how usual this score is among held-out normals, in [1 / (n + 1), 1].
        rarer_than: fraction of held-out normals with a lower score, in [0, 1].
        scale: bottom and top of the heatmap's colours, fixed per model.
        notices: what the user should know about how the picture was read.
        parts: the maps that the anomaly map is made of, by name, on its scale and of its size; most methods have none.
        tile_scores: float32 (rows, columns), the score of each tile of an ensemble; None elsewhere.
        background: the value that a tenth of the map's pixels do not exceed, before the map was brought to the
            picture's size: how unusual the picture is where it is most normal. Another light raises it, a defect does
            not.
    """

    score: float
    anomaly_map: np.ndarray = field(repr=False)
    threshold: float
    map_threshold: float
    p_value: float
    rarer_than: float
    scale: tuple[float, float]
    notices: tuple[str, ...] = ()
    parts: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    tile_scores: np.ndarray | None = None
    background: float = math.nan

    def judged(self, calibration: "Thresholds") -> Self:
        """The same scores, by other thresholds of the same model."""
        return replace(self, threshold=calibration.threshold, map_threshold=calibration.map_threshold)

    def as_dict(self) -> dict[str, object]:
        """What is said of the picture as a whole, in plain values, for JSON."""
        return {
            "score": self.score,
            "threshold": self.threshold,
            "p_value": self.p_value,
            "is_anomalous": self.is_anomalous,
            "verdict": self.verdict.value,
            "notices": list(self.notices),
        }

    @property
    def is_anomalous(self) -> bool:
        """Whether the score exceeds the threshold."""
        return self.score > self.threshold

    @property
    def verdict(self) -> Verdict:
        """Good, borderline or suspected."""
        return verdict_of(self.score, self.threshold, self.p_value)

    @property
    def mask(self) -> np.ndarray:
        """bool H×W: the pixels above the pixel threshold; an unscored border is never part of it."""
        return np.nan_to_num(self.anomaly_map, nan=-np.inf) > self.map_threshold

    @property
    def own_scale(self) -> tuple[float, float]:
        """Smallest and largest value of this picture's anomaly map; apart, where all are the same."""
        low, high = float(np.nanmin(self.anomaly_map)), float(np.nanmax(self.anomaly_map))
        return low, high if high > low else low + 1.0

    @property
    def hottest(self) -> tuple[int, int]:
        """(x, y) of the largest value of the anomaly map, in pixels of the original picture."""
        y, x = np.unravel_index(np.nan_to_num(self.anomaly_map, nan=-np.inf).argmax(), self.anomaly_map.shape)
        return int(x), int(y)

    @property
    def regions(self) -> tuple[Region, ...]:
        """The connected parts of the mask, that with the largest value first."""
        from scipy.ndimage import find_objects, label  # here, since it takes a while that not everybody needs

        numbers, _ = label(self.mask, EIGHT_NEIGHBOURS)
        found = []
        for number, box in enumerate(find_objects(numbers), 1):
            inside = numbers[box] == number
            (top, bottom), (left, right) = ((side.start, side.stop) for side in box)
            peak = float(self.anomaly_map[box][inside].max())
            found.append(Region(left, top, right, bottom, int(inside.sum()), peak))
        return tuple(sorted(found, key=lambda region: -region.peak))


def size_text(mib: float) -> str:
    """A size as a person reads it: 38 KiB, 4.5 MiB, 1,240 MiB."""
    if mib < 1:
        return f"{max(1, round(1024 * mib))} KiB" if mib > 0 else "0 KiB"
    return f"{mib:.1f} MiB" if mib < 100 else f"{mib:,.0f} MiB"

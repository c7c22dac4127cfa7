"""What held-out normals say: the threshold, the p-value and the fixed colour scale.

A part of the normals is held out. Their raw scores are exchangeable with the score of any later normal picture, so a
conformal threshold holds its false-alarm rate without any assumption about their distribution (split conformal
prediction; Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005). Most methods then learn from
that part too, piece by piece: a model that has learned from more scores later normals a little lower, and alarms less
often.

Small sets cannot spare pictures: there every picture is held out once, from a model that learned from the other folds
(cross-conformal; Vovk, "Cross-conformal predictors", 2015). The rate then holds approximately, and the final model
learned from all.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from torch import Tensor

from admodels.errors import OptionError, ScoreError
from admodels.runtime.finite import are_finite

DEFAULT_RATE = 0.01  # of false alarms
MIN_IMAGES = 4
MIN_HELD_OUT = 5
MIN_TO_COMPARE = 8  # scores, to say which stand apart from the others
DEFAULT_FOLDS = 5
MAX_FOLDS = 20
MAX_CROSS_IMAGES = 100  # up to so many pictures folds are the default, for methods that learn in seconds

# A picture's score alone and among others differs by rounding, up to 1e-5 of it (measured over all methods): the
# picture that sets the threshold must not alarm by that.
ROUNDING_RATIO = 1e-4

BACKGROUND_RATIO = 0.1  # of the pixels: few defects and their surroundings leave less of a picture as it should be

SCALE_RATE = 0.01  # the heatmap's colours stay where they are when the threshold moves
# Fractions of pixels for which the value that they exceed is kept: 1, and on down to one in a million.
TAIL_RATIOS = 10.0 ** -np.arange(0, 6.01, 0.125)
N_KEPT_MAPS = 10  # of the most unusual good pictures, for somebody to look at
PIXELS_PER_MAP = 64 * 64  # maps are smooth: a grid of their pixels has the same distribution


@dataclass(frozen=True)
class Calibration:
    """Held-out scores and what follows from them.

    Attributes:
        scores: raw image scores of the held-out normals, ascending.
        map_maxima: largest value of each held-out anomaly map, ascending.
        map_median: the median over all pixels of the held-out maps: the bottom of the colour scale.
        false_alarm_rate: the rate that was asked for, in (0, 1).
        n_before_update: how many of the scores were measured before the model was last updated.
        n_folds: 0 where one part was held out, before the model learned from it if at all; else every normal was held
            out once from one of so many models, and the final one learned from all (cross-conformal).
        hand_threshold: a threshold set by hand; None where it follows from the rate.
        pixel_tail: the values that the fractions `TAIL_RATIOS` of the held-out maps' pixels reach, ascending; empty in
            models saved before it was kept.
        n_pixels: how many pixels those are taken from.
        backgrounds: the `background` of each held-out map, ascending: how unusual good pictures are where they are most
            normal; empty in models saved before it was kept.
        rounding_ratio: thresholds lie above the held-out value they follow from by this part of it, since the same
            picture scores a little differently alone and among others; 0 in models saved before this was so.
    """

    scores: tuple[float, ...]
    map_maxima: tuple[float, ...]
    map_median: float
    false_alarm_rate: float = DEFAULT_RATE
    n_before_update: int = 0
    n_folds: int = 0
    hand_threshold: float | None = None
    pixel_tail: tuple[float, ...] = ()
    n_pixels: int = 0
    rounding_ratio: float = 0.0
    backgrounds: tuple[float, ...] = ()

    @property
    def threshold(self) -> float:
        """Raw score above which a picture counts as anomalous."""
        if self.hand_threshold is not None:
            return self.hand_threshold
        return self._beyond_rounding(conformal_threshold(self.scores, self.false_alarm_rate), self.scores)

    @property
    def map_threshold(self) -> float:
        """Value above which a pixel counts as anomalous: the same rule over the maxima of the held-out maps.

        With a threshold set by hand, as many held-out maps have pixels above it as held-out scores lie above that.
        """
        rate = self.false_alarm_rate
        if self.hand_threshold is not None:
            rate = (1 + self.n_above) / (len(self.scores) + 1)
        return self._beyond_rounding(conformal_threshold(self.map_maxima, rate), self.map_maxima)

    def _beyond_rounding(self, value: float, values: tuple[float, ...]) -> float:
        return value + self.rounding_ratio * max(abs(value), float(np.median(np.abs(values))))

    @property
    def n_above(self) -> int:
        """How many held-out scores lie above the threshold."""
        return len(self.scores) - int(np.searchsorted(self.scores, self.threshold, side="right"))

    @property
    def scale(self) -> tuple[float, float]:
        """Bottom and top of the heatmap's colours, the same for every picture and every threshold.

        In the middle lies the pixel threshold for a rate of 1 %: what is normal stays in the lower half.
        """
        middle = conformal_threshold(self.map_maxima, SCALE_RATE)
        return self.map_median, self.map_median + 2 * max(middle - self.map_median, 1e-6)

    @property
    def supports_rate(self) -> bool:
        """Whether there are enough held-out normals for the requested rate; always with a threshold set by hand."""
        return self.hand_threshold is not None or _rank(len(self.scores), self.false_alarm_rate) <= len(self.scores)

    @property
    def statement(self) -> str:
        """How the threshold was set, in one plain sentence."""
        n = len(self.scores)
        how = f", each once, in {self.n_folds} folds," if self.n_folds else ""
        if self.hand_threshold is not None:
            above = f"{self.n_above} of {n} good pictures kept aside{how} ({self.n_above / n:.1%})"
            return f"Set by hand: {above} lie above it."
        if self.supports_rate:
            most = "at most about" if self.n_folds else "at most"
            rate = f"{self.false_alarm_rate:.2%}"
            return f"Set so that {most} {rate} of good pictures alarm, from {n} kept aside{how.rstrip(',')}."
        takes = f"For {self.false_alarm_rate:.2%} it takes {n_needed(self.false_alarm_rate):,}."
        return (
            f"{n} good pictures kept aside{how} can promise {1 / (n + 1):.1%} false alarms at best: the threshold is "
            f"the largest of their scores. {takes}"
        )

    def with_rate(self, false_alarm_rate: float) -> Self:
        """The same scores with the threshold for another false-alarm rate.

        Raises:
            OptionError: the rate does not lie between 0 and 1.
        """
        return replace(self, false_alarm_rate=check_rate(false_alarm_rate), hand_threshold=None)

    def with_threshold(self, threshold: float) -> Self:
        """The same scores with a threshold set by hand.

        Raises:
            OptionError: it is not a finite number.
        """
        try:
            value = float(threshold) if _is_real(threshold) else math.nan
        except OverflowError:  # a whole number beyond what a float can hold
            value = math.inf
        if not math.isfinite(value):
            raise OptionError(
                f"threshold is {_shown(threshold)}; expected a finite raw score such as {self.threshold:.4g}."
            )
        return replace(self, hand_threshold=value)

    def joined(self, later: "Calibration") -> Self:
        """These scores and those measured after an update; rate and threshold stay as they are here."""
        n, n_later = len(self.scores), len(later.scores)
        return replace(
            self,
            scores=tuple(sorted(self.scores + later.scores)),
            map_maxima=tuple(sorted(self.map_maxima + later.map_maxima)),
            map_median=(n * self.map_median + n_later * later.map_median) / (n + n_later),
            n_before_update=n,
            pixel_tail=_joined_tails(self, later) if self.pixel_tail else (),
            n_pixels=self.n_pixels + later.n_pixels if self.pixel_tail else 0,
            backgrounds=tuple(sorted(self.backgrounds + later.backgrounds)) if self.backgrounds else (),
        )

    def pixel_p_values(self, values: np.ndarray) -> np.ndarray:
        """How usual each pixel's value is in held-out normals: the fraction of their pixels that reach it.

        Between the kept ratios the logarithm is linear in the value; nothing is below 1 / (n_pixels + 1).

        Raises:
            OptionError: the model was saved before these were kept.
        """
        if not self.pixel_tail:
            raise OptionError("this model was saved by an earlier version, without its pixels' values. Fit it again.")
        log_ratios = np.log10(TAIL_RATIOS[: len(self.pixel_tail)])
        beyond = -np.log10(self.n_pixels + 1)
        return 10 ** np.interp(values, self.pixel_tail, np.maximum(log_ratios, beyond), left=0.0, right=beyond)

    def p_value(self, score: float) -> float:
        """(1 + number of held-out scores ≥ `score`) / (n + 1): how usual this score is for a good picture."""
        n_at_least = len(self.scores) - int(np.searchsorted(self.scores, score, side="left"))
        return (1 + n_at_least) / (len(self.scores) + 1)

    def rarer_than(self, score: float) -> float:
        """The fraction of held-out normals whose score is below `score`."""
        return float(np.searchsorted(self.scores, score, side="left")) / len(self.scores)

    def finding_rate(self, score: float) -> float | None:
        """The smallest false-alarm rate at whose threshold a score alarms, in steps of 0.1 %.

        Returns:
            None where no rate up to 50 % does.
        """
        step = bisect_left(range(1, 501), True, key=lambda step: self.with_rate(step / 1000).threshold < score)
        return (step + 1) / 1000 if step < 500 else None


class HeldOutScores:
    """Collects what a calibration keeps of held-out normals, batch by batch."""

    def __init__(self) -> None:
        self._scores: list[float] = []
        self._maxima: list[float] = []
        self._medians: list[float] = []
        self._backgrounds: list[float] = []
        self._pixels: list[np.ndarray] = []
        self.maps: dict[int, Tensor] = {}  # of the most unusual ones, on the CPU, by the order in which they came

    def add(self, scores: Tensor, maps: Tensor) -> None:
        """Take in image scores (B,) and anomaly maps (B, h, w), on any device.

        Raises:
            ScoreError: one of them is not a finite number.
        """
        # A GPU is waited for here and nowhere below; and MPS lacks some of what follows.
        scores, maps = scores.cpu(), maps.cpu()
        check_finite("the score of a held-out picture", scores, maps)
        first = len(self._scores)
        self._scores += scores.tolist()
        kept = sorted(range(len(self._scores)), key=lambda i: -self._scores[i])[:N_KEPT_MAPS]
        self.maps = {i: self.maps[i] if i < first else maps[i - first].clone() for i in kept}
        self._maxima += maps.flatten(1).amax(1).tolist()
        self._medians += maps.flatten(1).median(1).values.tolist()
        self._backgrounds += background(maps).tolist()
        self._pixels.append(_grid(maps).flatten().numpy())

    @property
    def in_order(self) -> tuple[float, ...]:
        """The scores in the order in which they came."""
        return tuple(self._scores)

    def calibration(self, false_alarm_rate: float, n_folds: int = 0) -> Calibration:
        """The calibration from all of them."""
        pixels = np.sort(np.concatenate(self._pixels))
        reached = len(pixels) - np.maximum(1, np.ceil(TAIL_RATIOS * len(pixels) - 1e-9).astype(int))
        return Calibration(
            scores=tuple(sorted(self._scores)),
            map_maxima=tuple(sorted(self._maxima)),
            map_median=float(np.median(self._medians)),
            false_alarm_rate=false_alarm_rate,
            n_folds=n_folds,
            pixel_tail=tuple(pixels[reached].tolist()),
            n_pixels=len(pixels),
            rounding_ratio=ROUNDING_RATIO,
            backgrounds=tuple(sorted(self._backgrounds)),
        )


def background(maps: Tensor) -> Tensor:
    """Of anomaly maps (B, h, w) the value that a tenth of the pixels do not exceed (B,), however hot a defect is."""
    pixels = _grid(maps).flatten(1)
    return pixels.kthvalue(max(1, round(BACKGROUND_RATIO * pixels.shape[1])), dim=1).values


def _grid(maps: Tensor) -> Tensor:
    """About `PIXELS_PER_MAP` pixels of each map (B, h, w), evenly spread."""
    step = max(1, round((maps[0].numel() / PIXELS_PER_MAP) ** 0.5))
    return maps[:, step // 2 :: step, step // 2 :: step]


def n_apart(scores: Sequence[float]) -> int:
    """How many of some good pictures' scores, descending, stand apart: far out, as Tukey (1977) calls it.

    That is above the third quartile by more than three times the distance of the quartiles.
    """
    if len(scores) < MIN_TO_COMPARE:
        return 0
    low, high = np.quantile(scores, [0.25, 0.75])
    return int((np.asarray(scores) > high + 3 * (high - low)).sum())


def check_finite(what: str, *tensors: Tensor) -> None:
    """Refuse numbers that no verdict could be built on: a NaN lies above no threshold, so it would look good.

    Raises:
        ScoreError: a value is NaN or infinite.
    """
    for tensor in tensors:
        if tensor.is_floating_point() and not are_finite(tensor):
            raise ScoreError(
                f"{what} is NaN or infinite. Use the option precision=float32; if that does not help, fit again "
                "without outlier pictures."
            )


def check_rate(false_alarm_rate: float) -> float:
    """Return the rate if it lies strictly between 0 and 1, else raise an `OptionError`."""
    if not _is_real(false_alarm_rate) or not 0 < false_alarm_rate < 1:
        raise OptionError(
            f"false_alarm_rate is {_shown(false_alarm_rate)}; expected a fraction between 0 and 1, such as 0.01."
        )
    return float(false_alarm_rate)


def check_ratio(held_out_ratio: float) -> float:
    """Return the ratio if it lies above 0 and at most at 0.5, else raise an `OptionError`."""
    if not _is_real(held_out_ratio) or not 0 < held_out_ratio <= 0.5:
        raise OptionError(f"held_out_ratio is {_shown(held_out_ratio)}; expected a fraction above 0 and up to 0.5.")
    return float(held_out_ratio)


def check_folds(n_folds: int | None) -> int | None:
    """Return the number of folds if it is None, 0, or from 2 to 20, else raise an `OptionError`."""
    if n_folds is None:
        return None
    if not _is_whole(n_folds) or not (n_folds == 0 or 2 <= n_folds <= MAX_FOLDS):
        raise OptionError(f"n_folds is {_shown(n_folds)}; expected 0 (one split), or from 2 to {MAX_FOLDS}.")
    return int(n_folds)


def check_seed(seed: int) -> int:
    """Return the seed if it is a whole number from 0 to 2⁶⁴ − 1, else raise an `OptionError`."""
    if not _is_whole(seed) or not 0 <= seed < 2**64:
        raise OptionError(f"seed is {_shown(seed)}; expected a whole number, 0 or more, such as 0.")
    return int(seed)


def _is_real(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    """2.0 is: JSON and spreadsheets write whole numbers so."""
    if isinstance(value, float | np.floating):
        return float(value).is_integer()
    return _is_real(value)


def _shown(value: object) -> str:
    """What came, in few characters."""
    if isinstance(value, int) and value.bit_length() > 128:  # Python refuses to write very long ones
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def conformal_threshold(scores: tuple[float, ...] | np.ndarray, false_alarm_rate: float) -> float:
    """The ⌈(n + 1)(1 − rate)⌉-th smallest score; the largest where n is too small for the rate.

    A new exchangeable normal exceeds it with probability at most `false_alarm_rate` where n is large enough.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    return float(ordered[min(_rank(len(ordered), false_alarm_rate), len(ordered)) - 1])


def split_held_out(groups: list[int], held_out_ratio: float, seed: int) -> tuple[list[int], list[int]]:
    """Choose which pictures are never learned from.

    Args:
        groups: for each picture, the position of the first picture with the same contents (its own where unique).
            Copies stay on the same side, else a held-out score would be that of a picture that was learned.
        held_out_ratio: the fraction to hold out; at least 5 where that leaves as many to learn from.
        seed: of the choice.

    Returns:
        Positions to learn from and positions held out, each ascending.

    Raises:
        OptionError: fewer than 4 different pictures, or a ratio outside (0, 0.5].
    """
    check_ratio(held_out_ratio)
    unique = _unique(groups)
    n = len(unique)
    n_held_out = min(max(round(held_out_ratio * n), MIN_HELD_OUT), n // 2)
    chosen = set(np.random.default_rng(seed).permutation(unique)[:n_held_out].tolist())
    held_out = [i for i, group in enumerate(groups) if group in chosen]
    return [i for i, group in enumerate(groups) if group not in chosen], held_out


def split_folds(groups: list[int], n_folds: int, seed: int) -> list[list[int]]:
    """Cut the pictures into folds of about equal size; copies stay together.

    Args:
        groups: as for `split_held_out`.
        n_folds: at least 2; at most one for each different picture.
        seed: of the shuffle.

    Returns:
        Positions of each fold, ascending.

    Raises:
        OptionError: fewer than 4 different pictures, or a number of folds out of range.
    """
    unique = _unique(groups)
    check_folds(n_folds)
    shuffled = np.random.default_rng(seed).permutation(unique)
    parts = [set(part.tolist()) for part in np.array_split(shuffled, min(n_folds, len(unique)))]
    return [[i for i, group in enumerate(groups) if group in part] for part in parts]


def _joined_tails(earlier: Calibration, later: Calibration) -> tuple[float, ...]:
    """The tail of both sets of pixels together, from what each kept of its own."""
    values = np.unique(earlier.pixel_tail + later.pixel_tail)
    n = earlier.n_pixels + later.n_pixels
    ratios = sum(c.n_pixels / n * c.pixel_p_values(values) for c in (earlier, later))
    descending = np.interp(-np.log(TAIL_RATIOS), -np.log(ratios), values)
    return tuple(descending.tolist())


def _unique(groups: list[int]) -> list[int]:
    unique = sorted(set(groups))
    n = len(unique)
    if n < MIN_IMAGES:
        raise OptionError(
            f"{n} different good picture{'s' if n != 1 else ''} given ({len(groups)} in all); at least {MIN_IMAGES} "
            "are needed, because some are held out to set the threshold. Add more pictures."
        )
    return unique


def n_needed(false_alarm_rate: float) -> int:
    """How many held-out normals it takes for a threshold to promise this false-alarm rate."""
    return math.ceil(1 / false_alarm_rate - 1e-9) - 1  # the quotient may be a rounding above a whole number


def _rank(n: int, false_alarm_rate: float) -> int:
    # The subtraction keeps (n + 1)·(1 − rate) from being pushed over a whole number by rounding.
    return max(1, math.ceil((n + 1) * (1 - false_alarm_rate) - 1e-9))

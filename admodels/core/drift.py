"""Whether pictures are unlike the good ones as a group: light, camera or product have changed, not single parts.

A defect is a spot. It raises its picture's score, which looks at the hottest place, and leaves the rest of the map
where it was. Another light raises the map everywhere, in nearly every picture. So a batch has drifted where

- the backgrounds of its maps rank above those of the held-out good pictures, by more than chance (the rank-sum test:
  Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than the other", 1947)
  and by much: a picture of the batch exceeds a good one in at least `MIN_BACKGROUND` of all pairs, so a usual share of
  defective pictures does not count;
- its scores rank above theirs too, if less clearly: what moves no score needs no attention; and
- the background rises more than the score, each in units of its spread over good pictures, or very far. Of defective
  pictures the score rises more, mostly by far.

The first of these alone keeps the rate at which ordinary batches are called drift below `MAX_CHANCE`. The last costs
some changes that heat single spots as well, such as overexposure: those are said by the verdicts.

Only one side counts: pictures more usual than the good ones are none the worse for it. `tests.core.measure_drift`
measures on real pictures what is called drift and what is not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from admodels.core.calibration import Calibration

MIN_GROUP = 8  # fewer say nothing of a group
MAX_CHANCE, MIN_BACKGROUND = 0.005, 0.75
MAX_SCORE_CHANCE, MIN_SCORE = 0.05, 0.6
# The background's rise over the score's. Over nine sets and two methods whole sets of defective pictures reached 0.93,
# long fibres on paper with PaDiM-iSVD, and else 0.83; most changes of all of a picture lie above 1.5. At 1.25, 2 of
# 1,040 random batches of defective pictures alone are called drift, at 1.0 there are 17.
MIN_RISE_RATIO = 1.25
# Of the background, which no defects reached (4.3): then all of each picture is unusual, hot spots or not.
FAR_RISE = 8.0


@dataclass(frozen=True)
class Drift:
    """How a batch of pictures compares with the held-out good ones.

    Attributes:
        n: pictures of the batch.
        score_exceeds, background_exceeds: in what fraction of all pairs a picture of the batch exceeds a held-out one,
            by its score and by the background of its map; 0.5 where they are alike.
        score_rise, background_rise: how far their medians lie above those of the held-out pictures, in units of the
            spread of those.
        score_chance, background_chance: about how often they exceed as much in a batch of good pictures like those held
            out.
    """

    n: int
    score_exceeds: float
    background_exceeds: float
    score_rise: float
    background_rise: float
    score_chance: float
    background_chance: float

    @property
    def is_drift(self) -> bool:
        """Whether the batch as a whole is unlike the good pictures."""
        return (
            self.background_chance <= MAX_CHANCE
            and self.background_exceeds >= MIN_BACKGROUND
            and self.score_chance <= MAX_SCORE_CHANCE
            and self.score_exceeds >= MIN_SCORE
            and self.background_rise >= min(MIN_RISE_RATIO * self.score_rise, FAR_RISE)
        )

    @property
    def statement(self) -> str:
        """What that means, in one plain sentence; empty where there is no drift."""
        if not self.is_drift:
            return ""
        return (
            f"As a group, these {self.n} pictures are unlike the good ones, and not only in spots: light, camera or "
            "product may have changed."
        )


def drift_of(calibration: Calibration, scores: Sequence[float], backgrounds: Sequence[float]) -> Drift | None:
    """Compare a batch of pictures with the held-out good ones.

    Args:
        scores, backgrounds: `Prediction.score` and `Prediction.background` of each picture.

    Returns:
        None where it cannot be said: there are fewer than 8 pictures, or the model was saved before the backgrounds of
        its held-out maps were kept.
    """
    if len(scores) < MIN_GROUP or not calibration.backgrounds:
        return None
    score_exceeds, score_chance = rank_sum(scores, calibration.scores)
    background_exceeds, background_chance = rank_sum(backgrounds, calibration.backgrounds)
    return Drift(
        n=len(scores),
        score_exceeds=score_exceeds,
        background_exceeds=background_exceeds,
        score_rise=_rise(scores, calibration.scores),
        background_rise=_rise(backgrounds, calibration.backgrounds),
        score_chance=score_chance,
        background_chance=background_chance,
    )


def rank_sum(sample: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """The one-sided rank-sum test of two samples.

    Returns:
        In what fraction of all pairs a value of `sample` exceeds one of `others`, ties counted half; and the chance of
        as large a fraction where both are of one distribution, by the normal approximation with its correction for
        continuity. Ties make it too large, never too small.
    """
    ordered, values = np.sort(others), np.asarray(sample)
    below, up_to = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    n, m = len(values), len(ordered)
    n_pairs = float((below + up_to).sum()) / 2
    z = (n_pairs - n * m / 2 - 0.5) / math.sqrt(n * m * (n + m + 1) / 12)
    return n_pairs / (n * m), 0.5 * math.erfc(z / math.sqrt(2))


def _rise(sample: Sequence[float], others: Sequence[float]) -> float:
    """From median to median, in median absolute deviations of the others."""
    middle = float(np.median(others))
    spread = float(np.median(np.abs(np.asarray(others) - middle))) or float(np.std(others))
    rise = float(np.median(sample)) - middle
    return rise / max(spread, 1e-12 * max(abs(middle), 1e-12))

"""What a lower false-alarm rate costs: what the thresholds for a few rates find of labelled pictures.

AUROC says how well pictures are ranked, over all thresholds. Whoever uses a model has one, set before any defect was
seen. So these are the thresholds that the model itself sets from its held-out normals, never ones chosen by the test
pictures, and beside what they find stands how many good test pictures really alarmed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from admodels.core.calibration import Calibration

RATES = (0.01, 0.05, 0.1)


@dataclass(frozen=True, kw_only=True)
class AtRate:
    """Labelled pictures judged by the threshold for one false-alarm rate.

    Attributes:
        rate: the false-alarm rate that the threshold is set for, in (0, 1).
        n_held_out: normals that it is set from.
        threshold: raw score above which a picture alarms; None where the held-out normals are too few for this rate,
            and then `n_found`, `detection_rate`, `n_false_alarms` and `false_alarm_rate` are None too.
        n_found, detection_rate: alarms among the `n_defective` defective pictures; the fraction is None without any.
        n_false_alarms, false_alarm_rate: alarms among the `n_good` good pictures; the fraction is None without any.
    """

    rate: float
    n_held_out: int
    threshold: float | None
    n_defective: int
    n_found: int | None
    detection_rate: float | None
    n_good: int
    n_false_alarms: int | None
    false_alarm_rate: float | None

    @property
    def is_promised(self) -> bool:
        """Whether the held-out normals are enough for this rate."""
        return self.threshold is not None


def at_rates(labels: np.ndarray, scores: np.ndarray, calibration: Calibration) -> tuple[AtRate, ...]:
    """What the model's own thresholds for `RATES` do, ascending by rate.

    Where the held-out normals are too few for the lowest of them, the lowest rate that they can promise is there too.

    Args:
        labels: bool (n,), which pictures are defective.
        scores: float (n,), raw.
        calibration: of the model; its current threshold does not matter.
    """
    rates = set(RATES)
    if not calibration.with_rate(min(RATES)).supports_rate:
        rates.add(1 / (len(calibration.scores) + 1))
    return tuple(_at_rate(labels, scores, calibration.with_rate(rate)) for rate in sorted(rates))


def _at_rate(labels: np.ndarray, scores: np.ndarray, calibration: Calibration) -> AtRate:
    threshold = calibration.threshold if calibration.supports_rate else None
    n_defective, n_good = int(labels.sum()), int((~labels).sum())
    n_found = n_false_alarms = None
    if threshold is not None:
        alarms = scores > threshold
        n_found, n_false_alarms = int(alarms[labels].sum()), int(alarms[~labels].sum())
    return AtRate(
        rate=calibration.false_alarm_rate,
        n_held_out=len(calibration.scores),
        threshold=threshold,
        n_defective=n_defective,
        n_found=n_found,
        detection_rate=_fraction(n_found, n_defective),
        n_good=n_good,
        n_false_alarms=n_false_alarms,
        false_alarm_rate=_fraction(n_false_alarms, n_good),
    )


def _fraction(n_hits: int | None, n: int) -> float | None:
    return None if n_hits is None or n == 0 else n_hits / n


def found_at(row: Mapping[str, Any], rate: float) -> tuple[float | None, float | None]:
    """Detection rate and false-alarm rate at one of `RATES`, from an evaluation's fields as JSON has them.

    None where the rate could not be promised, or where an earlier version measured, which did not keep these.
    """
    for at in row.get("at_rates", ()):
        if at["rate"] == rate:
            return at["detection_rate"], at["false_alarm_rate"]
    return None, None

"""How long an EfficientAD trains: the paper's schedule where there is time for it, else what a fit's minutes allow.

The paper trains for 70,000 steps. A visitor on a CPU has minutes, that is some hundred.
"""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple

from admodels.runtime.quiet import others_fit

CUDA_STEPS = 70_000  # the paper's
CPU_MINUTES = 10.0
LONG = 10_000  # steps from which on the paper's own schedule is followed
# More steps of a short training teach the student to imitate the teacher on defects too. On Magnetic Tile image AUROC
# was 0.921 after 1,577, 0.915 after 3,304; on PIPED's hardest kind it falls from 60 steps on.
SHORT_STEPS = 1_500
N_STATISTICS = 64  # pictures for the teacher's mean and deviation in a short training: 200,000 vectors at 256×256
KEPT_RATIO, MAX_KEPT = 0.1, 32  # pictures that are not trained on and set the quantiles
HELD_OUT_RATIO = 0.25  # of the learned pictures, `fit` holds out by default: their scoring is part of max_minutes
MIN_TRAINING_RATIO = 0.25  # of max_minutes, whatever the rest takes


class Seconds(NamedTuple):
    """What this machine takes, measured on noise."""

    step: float
    teacher: float  # for one picture
    score: float  # for one picture, all networks


_SECONDS: dict[Hashable, Seconds] = {}


@dataclass(frozen=True)
class Budget:
    """Steps and minutes of one model's training.

    Attributes:
        max_steps, max_minutes: as asked for.
        batch_size: pictures in each step.
        on_cuda: whether it trains there.
        time_share: the part of the minutes that is this model's.
        key: what the measured times depend on.
        measure: gives the times of a short (False) or a long (True) training; asked for once for each key.
    """

    max_steps: int | None
    max_minutes: float | None
    batch_size: int
    on_cuda: bool
    time_share: float
    key: Hashable
    measure: Callable[[bool], Seconds]

    def is_long(self, n_images: int) -> bool:
        """There is time for LONG steps, and for as many of the paper's, which cost more."""
        asked = self._asked_steps()
        return all(is_long_run(self._steps_in_time(n_images, long, asked)) for long in (False, True))

    def n_steps(self, n_images: int) -> int:
        """How long to train on so many pictures: as asked for, or what there will about be time for and helps."""
        long = self.is_long(n_images)
        return self._steps_in_time(n_images, long, self.steps_limit(long))

    def steps_limit(self, long: bool) -> int | None:
        """What was asked for is done, however short; without it a short training ends where more does harm."""
        return self.max_steps or (self._asked_steps() if long else SHORT_STEPS)

    def seconds(self, n_images: int) -> float:
        """Time of a fit on so many pictures, the threshold included."""
        seconds, n_steps = self._seconds(self.is_long(n_images)), self.n_steps(n_images)
        n_described = min(n_images, n_steps * self.batch_size)
        return self._seconds_around(n_images) + n_steps * seconds.step + n_described * seconds.teacher

    def end(self, started: float, n_images: int) -> float | None:
        """When the training that begins now has to end, by `time.perf_counter`; None where there is no limit.

        Args:
            started: when the learning began.
        """
        minutes = self._minutes()
        if minutes is None:
            return None
        end = started + 60 * minutes - self._seconds_after(n_images)
        return max(end, time.perf_counter() + 60 * minutes * MIN_TRAINING_RATIO)

    def _asked_steps(self) -> int | None:
        return self.max_steps or (CUDA_STEPS if self.on_cuda else None)

    def _minutes(self) -> float | None:
        """The part of the fit's minutes that is this model's."""
        minutes = self.max_minutes or (CPU_MINUTES if self._asked_steps() is None else None)
        return None if minutes is None else minutes * self.time_share

    def _steps_in_time(self, n_images: int, long: bool, steps: int | None) -> int:
        """As many as `steps`, where given, and as there will about be time for."""
        left = self._training_seconds(n_images)
        if left is None:
            return steps
        seconds, batch = self._seconds(long), self.batch_size
        in_time = int(left / (seconds.step + batch * seconds.teacher))
        if in_time * batch > n_images:  # every picture is described once, however long the training
            in_time = int((left - n_images * seconds.teacher) / seconds.step)
        return max(1, in_time if steps is None else min(steps, in_time))

    def _training_seconds(self, n_images: int) -> float | None:
        """What max_minutes leave for the training; None where there is no limit."""
        minutes = self._minutes()
        if minutes is None:
            return None
        return max(60 * minutes - self._seconds_around(n_images), 60 * minutes * MIN_TRAINING_RATIO)

    def _seconds_around(self, n_images: int) -> float:
        """Beside the training: statistics, quantiles, threshold."""
        return min(n_images, N_STATISTICS) * self._seconds(False).teacher + self._seconds_after(n_images)

    def _seconds_after(self, n_images: int) -> float:
        return (n_kept(n_images) + HELD_OUT_RATIO * n_images) * self._seconds(False).score

    def _seconds(self, long: bool) -> Seconds:
        """Of this machine, measured once for each key and kind of training; kept where no other fit ran."""
        key = self.key, long
        if key in _SECONDS:
            return _SECONDS[key]
        disturbed = others_fit()
        seconds = self.measure(long)
        if not (disturbed or others_fit()):
            _SECONDS[key] = seconds
        return seconds


def is_long_run(n_steps: int) -> bool:
    """Whether the paper's own schedule is followed for so many steps."""
    return n_steps >= LONG


def n_kept(n: int) -> int:
    """Of n pictures, how many are not trained on and set the quantiles."""
    return min(max(2, round(KEPT_RATIO * n)), MAX_KEPT)

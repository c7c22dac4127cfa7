"""How long a network trains: the paper's schedule where there is time for it, else what a fit's minutes allow.

Papers train for thousands of steps. A visitor on a CPU has minutes, that is some hundred.
"""

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple

from admodels.runtime.quiet import others_fit

HELD_OUT_RATIO = 0.25  # of the learned pictures, `fit` holds out by default: their scoring is part of max_minutes
MIN_TRAINING_RATIO = 0.25  # of max_minutes, whatever the rest takes


@dataclass(frozen=True)
class Schedule:
    """How a method trains unless it is told otherwise.

    Attributes:
        cuda_steps: the paper's.
        cpu_minutes: of a whole fit.
        long: steps from which on a training is a long one, on the paper's own schedule.
        short_steps: where a short training ends; with `short_epochs`, which pass over all pictures so often, not before
            these are done either, but never after `long` steps.
        long_costs_more: whether a step of a long training does more than one of a short; else one is measured for both.
        n_described: of how many pictures at most a short training needs the teacher's output before its first step.
        n_scored: of so many pictures, how many are scored after the training, before the fit's held-out ones.
    """

    cuda_steps: int
    cpu_minutes: float
    long: int
    short_steps: int
    short_epochs: float = 0.0
    long_costs_more: bool = True
    n_described: int = 0
    n_scored: Callable[[int], int] = lambda n: 0


class Seconds(NamedTuple):
    """What this machine takes, measured on noise."""

    step: float
    teacher: float  # for one picture, once; 0 where none is asked
    score: float  # for one picture, all networks


_SECONDS: dict[Hashable, Seconds] = {}


@dataclass(frozen=True)
class End:
    """When a training of so many minutes has to end.

    Where other work slows its steps down, it will slow down what follows as well, and that is given more time.

    Attributes:
        at: by `time.perf_counter`, where everything takes as long as it was measured to take.
        earliest: whatever follows.
        after: seconds that what follows then takes.
        expected: seconds that so many steps then take.
    """

    at: float
    earliest: float = -math.inf
    after: float = 0.0
    expected: Callable[[int], float] = lambda n_steps: math.inf

    def moment(self, n_steps: int, seconds: float) -> float:
        """When it has to end, now that so many steps have taken so long."""
        slowness = max(1.0, seconds / self.expected(n_steps)) if n_steps else 1.0
        return max(self.at - (slowness - 1) * self.after, self.earliest)


@dataclass(frozen=True)
class Budget:
    """Steps and minutes of one model's training.

    Attributes:
        schedule: the method's.
        max_steps, max_minutes: as asked for.
        batch_size: pictures in each step.
        on_cuda: whether it trains there.
        time_share: the part of the minutes that is this model's.
        key: what the measured times depend on.
        measure: gives the times of a short (False) or a long (True) training; asked for once for each key.
    """

    schedule: Schedule
    max_steps: int | None
    max_minutes: float | None
    batch_size: int
    on_cuda: bool
    time_share: float
    key: Hashable
    measure: Callable[[bool], Seconds]

    def is_long(self, n_images: int) -> bool:
        """There is time for a long training's steps, and for as many of the paper's, which may cost more."""
        asked = self._asked_steps()
        return all(self._steps_in_time(n_images, long, asked) >= self.schedule.long for long in (False, True))

    def n_steps(self, n_images: int) -> int:
        """How long to train on so many pictures: as asked for, or what there will about be time for and helps."""
        long = self.is_long(n_images)
        return self._steps_in_time(n_images, long, self.steps_limit(long, n_images))

    def steps_limit(self, long: bool, n_images: int) -> int | None:
        """What was asked for is done, however short; without it a short training ends where more does harm."""
        if self.max_steps or long:
            return self._asked_steps()
        in_epochs = math.ceil(self.schedule.short_epochs * n_images / self.batch_size)
        return max(self.schedule.short_steps, min(in_epochs, self.schedule.long))

    def seconds(self, n_images: int) -> float:
        """Time of a fit on so many pictures, the threshold included."""
        training = self._of_steps(self.n_steps(n_images), n_images, self._seconds(self.is_long(n_images)))
        return self._seconds_around(n_images) + training

    def step_seconds(self, *, long: bool) -> float:
        """Time of a step of a short or a long training."""
        return self._seconds(long).step

    def end(self, started: float, n_images: int, *, long: bool) -> End | None:
        """When the training that begins now has to end; None where there is no limit.

        Args:
            started: when the learning began, by `time.perf_counter`.
            long: whether it is a long training.
        """
        minutes = self._minutes()
        if minutes is None:
            return None
        after, measured = self._seconds_after(n_images), self._seconds(long)
        earliest = time.perf_counter() + 60 * minutes * MIN_TRAINING_RATIO
        at = max(started + 60 * minutes - after, earliest)
        return End(at, earliest, after, lambda n_steps: self._of_steps(n_steps, n_images, measured))

    def _of_steps(self, n_steps: int, n_images: int, measured: Seconds) -> float:
        """Seconds of so many steps; the teacher sees each picture once."""
        return n_steps * measured.step + min(n_images, n_steps * self.batch_size) * measured.teacher

    def _asked_steps(self) -> int | None:
        return self.max_steps or (self.schedule.cuda_steps if self.on_cuda else None)

    def _minutes(self) -> float | None:
        """The part of the fit's minutes that is this model's."""
        minutes = self.max_minutes or (self.schedule.cpu_minutes if self._asked_steps() is None else None)
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
        return min(n_images, self.schedule.n_described) * self._seconds(False).teacher + self._seconds_after(n_images)

    def _seconds_after(self, n_images: int) -> float:
        return (self.schedule.n_scored(n_images) + HELD_OUT_RATIO * n_images) * self._seconds(False).score

    def _seconds(self, long: bool) -> Seconds:
        """Of this machine, measured once for each key and kind of training; kept where no other fit ran."""
        long = long and self.schedule.long_costs_more
        key = self.key, long
        if key in _SECONDS:
            return _SECONDS[key]
        disturbed = others_fit()
        seconds = self.measure(long)
        if not (disturbed or others_fit()):
            _SECONDS[key] = seconds
        return seconds

"""How long a fit will still take: by its estimate at first, then ever more by how fast it is."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

TRUSTED = 0.25  # the part of a fit after which its own speed alone counts
FIRST = 0.02  # and before which it says nothing


@dataclass
class TimeLeft:
    """Of one fit.

    Attributes:
        estimated: seconds that the whole of it was estimated to take; None where nobody did.
    """

    estimated: float | None
    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def seconds(self, fraction: float) -> float | None:
        """What is left at this fraction of the whole, from 0 to 1; None where nothing is known yet."""
        passed = self.clock() - self.started
        if fraction < FIRST:
            return None if self.estimated is None else max(self.estimated - passed, 0.0)
        by_speed = passed / fraction * (1 - fraction)
        if self.estimated is None:
            return by_speed
        trust = min(fraction / TRUSTED, 1.0)
        return trust * by_speed + (1 - trust) * self.estimated * (1 - fraction)

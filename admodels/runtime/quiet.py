"""Short measurements that other work on the machine disturbs as little as possible."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from admodels.runtime.device import timed

_fitting: list[int] = []  # the threads that fit now


def rounds(least: int, most: int = 5, budget: float = 0.5) -> Iterator[int]:
    """Numbers of the rounds of a measurement: so many at least, then as many as can begin within `budget` seconds."""
    started = time.perf_counter()
    for i in range(most):
        if i >= least and time.perf_counter() - started > budget:
            return
        yield i


def quiet_seconds(run: Callable[[], object], device: torch.device, *, least: int = 2, budget: float = 0.5) -> float:
    """Seconds of one call: the least of a few, since whatever else a machine does only adds to them.

    Args:
        least: calls at least; the first one of two warms up.
        budget: seconds in which further ones are begun.
    """
    return min(timed(run, device) for _ in rounds(least, budget=budget))


@contextmanager
def fitting() -> Iterator[None]:
    """While a fit runs in this thread."""
    _fitting.append(threading.get_ident())
    try:
        yield
    finally:
        _fitting.remove(threading.get_ident())


def others_fit() -> bool:
    """Whether other threads of this process fit now: what is measured beside them should not be kept."""
    return any(thread != threading.get_ident() for thread in tuple(_fitting))

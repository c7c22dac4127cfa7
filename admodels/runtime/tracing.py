"""Writing a computation down for another runtime while it is carried out once."""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch
from torch.utils._python_dispatch import _disable_current_modes

P, R = ParamSpec("P"), TypeVar("R")

_alone = threading.Lock()  # warnings are the process's own: two that silence them would not put them back in order
_is_here: ContextVar[bool] = ContextVar("is_traced", default=False)


def is_traced() -> bool:
    """Whether this thread is writing down what it computes: short cuts of its own would only hinder the other runtime.

    PyTorch's own flag for its exporter is the process's, and would be true for every thread.
    """
    return _is_here.get() or torch.jit.is_tracing()


@contextmanager
def tracing() -> Iterator[None]:
    """Whatever traces a module does so in here, one at a time, without the warnings that are the tracer's."""
    with _alone, warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")
        token = _is_here.set(True)
        try:
            yield
        finally:
            _is_here.reset(token)


def kept(maxsize: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """As `lru_cache`, for what makes tensors: they are real and usable anywhere, whoever asks for them first.

    A tracer's own would be of no use to anybody else, and a tensor made in inference mode only there.
    """

    def decorate(make: Callable[P, R]) -> Callable[P, R]:
        @lru_cache(maxsize=maxsize)
        @wraps(make)
        def made(*args: P.args, **kwargs: P.kwargs) -> R:
            with _disable_current_modes(), torch.inference_mode(False), torch.no_grad():
                return make(*args, **kwargs)

        return made

    return decorate

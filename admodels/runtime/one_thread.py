"""Small work of PyTorch on a CPU done by the thread that asks, without waking the others.

Beside other work on the same cores, each parallel operation waits until the last of PyTorch's threads was given a core.
Scoring one picture has dozens of them. PyTorch's own setting is the process's; OpenMP's is the calling thread's alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, PyTorch computes what this thread asks for in this thread; other threads are as they were."""
    with _controller().limit(limits=1, user_api="openmp"):
        yield


@cache
def _controller() -> ThreadpoolController:
    """Of the libraries that are loaded; to find them takes milliseconds."""
    return ThreadpoolController()

"""Values that are slow to make and shared by threads: made once for each key, without holding up anybody else."""

import itertools
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from copy import copy
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from admodels.errors import AdmodelsError

Value = TypeVar("Value")


@dataclass(eq=False)
class _Entry(Generic[Value]):
    future: Future[Value] = field(default_factory=Future)
    used: int = 0


class Shared(Generic[Value]):
    """The values that were used last.

    Whoever asks for a value that is being made waits for it; whoever asks for another one does not. What failed is
    forgotten, so that it can be tried again.

    Args:
        n_kept: values that are kept once they are made; 0 keeps none, and only threads that ask at the same time share.
    """

    def __init__(self, n_kept: int) -> None:
        self._n_kept = n_kept
        self._lock = threading.Lock()  # while the table changes, never while a value is made or looked up
        self._entries: dict[Hashable, _Entry[Value]] = {}
        self._clock = itertools.count()

    def __len__(self) -> int:
        """How many values are kept or being made."""
        return len(self._entries)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of this key, from `make` where there is none yet.

        Raises:
            AdmodelsError: `make` failed, in this thread or in the one that this one waited for.
        """
        while True:
            entry = self._entries.get(key)
            if entry is None:
                new = _Entry()
                with self._lock:
                    entry = self._entries.setdefault(key, new)
                if entry is new:
                    return self._made(key, new, make)
            entry.used = next(self._clock)
            wait([entry.future])
            error = entry.future.exception()
            if error is None:
                return entry.future.result()
            if isinstance(error, AdmodelsError):
                raise copy(error) from error  # a traceback belongs to one thread
            # Whatever else ended the other thread, such as an interrupt, need not end this one: its turn.

    def _made(self, key: Hashable, mine: _Entry[Value], make: Callable[[], Value]) -> Value:
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                del self._entries[key]
            mine.future.set_exception(error)
            raise
        mine.used = next(self._clock)
        mine.future.set_result(value)
        with self._lock:
            done = sorted((k for k, e in self._entries.items() if e.future.done()), key=lambda k: self._entries[k].used)
            for old in done[: max(0, len(done) - self._n_kept)]:
                del self._entries[old]
        return value

"""Peak memory of this process over a stretch of code."""

import threading
from typing import Self

import psutil


class PeakMemory:
    """Context manager that samples resident memory every few milliseconds; `mib` is the highest value seen."""

    def __init__(self, interval_seconds: float = 0.01) -> None:
        self.mib = 0.0
        self._interval = interval_seconds
        self._stop = threading.Event()
        self._process = psutil.Process()

    def __enter__(self) -> Self:
        self._sample()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        self.mib = max(self.mib, self._process.memory_info().rss / 2**20)

"""Pictures of different requests are scored together, where they wait for each other anyway.

One thread scores. What comes while it is busy waits, and the pictures of the model that has waited longest are its next
batch: with one client nothing is ever delayed, and with many the batches grow by themselves.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from admodels.core.detector import Detector, Prepared
from admodels.core.results import Prediction
from admodels.errors import AdmodelsError

SMOOTHING = 0.2  # of the newest batch in the mean time of a picture
LONGEST_ADVICE = 60  # seconds


class Busy(AdmodelsError):  # noqa: N818 - not a mistake of anybody's
    """Too many pictures wait already.

    Attributes:
        retry_after: whole seconds after which another try makes sense.
    """

    def __init__(self, n_waiting: int, retry_after: int) -> None:
        super().__init__(f"{n_waiting} pictures are waiting to be scored already. Try again in {retry_after} s.")
        self.retry_after = retry_after


@dataclass(frozen=True)
class Judged:
    """What was said of a picture, and how long that took.

    Attributes:
        waiting, scoring: seconds: until its batch began, and of that batch.
        n_batch: pictures in it.
    """

    prediction: Prediction
    waiting: float
    scoring: float
    n_batch: int


@dataclass(frozen=True, eq=False)
class _Job:
    detector: Detector
    prepared: Prepared
    judged: "Future[Judged]" = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)


class Places:
    """How many pictures, and bytes of them, are on the server at a time; what is above is refused at once."""

    def __init__(self, n: int, n_bytes: int) -> None:
        self._n, self._n_bytes = n, n_bytes
        self._taken, self._bytes = 0, 0
        self._seconds = 0.0  # a picture takes
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """Pictures that are here."""
        return self._taken

    @contextmanager
    def take(self, n: int, n_bytes: int) -> Iterator[None]:
        """Within it, n pictures are here.

        Raises:
            Busy: there is no room for them now.
        """
        with self._lock:
            if self._taken + n > self._n or (self._taken and self._bytes + n_bytes > self._n_bytes):
                seconds = self._seconds * self._taken
                raise Busy(self._taken, min(max(1, round(seconds)), LONGEST_ADVICE))
            self._taken, self._bytes = self._taken + n, self._bytes + n_bytes
        try:
            yield
        finally:
            with self._lock:
                self._taken, self._bytes = self._taken - n, self._bytes - n_bytes

    def learn(self, seconds: float) -> None:
        """Take note of how long a picture took in a batch."""
        self._seconds += SMOOTHING * (seconds - self._seconds)


class Batches:
    """Scores pictures in a thread of its own, those of one model together.

    Args:
        around: a context that each batch is scored in.
        on_batch: told the number of pictures and the seconds of each.
    """

    def __init__(
        self,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
        on_batch: Callable[[int, float], None] = lambda n, seconds: None,
    ) -> None:
        self._around, self._on_batch = around, on_batch
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
        self._thread.start()

    def score(self, detector: Detector, prepared: Prepared) -> "Future[Judged]":
        """What will be said of a picture that this detector prepared."""
        job = _Job(detector, prepared)
        with self._changed:
            if self._is_closed:
                raise RuntimeError("closed")
            self._waiting.append(job)
            self._changed.notify()
        return job.judged

    def close(self) -> None:
        """Score what waits, then end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            started = time.perf_counter()
            said: list[Prediction | Exception]
            try:
                with self._around():
                    said = predictions([job.prepared for job in batch], batch[0].detector)
            except Exception as error:  # this thread must go on, or all that follow would wait for ever
                said = [error] * len(batch)
            seconds = time.perf_counter() - started
            self._on_batch(len(batch), seconds)
            for job, found in zip(batch, said, strict=True):
                if isinstance(found, Exception):
                    job.judged.set_exception(found)
                else:
                    job.judged.set_result(Judged(found, started - job.since, seconds, len(batch)))

    def _next(self) -> list[_Job]:
        """Of those that wait the first, and others of its model; nothing at the end."""
        with self._changed:
            while not self._waiting:
                if self._is_closed:
                    return []
                self._changed.wait()
            detector, batch, others = self._waiting[0].detector, [], deque()
            most = detector.batch_size
            while self._waiting and len(batch) < most:
                job = self._waiting.popleft()
                if job.detector is not detector:
                    others.append(job)
                elif job.judged.set_running_or_notify_cancel():  # who asked may have gone
                    batch.append(job)
            self._waiting.extendleft(reversed(others))
            return batch or self._next()


def predictions(prepared: Sequence[Prepared], detector: Detector) -> list[Prediction | Exception]:
    """What is said of each; where a batch fails, each picture by itself: one may be at fault, and others not."""
    try:
        return list(detector.predict_prepared(list(prepared)))
    except Exception as error:  # whatever it is belongs to whoever asked
        if len(prepared) == 1:
            return [error]
    return [found for item in prepared for found in predictions([item], detector)]

"""Heavy work, one job at a time: fits, evaluations and measurements wait in one queue for the machine's one device.

A job belongs to a visitor, not to a page: the page that asked for it may be closed or refreshed, and the next page of
the same visitor follows it on.
"""

import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
import torch

from admodels import AdmodelsError, Cancelled, OptionError
from demo.errors import refusal, shown_errors
from demo.state.cores import CORES
from demo.state.limits import limit

LOOK_SECONDS = 0.2  # between two looks of a page at its job: how soon it notices
KEPT_SECONDS = 600  # of what ended, for a page that comes back

Tell = Callable[[float, str], None]


@dataclass(eq=False)
class Job:
    """One piece of work.

    Attributes:
        work: is given a function that tells how far it is, from 0 to 1, and in words.
        stop: set by who wants it to end; the work has to look at it, a job that waits is taken out of the queue.
    """

    work: Callable[[Tell], Any] | None
    stop: threading.Event
    fraction: float = 0.0
    doing: str = "starting"
    outcome: Future[Any] = field(default_factory=Future)
    ended_at: float = 0.0
    context: Context = field(default_factory=copy_context)  # of who asked: ZeroGPU wants to know whose share it is

    @property
    def is_running(self) -> bool:
        """Whether it runs or waits for its turn."""
        return not self.outcome.done()

    @property
    def is_there(self) -> bool:
        """Whether a page that comes back should follow it."""
        return self.is_running or time.monotonic() - self.ended_at < KEPT_SECONDS

    def tell(self, fraction: float, doing: str) -> None:
        """Note how far it is."""
        self.fraction, self.doing = fraction, doing

    def end(self, result: Any = None, error: BaseException | None = None) -> None:
        """Nothing more will be done; what the work held is let go."""
        self.work, self.ended_at = None, time.monotonic()
        if error is not None:
            self.outcome.set_exception(error.with_traceback(None))  # its frames would keep the arrays of the fit
        else:
            self.outcome.set_result(result)


class Jobs:
    """The queue, and the one thread that works it off while there is anything in it.

    No `ThreadPoolExecutor`: Python waits for its threads at the end of the program, and so a server that is told to
    end would first finish the fit that runs.
    """

    def __init__(self) -> None:
        self._queue: list[Job] = []  # the one that runs is the first
        self._lock = threading.Lock()

    def submit(self, work: Callable[[Tell], Any], stop: threading.Event) -> Job:
        """Put work at the end of the queue.

        Raises:
            OptionError: the queue is as long as it may be.
        """
        job, most = Job(work, stop), limit("ADMODELS_MAX_QUEUE")
        with self._lock:
            if len(self._queue) >= most:
                raise OptionError(
                    f"{len(self._queue)} jobs are queued already, the limit of this server. Try again later."
                )
            if not self._queue:
                # It waits for the lock; where no thread can be had, nothing was put into the queue.
                threading.Thread(target=self._work_off, daemon=True).start()
            self._queue.append(job)
        return job

    def follow(self, job: Job, progress: gr.Progress) -> Any:
        """Show a job's progress until it ends; its result.

        Raises:
            Cancelled: it was stopped.
            gr.Error: what went wrong in it, for the visitor to read.
        """
        while not wait([job.outcome], LOOK_SECONDS).done:
            n_before = self._n_before(job)
            if n_before and job.stop.is_set():
                self._take_out(job)
            elif n_before:
                progress(0, desc=f"queued: {n_before} ahead")
            else:
                progress(job.fraction, desc=job.doing)
        error = job.outcome.exception()
        if error is not None:
            raise _shown(error)
        return job.outcome.result()

    def run(self, work: Callable[[Tell], Any], stop: threading.Event, progress: gr.Progress) -> Any:
        """Submit and follow."""
        with shown_errors():
            job = self.submit(work, stop)
        return self.follow(job, progress)

    def _n_before(self, job: Job) -> int:
        with self._lock:
            return self._queue.index(job) if job in self._queue else 0

    def _take_out(self, job: Job) -> None:
        with self._lock:
            if job in self._queue[1:]:
                self._queue.remove(job)
                job.end(error=Cancelled("stopped"))

    def _work_off(self) -> None:
        while True:
            with self._lock:
                job = self._queue[0]
            try:
                if job.stop.is_set():
                    raise Cancelled("stopped")
                with CORES.all():
                    result = job.context.run(job.work, job.tell)
                job.end(result)
                del result  # it may be large, and the next job may take long
            # Whatever happens in one job, sys.exit() in it too, the next one has its turn.
            except BaseException as error:
                job.end(error=error)
                gc.collect()
                with suppress(RuntimeError):  # of a GPU that the job broke
                    if torch.cuda.is_available():
                        torch.cuda.empty_cache()
            with self._lock:
                self._queue.pop(0)
                if not self._queue:
                    return


JOBS = Jobs()


def _shown(error: BaseException) -> Exception:
    if isinstance(error, Cancelled | gr.Error):
        return error
    if isinstance(error, AdmodelsError):
        said = str(error)
    elif isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in str(error).lower():
        said = (
            "There was not enough memory for this. The memory is free again, and nothing of yours is lost. Lower "
            "image_size or give fewer pictures."
        )
    else:
        said = f"This failed in an unexpected way ({type(error).__name__}: {error}). Nothing of yours is lost."
    return refusal(said)

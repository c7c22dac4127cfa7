"""ZeroGPU Spaces: a GPU for the time of one call, in a process of its own. Elsewhere nothing here is used.

Only a fit that remembers goes there. A training of many minutes would use up a visitor's share, and a prediction takes
less time on the CPU than getting hold of the GPU does.
"""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from admodels import DETECTORS, AdmodelsError, Detector, Progress, create
from admodels.models import Store
from admodels.pictures import ImageSet
from admodels.tiling import TiledEnsemble

# Seconds to ask for. The platform may multiply them, counts them against the visitor's share and lets short ones pass
# in its queue; a fit that was cut off at the end of them goes on on the CPU.
SHORTEST, LONGEST = 15, 60
SPARE = 2.0  # of the time estimated on the CPU, for the start of the process
LOOK_SECONDS = 0.2  # between two looks whether a fit that waits for a GPU was stopped
WAITING = "waiting for a GPU"
NAME = "fitted"


@dataclass(frozen=True)
class Refused:
    """What is wrong with the fit itself, in words: of an error that is raised there, no more than its class arrives."""

    said: str


class NoGpuError(Exception):
    """ZeroGPU did not do this fit, for a reason of its own: the visitor's share, its queue, its token, its process."""


def is_there() -> bool:
    """Whether this is a Space with ZeroGPU."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def takes(detector: Detector) -> bool:
    """Whether this detector's fit should be given the GPU."""
    method = detector.method
    learner = method.member if isinstance(method, TiledEnsemble) else method
    return is_there() and learner.folds_by_default  # it learns in seconds


def seconds_to_ask_for(estimated: float) -> int:
    """How long the GPU is asked for."""
    return round(min(max(SPARE * estimated, SHORTEST), LONGEST))


def fit(
    detector: Detector,
    pictures: ImageSet,
    on_progress: Callable[[Progress], None],
    **settings: Any,
) -> tuple[Detector, str]:
    """Fit a detector like this one on the GPU, or this one on the CPU where ZeroGPU gives none.

    Args:
        on_progress: what it raises ends the fit, there too.
        settings: of `Detector.fit`.

    Returns:
        The fitted detector, on the CPU, and why it was fitted there; empty where it was not.

    Raises:
        AdmodelsError: what is wrong with the fit, wherever it was.
    """
    seconds = seconds_to_ask_for(detector.estimate(pictures, n_folds=settings.get("n_folds")).seconds)
    try:
        return _on_the_gpu(detector, pictures, on_progress, settings, seconds), ""
    except NoGpuError as error:
        said = f"Fitted on the CPU, since ZeroGPU did not do it ({error}). That takes longer; the model is complete."
    return detector.fit(pictures, on_progress=on_progress, **settings), said


def _on_the_gpu(
    detector: Detector,
    pictures: ImageSet,
    on_progress: Callable[[Progress], None],
    settings: dict[str, Any],
    seconds: int,
) -> Detector:
    """Raises: NoGpuError, AdmodelsError, what `on_progress` raises."""
    told: queue.SimpleQueue[Progress | Refused | Detector | BaseException] = queue.SimpleQueue()
    ended, context = threading.Event(), copy_context()

    def drive() -> None:
        # The page may be refreshed while its fit waits, and ZeroGPU gives up what a page waits for that is gone; but a
        # fit is its visitor's. Whose share it is stays known: that is in the request.
        LocalContext.event_id.set(None)
        LocalContext.progress.set(None)
        try:
            with TemporaryDirectory(prefix="admodels-") as folder:
                there = _fit_there(detector.key, detector.config, pictures, settings, folder, seconds)
                with closing(there):
                    for item in there:
                        if ended.is_set():
                            return
                        told.put(item)
                        if isinstance(item, Refused):
                            return
                told.put(Store(DETECTORS, Path(folder)).load(NAME, device="cpu"))
        except BaseException as error:  # to be raised by who waits
            told.put(error)

    # In a thread of its own, since asking for a GPU takes up to a minute, in which a press of Stop is to be noticed.
    threading.Thread(target=context.run, args=(drive,), daemon=True).start()
    has_begun = False
    try:
        while True:
            try:
                item = told.get(timeout=None if has_begun else LOOK_SECONDS)
            except queue.Empty:
                on_progress(Progress(WAITING, 0, 1, 0.0))
                continue
            has_begun = True
            if isinstance(item, Progress):
                on_progress(item)
            elif isinstance(item, Detector):
                return item
            elif isinstance(item, Refused):
                raise AdmodelsError(item.said)
            else:
                raise NoGpuError(_reason(item)) from item
    finally:
        ended.set()


def _reason(error: BaseException) -> str:
    if isinstance(error, gr.Error):
        return f"{error.title}: {str(error.message).rstrip('. ')}"
    return str(error).rstrip(". ") or type(error).__name__


def _fit(
    key: str, config: Any, pictures: ImageSet, settings: dict[str, Any], folder: str, seconds: int
) -> Iterator[Progress | Refused]:
    """Fit and save; whatever goes in and out is pickled on its way between the processes."""
    told: queue.SimpleQueue[Progress | Refused | BaseException | None] = queue.SimpleQueue()
    ended = threading.Event()

    def on_progress(at: Progress) -> None:
        if ended.is_set():
            raise GeneratorExit
        told.put(at)

    def work() -> None:
        try:
            # In float32, since that is what the CPU will score with, by the threshold that is set here.
            detector = create(key, **(vars(config) | {"precision": "float32"}))
            Store(DETECTORS, Path(folder)).save(detector.fit(pictures, on_progress=on_progress, **settings), NAME)
            told.put(None)
        except AdmodelsError as error:
            told.put(Refused(str(error)))
        except BaseException as error:  # to be raised by who waits
            told.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while (at := told.get()) is not None:
            if isinstance(at, BaseException):
                raise at
            yield at
            if isinstance(at, Refused):
                return
    finally:
        ended.set()


if is_there():
    import spaces

    _fit_there = spaces.GPU(_fit, duration=lambda *arguments: arguments[-1])
else:
    _fit_there = _fit

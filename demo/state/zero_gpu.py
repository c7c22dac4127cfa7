"""ZeroGPU Spaces: a GPU for the time of one call, in a process of its own. Elsewhere nothing here is used.

Fits go there. A training that takes longer than one call goes on in the next where its method can pause; any other ends
in time. A prediction takes less time on the CPU than getting hold of the GPU does.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
import torch
from gradio.context import LocalContext

from admodels import DETECTORS, AdmodelsError, Detector, Enough, Pause, Progress, create
from admodels.core import Checkpoint
from admodels.models import Store
from admodels.pictures import ImageSet
from admodels.tiling import TiledEnsemble

# Seconds to ask for. The platform may multiply them, counts them against the visitor's share and lets short ones pass
# in its queue; what was cut off at the end of them goes on on the CPU.
SHORTEST, LONGEST = 15, 60
SPARE = 2.0  # of the time estimated on the CPU, for the start of the process
RESERVE_SECONDS = 10  # of a call, for the start of the process and for what follows the training
LEAST_MINUTES = 0.05  # that an option max_minutes may be
LOOK_SECONDS = 0.2  # between two looks whether a fit that waits for a GPU was stopped
WAITING = "waiting for a GPU"
RETURNING = "reading the pictures again"  # in each call of a training but the first
# In the folder that the processes share.
NAME = "fitted"
CHECKPOINT = "checkpoint.pt"
ENOUGH = "enough"  # is there once the visitor has stopped the training


@dataclass(frozen=True)
class Refused:
    """What is wrong with the fit itself, in words: of an error that is raised there, no more than its class arrives."""

    said: str


class NoGpuError(Exception):
    """ZeroGPU did not do this fit, for a reason of its own: the visitor's share, its queue, its token, its process.

    Attributes:
        checkpoint: of the training so far; None where there is none.
    """

    def __init__(self, reason: str, checkpoint: Checkpoint | None) -> None:
        super().__init__(reason)
        self.checkpoint = checkpoint


def is_there() -> bool:
    """Whether this is a Space with ZeroGPU."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


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

    A training that ZeroGPU does not go on with ends where it stands, and the CPU does the rest of the fit.

    Args:
        on_progress: what it raises ends the fit, and `Enough` the training, there too. Between two calls it is told of
            waiting, with the loss so far.
        settings: of `Detector.fit`.

    Returns:
        The fitted detector, on the CPU, and what ZeroGPU did not do of what was asked for, and why; empty where it did
        all.

    Raises:
        AdmodelsError: what is wrong with the fit, wherever it was.
    """
    n_folds = settings.get("n_folds")
    estimated = detector.estimate(pictures, n_folds=n_folds).seconds
    seconds = seconds_to_ask_for(estimated)
    options, cut_from = _options_there(detector, estimated, n_folds or 0)
    last: Progress | None = None  # of the training
    is_stopped = False

    def told(at: Progress) -> None:
        nonlocal last, is_stopped
        if at.loss is not None:
            last = at
        elif last is not None and at.stage in (WAITING, "learning"):
            at = replace(last, stage=WAITING if at.stage == WAITING else RETURNING)
        try:
            on_progress(at)
        except Enough:
            is_stopped = True
            raise

    try:
        fitted = _on_the_gpu(detector.key, options, pictures, told, settings, seconds)
    except NoGpuError as error:
        checkpoint = error.checkpoint
        if checkpoint is None:
            said = (
                f"Fitted on the CPU, since ZeroGPU did not do it ({error}). That takes longer; the model is complete."
            )
            return detector.fit(pictures, on_progress=on_progress, **settings), said
        said = (
            f"{checkpoint['n_done']:,} of {last.total:,} training steps were done, since ZeroGPU did not go on "
            f"({error}). The model is what was learned in these; its threshold was set on the CPU. To train longer, "
            "train again when ZeroGPU is free for you."
        )
        return _ended(detector, pictures, told, checkpoint, settings), "" if is_stopped else said
    if not cut_from or is_stopped or (done := f"{last.done:,} steps") == cut_from:
        return fitted, ""
    return fitted, (
        f"The training ended after {done}; {cut_from} were asked for. It has to end within one call, and ZeroGPU lends "
        f"its GPU for {seconds} seconds."
    )


def _options_there(detector: Detector, estimated: float, n_folds: int) -> tuple[dict[str, Any], str]:
    """The options for the GPU's process, and in words what was asked for where there may not be time for it."""
    # In float32, since that is what the CPU will score with, by the threshold that is set there.
    options = vars(detector.config) | {"precision": "float32"}
    if "compile" in options:
        options["compile"] = False  # ZeroGPU cannot
    method = detector.method
    is_tiled = isinstance(method, TiledEnsemble)
    training = (method.member if is_tiled else method).config
    if not hasattr(training, "max_minutes"):
        return options, ""  # it does not train
    steps, minutes = training.max_steps, training.max_minutes
    if steps and SPARE * estimated <= LONGEST:
        return options, ""
    if method.can_pause and not n_folds and (steps or minutes):
        return options, ""
    # On CUDA a training of which nothing is asked would last for the paper's steps.
    most = max((seconds_to_ask_for(estimated) - RESERVE_SECONDS) / 60 / (n_folds + 1), LEAST_MINUTES)
    limited = {"max_minutes": min(minutes or most, most)}
    asked = f"{minutes:g} minutes" if minutes and minutes > most else ""
    if steps and not is_tiled:  # how many tiles there are follows from the pictures
        asked = f"{steps:,} steps"
    return options | ({"member": options["member"] | limited} if is_tiled else limited), asked


def _ended(
    detector: Detector,
    pictures: ImageSet,
    on_progress: Callable[[Progress], None],
    checkpoint: Checkpoint,
    settings: dict[str, Any],
) -> Detector:
    """This detector with what was trained so far: the CPU does what follows the training."""

    def told(at: Progress) -> None:
        if at.stage == "training":
            raise Enough("ZeroGPU did not go on")
        with suppress(Enough):  # there is nothing more to stop
            on_progress(at)

    return detector.fit(pictures, on_progress=told, checkpoint=checkpoint, **settings)


def _on_the_gpu(
    key: str,
    options: dict[str, Any],
    pictures: ImageSet,
    on_progress: Callable[[Progress], None],
    settings: dict[str, Any],
    seconds: int,
) -> Detector:
    """Raises: NoGpuError, AdmodelsError, what `on_progress` raises, `Enough` excepted."""
    told: queue.SimpleQueue[Progress | Refused | Checkpoint | Detector | BaseException] = queue.SimpleQueue()
    ended, enough, context = threading.Event(), threading.Event(), copy_context()

    def drive() -> None:
        # The page may be refreshed while its fit waits, and ZeroGPU gives up what a page waits for that is gone; but a
        # fit is its visitor's. Whose share it is stays known: that is in the request.
        LocalContext.event_id.set(None)
        LocalContext.progress.set(None)
        try:
            with TemporaryDirectory(prefix="admodels-") as folder:
                while True:  # each turn is a call; between two of them no GPU is held
                    there = _fit_there(key, options, pictures, settings, folder, seconds)
                    with closing(there):
                        for item in there:
                            if ended.is_set():
                                return
                            if enough.is_set():
                                (Path(folder) / ENOUGH).touch()
                            told.put(item)
                            if isinstance(item, Refused):
                                return
                    if not (paused := Path(folder) / CHECKPOINT).exists():
                        break
                    told.put(torch.load(paused, weights_only=True))
                    if enough.is_set():
                        return
                told.put(Store(DETECTORS, Path(folder)).load(NAME, device="cpu"))
        except BaseException as error:  # to be raised by who waits
            told.put(error)

    # In a thread of its own, since asking for a GPU takes up to a minute, in which a press of Stop is to be noticed.
    threading.Thread(target=context.run, args=(drive,), daemon=True).start()
    waits, checkpoint = True, None
    try:
        while True:
            try:
                item = told.get(timeout=LOOK_SECONDS if waits else None)
                waits = isinstance(item, dict)
            except queue.Empty:
                item = Progress(WAITING, 0, 1, 0.0)
            if isinstance(item, Progress):
                try:
                    on_progress(item)
                except Enough:
                    enough.set()
            elif isinstance(item, dict):
                checkpoint = item
            elif isinstance(item, Detector):
                return item
            elif isinstance(item, Refused):
                raise AdmodelsError(item.said)
            else:
                raise NoGpuError(_reason(item), checkpoint) from item
            if waits and enough.is_set() and checkpoint is not None:
                raise NoGpuError("stopped", checkpoint)
    finally:
        ended.set()


def _reason(error: BaseException) -> str:
    if isinstance(error, gr.Error):
        return f"{error.title}: {str(error.message).rstrip('. ')}"
    return str(error).rstrip(". ") or type(error).__name__


def _fit(
    key: str, options: dict[str, Any], pictures: ImageSet, settings: dict[str, Any], folder: str, seconds: int
) -> Iterator[Progress | Refused]:
    """Fit and save, or train until the time is up and leave a checkpoint; goes on from one that is there.

    Whatever goes in and out is pickled on its way between the processes.
    """
    told: queue.SimpleQueue[Progress | Refused | BaseException | None] = queue.SimpleQueue()
    ended, pause_at = threading.Event(), time.monotonic() + seconds - RESERVE_SECONDS
    checkpoint, enough = Path(folder) / CHECKPOINT, Path(folder) / ENOUGH

    def work() -> None:
        n_looks = 0  # at the training

        def on_progress(at: Progress) -> None:
            nonlocal n_looks
            if ended.is_set():
                raise GeneratorExit
            told.put(at)
            if at.loss is None:
                return
            if enough.exists():
                raise Enough("stopped")
            n_looks += 1
            # Not at the first look, which may be at where the last call ended: every call trains.
            if can_pause and n_looks > 1 and time.monotonic() > pause_at:
                raise Pause("the GPU has to be given back")

        try:
            detector = create(key, **options)
            can_pause = detector.method.can_pause and not settings.get("n_folds")
            before = None
            if checkpoint.exists():
                before = torch.load(checkpoint, weights_only=True)
                checkpoint.unlink()
            detector.fit(pictures, on_progress=on_progress, checkpoint=before, **settings)
            Store(DETECTORS, Path(folder)).save(detector, NAME)
            told.put(None)
        except Pause as pause:
            torch.save(pause.checkpoint, checkpoint)
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
    # Adam asks the GPU in each step whether it records a graph, for a network on the CPU too; outside a call there is
    # none to ask. Nothing here records one. The second is the name before PyTorch 2.14.
    for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
        setattr(torch.optim.Optimizer, name, lambda self: None)
else:
    _fit_there = _fit

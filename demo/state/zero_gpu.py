"""ZeroGPU Spaces: a GPU for the time of one call, in a process of its own. Elsewhere nothing here is used.

Only a fit that remembers goes there. A training of many minutes would use up a visitor's share, and a prediction takes
less time on the CPU than getting hold of the GPU does.
"""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from admodels import DETECTORS, Detector, Progress, create
from admodels.models import Store
from admodels.pictures import ImageSet
from admodels.tiling import TiledEnsemble
from demo.errors import shown_errors

SHORTEST, LONGEST = 30, 120  # seconds to ask for: longer ones wait longer, and what is left over is given back
SPARE = 2.0  # of the time estimated on the CPU, for the start of the process
NAME = "fitted"


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
) -> Detector:
    """Fit a detector like this one on the GPU.

    Args:
        on_progress: what it raises ends the fit, there too.
        settings: of `Detector.fit`.

    Returns:
        The fitted detector, on the CPU.
    """
    seconds = seconds_to_ask_for(detector.estimate(pictures, n_folds=settings.get("n_folds")).seconds)
    with TemporaryDirectory(prefix="admodels-") as folder:
        told = _fit_there(detector.key, detector.config, pictures, settings, folder, seconds)
        try:
            for at in told:
                on_progress(at)
        finally:
            told.close()
        return Store(DETECTORS, Path(folder)).load(NAME, device="cpu")


def _fit(
    key: str, config: Any, pictures: ImageSet, settings: dict[str, Any], folder: str, seconds: int
) -> Iterator[Progress]:
    """Fit and save; whatever goes in and out is pickled on its way between the processes."""
    told: queue.SimpleQueue[Progress | BaseException | None] = queue.SimpleQueue()
    ended = threading.Event()

    def on_progress(at: Progress) -> None:
        if ended.is_set():
            raise GeneratorExit
        told.put(at)

    def work() -> None:
        try:
            with shown_errors():  # of all errors, only Gradio's own are carried over with what they say
                # In float32, since that is what the CPU will score with, by the threshold that is set here.
                detector = create(key, **(vars(config) | {"precision": "float32"}))
                Store(DETECTORS, Path(folder)).save(detector.fit(pictures, on_progress=on_progress, **settings), NAME)
            told.put(None)
        except BaseException as error:  # to be raised by who waits
            told.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while (at := told.get()) is not None:
            if isinstance(at, BaseException):
                raise at
            yield at
    finally:
        ended.set()


if is_there():
    import spaces

    _fit_there = spaces.GPU(_fit, duration=lambda *arguments: arguments[-1])
else:
    _fit_there = _fit

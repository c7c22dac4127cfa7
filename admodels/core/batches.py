"""Pictures as batches for the network, and where a fit stands meanwhile."""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from admodels.core.results import OnProgress, Progress
from admodels.pictures.images import ImageLike, read_batches
from admodels.pictures.working_shape import WorkingShape


def prepared_batches(
    images: list[ImageLike], shape: WorkingShape, batch_size: int, stage: str, on_progress: OnProgress | None
) -> Iterator[Tensor]:
    """uint8 B×h×w×3; progress is told when the next one is asked for."""
    started, done = time.perf_counter(), 0
    for prepared in read_batches(images, shape.prepare, batch_size, shape.value_range):
        yield torch.from_numpy(prepared)
        done += len(prepared)
        if on_progress is not None:
            on_progress(Progress(stage, done, len(images), time.perf_counter() - started))


def finish_progress(stage: str, on_progress: OnProgress | None) -> Callable[..., None] | None:
    """Progress of a learner's last step, as a stage of its own."""
    if on_progress is None:
        return None
    started = time.perf_counter()

    def told(done: int, total: int, loss: float | None = None) -> None:
        on_progress(Progress(stage, done, total, time.perf_counter() - started, loss))

    return told

"""Pictures as batches for the network, and where a fit stands meanwhile."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from admodels.core.resizing import is_for_a_gpu, resized
from admodels.core.results import OnProgress, Progress
from admodels.pictures.images import ImageLike, read_prepared
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.device import sent


def prepared_batches(
    images: list[ImageLike],
    shape: WorkingShape,
    batch_size: int,
    stage: str,
    on_progress: OnProgress | None,
    device: torch.device,
) -> Iterator[Tensor]:
    """uint8 B×h×w×3; progress is told when the next one is asked for.

    Where large pictures come for a CUDA device they are resized there, and the batch is on it.
    """
    started, done = time.perf_counter(), 0
    prepare = _left_to_the_gpu(shape) if device.type == "cuda" else shape.prepare
    for pictures in read_prepared(images, prepare, batch_size, shape.value_range):
        yield _stacked(pictures, shape, device)
        done += len(pictures)
        if on_progress is not None:
            on_progress(Progress(stage, done, len(images), time.perf_counter() - started))


class _Large:
    """A picture that is still to be resized, uint8 H×W×3 and writable, as PyTorch wants it."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels


def _left_to_the_gpu(shape: WorkingShape) -> Callable[[np.ndarray], np.ndarray | _Large]:
    """What decoding threads make of a picture."""
    return lambda pixels: _Large(pixels.copy()) if is_for_a_gpu(pixels.shape, shape) else shape.prepare(pixels)


def _stacked(pictures: list[np.ndarray | _Large], shape: WorkingShape, device: torch.device) -> Tensor:
    if not any(isinstance(picture, _Large) for picture in pictures):
        return torch.from_numpy(np.stack(pictures))
    parts = [
        resized(sent(torch.from_numpy(picture.pixels), device), shape)
        if isinstance(picture, _Large)
        else sent(torch.from_numpy(picture.copy()), device)
        for picture in pictures
    ]
    return torch.stack(parts)


def finish_progress(stage: str, on_progress: OnProgress | None) -> Callable[..., None] | None:
    """Progress of a learner's last step, as a stage of its own."""
    if on_progress is None:
        return None
    started = time.perf_counter()

    def told(done: int, total: int, loss: float | None = None) -> None:
        on_progress(Progress(stage, done, total, time.perf_counter() - started, loss))

    return told

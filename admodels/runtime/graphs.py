"""CUDA graphs: the kernels of a computation, started all at once. Small ones end sooner than Python starts the next."""

import logging
import os
import threading
from collections.abc import Callable

import torch
from torch import Tensor

MAX_SHAPES = 4  # each holds its own memory
N_WARM_UP = 3  # runs before the recording, in which libraries choose their ways
TOLERANCE = 1e-3  # of the largest value: the libraries may choose other ways in a recording

logger = logging.getLogger(__name__)


class Graphed:
    """A computation from one tensor on a CUDA GPU, recorded for each shape that comes and replayed from then on.

    A shape is left to the computation itself where its graph cannot be made or gives something else, and where
    `ADMODELS_CUDA_GRAPHS=0` is set. Calling it is safe from several threads that use one stream, as PyTorch's do.

    Args:
        run: waits for nothing and asks the GPU for no number.
    """

    def __init__(self, run: Callable[[Tensor], list[Tensor]]) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._graphs: dict[tuple[torch.Size, torch.dtype], _Graph | None] = {}

    def __call__(self, x: Tensor) -> list[Tensor]:
        """What `run` gives."""
        key = x.shape, x.dtype
        with self._lock:
            if key not in self._graphs and len(self._graphs) < MAX_SHAPES:
                self._graphs[key] = self._made(x)
            graph = self._graphs.get(key)
            if graph is not None:
                return graph(x)
        return self._run(x)

    def _made(self, x: Tensor) -> "_Graph | None":
        if os.environ.get("ADMODELS_CUDA_GRAPHS") == "0":
            return None
        try:
            graph = _Graph(self._run, x)
            expected, found = self._run(x), graph(x)
        except RuntimeError as error:
            logger.warning("No CUDA graph for %s: %s", tuple(x.shape), error)
            return None
        if all(_are_close(a, b) for a, b in zip(expected, found, strict=True)):
            return graph
        logger.warning("The CUDA graph for %s gives something else and is not used.", tuple(x.shape))
        return None


class _Graph:
    def __init__(self, run: Callable[[Tensor], list[Tensor]], x: Tensor) -> None:
        with torch.inference_mode(False), torch.no_grad():  # else nobody could write to it outside of inference mode
            self._x = x.clone()
            self._found, self._replay = recorded(lambda: run(self._x), x.device)

    def __call__(self, x: Tensor) -> list[Tensor]:
        self._x.copy_(x)
        self._replay()
        return [tensor.clone() for tensor in self._found]  # the next replay writes where this one did


def recorded(run: Callable[[], list[Tensor]], device: torch.device) -> tuple[list[Tensor], Callable[[], None]]:
    """The tensors that `run` gives, and what fills them again from the memory that `run` reads.

    Raises:
        RuntimeError: it does what a graph cannot.
    """
    with torch.cuda.device(device):
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(N_WARM_UP):
                run()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads go on with what they do
            found = run()
        return found, graph.replay


def _are_close(expected: Tensor, found: Tensor) -> bool:
    return bool((expected - found).abs().max() <= TOLERANCE * expected.abs().max())

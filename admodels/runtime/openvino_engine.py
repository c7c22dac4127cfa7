"""A frozen network run by OpenVINO: faster than PyTorch on a CPU, most of all beside other work, since its threads do
not wait for each other in a busy loop.

The package is imported where it is first used. What it makes of a network is kept in a folder, since it takes seconds.
"""

import copy
import hashlib
import importlib.util
import logging
import shutil
import uuid
from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from admodels.files import home_folder
from admodels.runtime.device import usable_cores
from admodels.runtime.engines import TORCH_TITLE, TorchEngine, chunk_sizes
from admodels.runtime.normalising import Normalisation
from admodels.runtime.shared import Shared
from admodels.runtime.tracing import tracing

if TYPE_CHECKING:
    import openvino

# Largest difference from PyTorch in float32, as a part of each map's largest value.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
N_COMPILED = 16  # shapes of pictures, and numbers of threads, that are kept for each network
EXAMPLE = (2, 3, 128, 160)  # what a network for any size is traced with
FILE = "network.xml"
log = logging.getLogger(__name__)


@lru_cache
def is_installed() -> bool:
    """Whether the package is there; it is not imported for this."""
    return importlib.util.find_spec("openvino") is not None


@lru_cache
def multiplies_bfloat16() -> bool:
    """Whether it does so on this CPU; elsewhere it would compute in float32 without a word."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def title() -> str:
    """Name and version."""
    return f"OpenVINO {version('openvino').partition('-')[0]}"


class OpenVinoEngine:
    """Runs a network on the CPU.

    Each shape of pictures is compiled once, and compared with PyTorch once, on noise. Where the two do not agree, or
    OpenVINO cannot run the network, PyTorch does, and the log says so.

    Args:
        network: in float32, from normalised B×3×h×w to a list of B×C×h'×w'; it stays as it is.
        normalisation: of its input.
        dtype: torch.float32 or torch.bfloat16.
        takes_any_size: whether what it computes does not depend on the size that it is traced with.
        is_kept: keep what is made of the network in `home_folder()`, for other processes too.
    """

    def __init__(
        self,
        network: nn.Module,
        normalisation: Normalisation,
        dtype: torch.dtype,
        *,
        takes_any_size: bool,
        is_kept: bool,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.normalisation, self.dtype = normalisation, dtype
        self._takes_any_size, self._is_kept = takes_any_size, is_kept
        self._compiled: Shared[_Compiled | TorchEngine] = Shared(n_kept=N_COMPILED)
        self._is_replaced = False

    @property
    def title(self) -> str:
        """Its name and version, to be printed beside every measured speed; PyTorch's where that had to step in."""
        return TORCH_TITLE if self._is_replaced else title()

    def __call__(self, batch: Tensor) -> list[Tensor]:
        batch = batch.cpu().contiguous()
        key = *batch.shape[1:3], torch.get_num_threads()
        return self._compiled.get(key, lambda: self._compile(batch.shape[1], batch.shape[2]))(batch)

    def _compile(self, height: int, width: int) -> "_Compiled | TorchEngine":
        try:
            compiled = _Compiled(self._graph(height, width), (height, width), self.dtype)
            apart = self._difference(compiled, height, width)
            if apart <= TOLERANCE[self.dtype]:
                return compiled
            reason = f"its maps are {apart:.2g} apart from PyTorch's"
        except Exception as error:  # it has many ways of saying no
            reason = str(error) or repr(error)
        log.warning("PyTorch runs a network in place of OpenVINO, on pictures of %d×%d: %s", height, width, reason)
        self._is_replaced = True
        return self._pytorch

    @cached_property
    def _pytorch(self) -> TorchEngine:
        return TorchEngine(copy.deepcopy(self.network), self.normalisation, torch.device("cpu"), self.dtype)

    def _difference(self, compiled: "_Compiled", height: int, width: int) -> float:
        """How far the maps of noise are from PyTorch's in float32, as a part of the largest value of each."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=generator)
        with torch.inference_mode():
            expected, found = self.network(self.normalisation(noise)), compiled(noise)
            return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, found, strict=True))

    def _graph(self, height: int, width: int) -> "openvino.Model":
        """The network as OpenVINO has it: from the folder where it is kept, else converted."""
        size = EXAMPLE if self._takes_any_size else (2, 3, height, width)
        if not self._is_kept:
            return _converted(self.network, self.normalisation, size)
        folder = home_folder() / "engines" / f"{self._digest}-{size[2]}x{size[3]}"
        try:
            return _core().read_model(folder / FILE)
        except RuntimeError:  # it is not there, or is not whole
            graph = _converted(self.network, self.normalisation, size)
            _keep(graph, folder)
            return graph

    @cached_property
    def _digest(self) -> str:
        """Of all that the kept file follows from."""
        import openvino
        import timm

        what = (self.network, self.normalisation, torch.__version__, timm.__version__, openvino.__version__)
        digest = hashlib.sha256(repr(what).encode())
        for name, tensor in self.network.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:32]


class _Compiled:
    """A network for pictures of one shape. Each thread that runs it has a request of its own."""

    def __init__(self, graph: "openvino.Model", size: tuple[int, int], dtype: torch.dtype) -> None:
        graph.reshape([-1, *size, 3])
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": usable_cores(),
            "ENABLE_CPU_PINNING": False,  # a thread that is tied to a core waits for whatever else runs there
        }
        self._compiled = _core().compile_model(graph, "CPU", options)
        self._sizes = [[d.get_length() for d in list(out.get_partial_shape())[1:]] for out in self._compiled.outputs]
        self._n_pixels = size[0] * size[1]
        self._free: SimpleQueue[openvino.InferRequest] = SimpleQueue()

    def __call__(self, batch: Tensor) -> list[Tensor]:
        import openvino

        maps = [torch.empty(len(batch), *size) for size in self._sizes]
        try:
            request = self._free.get_nowait()
        except Empty:
            request = self._compiled.create_infer_request()
        first = 0
        for n in chunk_sizes(len(batch), self._n_pixels):
            part = slice(first, first + n)
            request.set_input_tensor(openvino.Tensor(batch[part].numpy(), shared_memory=True))
            for i, m in enumerate(maps):
                request.set_output_tensor(i, openvino.Tensor(m[part].numpy(), shared_memory=True))
            request.infer()
            first += n
        self._free.put(request)
        return [m.permute(0, 3, 1, 2) for m in maps]


@lru_cache
def _core() -> "openvino.Core":
    import openvino

    return openvino.Core()


def _converted(network: nn.Module, normalisation: Normalisation, size: Sequence[int]) -> "openvino.Model":
    """From uint8 B×h×w×3, the way pictures lie in memory, to maps B×h'×w'×C."""
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    from openvino.preprocess import PrePostProcessor

    # Its `convert_model` does the same, takes twice as long and may tell its makers of it.
    frontend = FrontEndManager().load_by_framework("pytorch")
    with tracing():
        traced = TorchScriptPythonDecoder(network, example_input=torch.zeros(*size))
        graph = frontend.convert(frontend.load(traced))
    steps, channels_last, channels_first = PrePostProcessor(graph), openvino.Layout("NHWC"), openvino.Layout("NCHW")
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(channels_last)
    steps.input().model().set_layout(channels_first)
    values = steps.input().preprocess().convert_element_type(openvino.Type.f32)
    values.mean([255 * m for m in normalisation.mean]).scale([255 * s for s in normalisation.std])
    for i in range(len(graph.outputs)):
        steps.output(i).model().set_layout(channels_first)
        steps.output(i).tensor().set_layout(channels_last)
    return steps.build()


def _keep(graph: "openvino.Model", folder: Path) -> None:
    """Put what was converted where other processes look for it, whole or not at all; without it they convert too."""
    import openvino

    part = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.partial")
    try:
        part.mkdir(parents=True)
        openvino.save_model(graph, part / FILE, compress_to_fp16=False)
        shutil.rmtree(folder, ignore_errors=True)  # what could not be read
        part.rename(folder)
    except (OSError, RuntimeError) as error:
        log.info("what OpenVINO made of a network cannot be kept in %s: %s", folder, error)
    finally:
        shutil.rmtree(part, ignore_errors=True)

"""What runs a frozen network, and PyTorch as one that does.

An engine takes pictures as they come, uint8 RGB B×h×w×3, and gives the network's maps; normalising is its business.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from admodels.runtime.exact import exact_products
from admodels.runtime.memory import free_bytes
from admodels.runtime.normalising import Normalisation

TORCH_TITLE = f"torch {torch.__version__}"
# On a CPU the activations of a large batch are freshly mapped memory for every layer, and the page faults cost more
# than the larger products gain: 4 pictures of 224² at a time take 9.6 ms each where 16 take 18.8 (measured, 2 cores).
CPU_CHUNK_PIXELS = 4 * 256 * 256
# On a GPU the tiles of a batch of large pictures may be thousands. A wide_resnet50_2 in float32 holds 600 bytes at a
# time for each pixel of its input (by its layers' sizes), the other networks that the app offers fewer.
GPU_SHARE, BYTES_PER_PIXEL = 0.5, 1000


class Engine(Protocol):
    """Runs one frozen network. Calling it is safe from several threads at once."""

    @property
    def title(self) -> str:
        """Its name and version, to be printed beside every measured speed."""

    def __call__(self, batch: Tensor) -> list[Tensor]:
        """The network's maps.

        Args:
            batch: uint8 RGB B×h×w×3, on any device.

        Returns:
            float32 B×C×h'×w' (channels_last) for each map, on the engine's device.
        """


class TorchEngine:
    """PyTorch's own pass.

    Args:
        network: from normalised B×3×h×w to a list of maps; it is changed: moved, and converted to `dtype`.
        normalisation: of its input.
        device: where it runs.
        dtype: torch.float32, torch.bfloat16 or torch.float16.
    """

    def __init__(
        self, network: nn.Module, normalisation: Normalisation, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.normalisation, self.device, self.dtype = normalisation, device, dtype
        # Autocast would convert the weights in every pass. Batch norms, which need float32, are folded away.
        self.network = network.eval().requires_grad_(False).to(device, dtype, memory_format=torch.channels_last)
        self.title = TORCH_TITLE

    def __call__(self, batch: Tensor) -> list[Tensor]:
        with torch.inference_mode():
            sizes = chunk_sizes(len(batch), batch.shape[1] * batch.shape[2], most_pixels(self.device))
            # The copy is waited for. Pageable memory that is written again before a copy has ended arrives as a mixture
            # on MPS; on CUDA such a copy does not run beside anything.
            with exact_products(self.device):
                chunks = [self.network(self._prepared(chunk)) for chunk in batch.split(sizes)]
            maps = chunks[0] if len(chunks) == 1 else [torch.cat(parts) for parts in zip(*chunks, strict=True)]
            return [m.float() for m in maps]

    def _prepared(self, pictures: Tensor) -> Tensor:
        return self.normalisation(pictures.to(self.device)).to(self.dtype)


def most_pixels(device: torch.device) -> int:
    """How many pixels pass through a network at a time: on a GPU as many as its free memory holds."""
    if device.type == "cpu":
        return CPU_CHUNK_PIXELS
    return max(CPU_CHUNK_PIXELS, int(free_bytes(device) * GPU_SHARE) // BYTES_PER_PIXEL)


def chunk_sizes(n: int, n_pixels: int, most: int = CPU_CHUNK_PIXELS) -> list[int]:
    """How many of n pictures pass through a network at a time: of nine 3, 3 and 3, not 4, 4 and 1.

    Args:
        n_pixels: of each picture.
        most: pixels at a time.
    """
    n_chunks = max(1, -(-n // max(1, most // n_pixels)))
    return [n // n_chunks + (i < n % n_chunks) for i in range(n_chunks)]

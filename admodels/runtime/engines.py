"""What runs a frozen network, and PyTorch as one that does.

An engine takes pictures as they come, uint8 RGB B×h×w×3, and gives the network's maps; normalising is its business.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from admodels.runtime.normalising import Normalisation

TORCH_TITLE = f"torch {torch.__version__}"
# On a CPU the activations of a large batch are freshly mapped memory for every layer, and the page faults cost more
# than the larger products gain: 4 pictures of 224² at a time take 9.6 ms each where 16 take 18.8 (measured, 2 cores).
CPU_CHUNK_PIXELS = 4 * 256 * 256


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
        dtype: torch.float32 or torch.bfloat16.
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
            x = self.normalisation(batch.to(self.device, non_blocking=True)).to(self.dtype)
            sizes = chunk_sizes(len(x), x.shape[2] * x.shape[3]) if self.device.type == "cpu" else [len(x)]
            chunks = [self.network(chunk) for chunk in x.split(sizes)]
            maps = chunks[0] if len(chunks) == 1 else [torch.cat(parts) for parts in zip(*chunks, strict=True)]
            return [m.float() for m in maps]


def chunk_sizes(n: int, n_pixels: int) -> list[int]:
    """How many of n pictures pass through a network at a time on a CPU: of nine 3, 3 and 3, not 4, 4 and 1.

    Args:
        n_pixels: of each picture.
    """
    n_chunks = max(1, -(-n // max(1, CPU_CHUNK_PIXELS // n_pixels)))
    return [n // n_chunks + (i < n % n_chunks) for i in range(n_chunks)]

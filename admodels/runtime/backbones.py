"""Frozen feature extractors: one fast forward pass, shared.

A backbone is separate from the statistics on top of it, so that several detectors can share one, and an ensemble can
run it once for all its tiles.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn

from admodels.runtime.backbone_specs import backbone_spec, full_name
from admodels.runtime.backbone_weights import PUBLISHED
from admodels.runtime.device import resolve_precision
from admodels.runtime.networks import build_network
from admodels.runtime.shared import Shared

# On a CPU the activations of a large batch are freshly mapped memory for every layer, and the page faults cost more
# than the larger products gain: 4 pictures of 224² at a time take 9.6 ms each where 16 take 18.8 (measured, 2 cores).
CPU_CHUNK_PIXELS = 4 * 256 * 256


def normalise(batch: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """uint8 RGB B×h×w×3 to float32 B×3×h×w (channels_last), normalised by mean and standard deviation in [0, 1]."""
    n, height, width, _ = batch.shape
    scale, offset = _scale_and_offset(mean, std, batch.device)
    # Whole rows at a time: broadcasting over an innermost dimension of 3 is not vectorised (1.9 ms against 0.05).
    rows = batch.reshape(n * height, width * 3).float()
    return torch.addcmul(offset.repeat(width), rows, scale.repeat(width)).view(n, height, width, 3).permute(0, 3, 1, 2)


@lru_cache
def _scale_and_offset(
    mean: tuple[float, float, float], std: tuple[float, float, float], device: torch.device
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        scale = torch.tensor(std, device=device).mul(255).reciprocal()
        return scale, torch.tensor(mean, device=device).mul(-255) * scale


class Backbone:
    """A frozen network on one device at one precision.

    Calling it is safe from several threads at once. Build it with `get_backbone`, which shares instances.

    Args:
        name: one of ours or of timm.
        network: a module that maps normalised B×3×h×w float32 to a list of feature maps.
        device: where it runs.
        dtype: torch.float32 or torch.bfloat16.
    """

    def __init__(self, name: str, network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.name = name
        self.spec = backbone_spec(name)
        self.device = device
        self.dtype = dtype
        # Autocast would convert the weights in every pass. Batch norms, which need float32, are folded away.
        self.network = network.eval().requires_grad_(False).to(device, dtype, memory_format=torch.channels_last)

    def features(self, batch: Tensor) -> list[Tensor]:
        """Feature maps of a batch of pictures.

        Args:
            batch: uint8 RGB, B×h×w×3, on any device.

        Returns:
            One float32 tensor B×C×h'×w' (channels_last) for each layer of the spec, on the backbone's device.
        """
        with torch.inference_mode():
            return self.forward(self.normalise(batch.to(self.device, non_blocking=True)))

    def normalise(self, batch: Tensor) -> Tensor:
        """uint8 RGB B×h×w×3 to normalised float32 B×3×h×w (channels_last)."""
        return normalise(batch, self.spec.mean, self.spec.std)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The network's own pass over normalised B×3×h×w float32: the limit that the benchmark measures against."""
        n_chunks = 1
        if self.device.type == "cpu":
            most = max(1, CPU_CHUNK_PIXELS // (x.shape[2] * x.shape[3]))
            n_chunks = max(1, -(-len(x) // most))
        with torch.inference_mode():
            # Of about the same size: nine tiles as 3 + 3 + 3, not 4 + 4 + 1.
            chunks = [self.network(chunk) for chunk in x.to(self.dtype).tensor_split(n_chunks)]
        maps = chunks[0] if len(chunks) == 1 else [torch.cat(parts) for parts in zip(*chunks, strict=True)]
        return [m.float() for m in maps]


_loaded: Shared[Backbone] = Shared(n_kept=4)
_stand_ins: Shared[Backbone] = Shared(n_kept=1)


def get_backbone(name: str, device: torch.device, precision: str = "auto", weights: str = PUBLISHED) -> Backbone:
    """The shared backbone for this name, device, precision and weights; loaded on first use.

    Threads that have theirs go on while one is loaded or downloaded for others.

    Args:
        weights: "published", or a file as `pinned` gives it.

    Raises:
        OptionError: unknown name.
        WeightsError: the weights are not here and cannot be fetched, or are not this backbone's.
    """
    name, dtype = full_name(name), resolve_precision(precision, device)

    def make() -> Backbone:
        return Backbone(name, build_network(name, weights=weights), device, dtype)

    return _loaded.get((name, str(device), dtype, weights), make)


def stand_in_backbone(name: str, device: torch.device, precision: str = "auto") -> Backbone:
    """The same network with random weights: it takes as long, and nothing is downloaded for it."""
    name, dtype = full_name(name), resolve_precision(precision, device)

    def make() -> Backbone:
        return Backbone(name, build_network(name, pretrained=False), device, dtype)

    return _stand_ins.get((name, str(device), dtype), make)

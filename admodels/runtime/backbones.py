"""Frozen feature extractors: one fast forward pass, shared.

A backbone is separate from the statistics on top of it, so that several detectors can share one, and an ensemble can
run it once for all its tiles.
"""

import torch
from torch import Tensor, nn

from admodels.runtime.backbone_specs import backbone_spec, full_name
from admodels.runtime.backbone_weights import PUBLISHED
from admodels.runtime.device import resolve_precision
from admodels.runtime.engine_choice import asked_engine, engine_for
from admodels.runtime.feature_networks import Stages
from admodels.runtime.networks import build_network
from admodels.runtime.normalising import Normalisation
from admodels.runtime.shared import Shared


class Backbone:
    """A frozen network on one device at one precision.

    Calling it is safe from several threads at once. Build it with `get_backbone`, which shares instances.

    Args:
        name: one of ours or of timm.
        network: a module that maps normalised B×3×h×w float32 to a list of feature maps.
        device: where it runs.
        dtype: torch.float32 or torch.bfloat16.
        asked: the engine, one of `ENGINES`.
    """

    def __init__(self, name: str, network: nn.Module, device: torch.device, dtype: torch.dtype, asked: str) -> None:
        self.name = name
        self.spec = backbone_spec(name)
        self.device, self.dtype = device, dtype
        self.normalisation = Normalisation(self.spec.mean, self.spec.std)
        self.engine = engine_for(
            network,
            self.normalisation,
            device,
            dtype,
            asked=asked,
            takes_any_size=isinstance(network, Stages),  # others pad, by the size that they are traced with
            is_kept=True,
        )

    def features(self, batch: Tensor) -> list[Tensor]:
        """Feature maps of a batch of pictures: the engine's pass, the limit that the benchmark measures against.

        Args:
            batch: uint8 RGB, B×h×w×3, on any device.

        Returns:
            One float32 tensor B×C×h'×w' (channels_last) for each layer of the spec, on the backbone's device.
        """
        return self.engine(batch)


_loaded: Shared[Backbone] = Shared(n_kept=4)
_stand_ins: Shared[Backbone] = Shared(n_kept=1)


def get_backbone(name: str, device: torch.device, precision: str = "auto", weights: str = PUBLISHED) -> Backbone:
    """The shared backbone for this name, device, precision and weights; loaded on first use.

    Threads that have theirs go on while one is loaded or downloaded for others.

    Args:
        weights: "published", or a file as `pinned` gives it.

    Raises:
        OptionError: unknown name, or an unknown engine is asked for.
        WeightsError: the weights are not here and cannot be fetched, or are not this backbone's.
    """
    name, dtype, asked = full_name(name), resolve_precision(precision, device), asked_engine()

    def make() -> Backbone:
        return Backbone(name, build_network(name, weights=weights), device, dtype, asked)

    return _loaded.get((name, str(device), dtype, weights, asked), make)


def stand_in_backbone(name: str, device: torch.device, precision: str = "auto") -> Backbone:
    """The same network with random weights: it takes as long, and nothing is downloaded for it."""
    name, dtype, asked = full_name(name), resolve_precision(precision, device), asked_engine()

    def make() -> Backbone:
        return Backbone(name, build_network(name, pretrained=False), device, dtype, asked)

    return _stand_ins.get((name, str(device), dtype, asked), make)

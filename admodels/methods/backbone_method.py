"""What the methods share that put statistics on top of a frozen backbone."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from admodels.core.method import DetectorConfig, Method
from admodels.errors import TrainingError
from admodels.options import option
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.backbone_specs import KNOWN_BACKBONES, backbone_spec, full_name
from admodels.runtime.backbone_weights import PUBLISHED, check_published, download_mib, pinned, weights_licence
from admodels.runtime.backbones import Backbone, get_backbone, stand_in_backbone
from admodels.runtime.finite import are_finite
from admodels.runtime.networks import build_network
from admodels.runtime.normalising import Normalisation, Normalised


@dataclass(frozen=True)
class BackboneConfig(DetectorConfig):
    """The options of every method with a backbone."""

    backbone: str = option(
        "efficientnet_lite0",
        f"The frozen network that sees the picture: {', '.join(KNOWN_BACKBONES)}, or any of timm that gives maps.",
        for_all=tuple(KNOWN_BACKBONES),
        common=True,
    )
    weights: str = option(
        PUBLISHED,
        "The network's weights: published, or the path of a file (.safetensors or a PyTorch checkpoint).",
        for_all=(PUBLISHED,),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # What is kept means the same weights on another day and on another machine, or says that they are not there.
        object.__setattr__(self, "backbone", full_name(self.backbone))
        check_published(self.backbone, self.weights)
        object.__setattr__(self, "weights", pinned(self.weights))


class BackboneMethod(Method):
    """A method that sees pictures as a backbone's feature maps, B×C×h×w float32, from fine to coarse."""

    Config: ClassVar[type[BackboneConfig]]
    _stand_in: Backbone | None = None

    @property
    def backbone(self) -> Backbone:
        """The frozen network, shared with other methods."""
        return self._stand_in or get_backbone(
            self.config.backbone, self.device, self.config.precision, self.config.weights
        )

    def download_mib(self) -> float:
        """Of the backbone's weights."""
        return download_mib(self.config.backbone, self.config.weights)

    def to_measure(self) -> Self:
        """With a backbone of random weights where the real ones would have to be downloaded."""
        if not self.download_mib():
            return self
        other = copy(self)
        other._stand_in = stand_in_backbone(self.config.backbone, self.device, self.config.precision)
        return other

    @property
    def network_name(self) -> str:
        """The backbone's key."""
        return self.config.backbone

    @property
    def engine_title(self) -> str:
        """The backbone's."""
        return self.backbone.engine.title

    @property
    def network_licence(self) -> str:
        """The backbone's."""
        return weights_licence(self.config.backbone, self.config.weights)

    def encode(self, batch: Tensor) -> list[Tensor]:
        """Turn uint8 B×h×w×3 into the backbone's feature maps.

        Raises:
            TrainingError: they are not finite.
        """
        maps = self.backbone.features(batch)
        if not are_finite(*maps):
            raise TrainingError(
                f"the feature maps of {self.config.backbone} in {self.dtype} hold values that are not finite. Use "
                "precision=float32 or another backbone."
            )
        return maps

    def encoder(self) -> nn.Module:
        """The backbone, with the normalisation of its input."""
        spec = backbone_spec(self.config.backbone)
        network = build_network(self.config.backbone, weights=self.config.weights)
        return Normalised(network.eval().requires_grad_(False), Normalisation(spec.mean, spec.std))

    def encoded_bytes(self, shape: WorkingShape) -> int:
        """Size of one picture's feature maps."""
        spec = backbone_spec(self.config.backbone)
        return 4 * sum(c * h * w for c, (h, w) in zip(spec.channels, spec.map_sizes(shape.cropped), strict=True))


@contextmanager
def decomposing(remedy: str) -> Iterator[None]:
    """Explain a decomposition that fails.

    Args:
        remedy: which options make it easier.

    Raises:
        TrainingError: in place of PyTorch's own error.
    """
    try:
        yield
    except torch.linalg.LinAlgError as error:
        raise TrainingError(f"the pictures' statistics cannot be decomposed ({error}). {remedy}") from error

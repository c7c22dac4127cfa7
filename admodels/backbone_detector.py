"""What the methods share that put statistics on top of a frozen backbone."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from admodels.backbones import BACKBONES, Backbone, get_backbone
from admodels.base import Detector, DetectorConfig
from admodels.options import option
from admodels.working_shape import WorkingShape


@dataclass(frozen=True)
class BackboneConfig(DetectorConfig):
    """The options of every method with a backbone."""

    backbone: str = option("efficientnet_lite0", "The frozen network that sees the picture.", choices=tuple(BACKBONES))


class BackboneDetector(Detector):
    """A detector that sees pictures as a backbone's feature maps, B×C×h×w float32, from fine to coarse."""

    Config: ClassVar[type[BackboneConfig]]

    @property
    def backbone(self) -> Backbone:
        """The frozen network, shared with other detectors."""
        return get_backbone(self.config.backbone, self.device, self.config.precision)

    @property
    def network_name(self) -> str:
        """The backbone's key."""
        return self.config.backbone

    def encode(self, batch: Tensor) -> list[Tensor]:
        """Turn uint8 B×h×w×3 into the backbone's feature maps."""
        return self.backbone.features(batch)

    def encoded_bytes(self, shape: WorkingShape) -> int:
        """Size of one picture's feature maps."""
        spec, area = BACKBONES[self.config.backbone], shape.cropped[0] * shape.cropped[1]
        return 4 * sum(c * area // s**2 for c, s in zip(spec.channels, spec.strides, strict=True))

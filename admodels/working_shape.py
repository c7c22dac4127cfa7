"""How a detector looks at pictures, their size and the scale of their values, and the way back to their own size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from admodels.errors import OptionError
from admodels.images import resize
from admodels.value_range import ValueRange

SIDE_MULTIPLE = 32
MAX_SIDE = 8192  # longer ones are pictures so narrow that they have to be cut


@dataclass(frozen=True)
class WorkingShape:
    """Sizes as (height, width) in pixels.

    Attributes:
        resized: every picture is resized to this.
        cropped: the centre that the network sees; equal to `resized` where nothing is cut.
        value_range: which values are black and white in pictures of more than 8 bits; None where the set had none.
    """

    resized: tuple[int, int]
    cropped: tuple[int, int]
    value_range: ValueRange | None = None

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """Resize and crop one picture; uint8 H×W×3 to uint8 h×w×3."""
        return resize(pixels, self.resized, self.cropped if self.cropped != self.resized else None)

    def to_original(self, patch_map: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
        """Bring one map of the cropped region back to a picture's own size.

        Args:
            patch_map: h×w, any device.
            size: the picture's (height, width).

        Returns:
            float32 height×width, bilinear; NaN where a crop left the border unscored.
        """
        box = [
            (round((full - cut) // 2 / full * n), round(((full - cut) // 2 + cut) / full * n))
            for full, cut, n in zip(self.resized, self.cropped, size, strict=True)
        ]
        (top, bottom), (left, right) = box
        inner = F.interpolate(
            patch_map[None, None].float().cpu(), size=(bottom - top, right - left), mode="bilinear", align_corners=False
        )[0, 0].numpy()
        if inner.shape == size:
            return inner
        original = np.full(size, np.nan, dtype=np.float32)
        original[top:bottom, left:right] = inner
        return original


def choose_working_shape(
    image_size: int, crop: int | None, keep_aspect: bool, sizes: Sequence[tuple[int, int]]
) -> WorkingShape:
    """The working shape for a set of pictures.

    Args:
        image_size: side of the square, or of the square of about equal area where the aspect ratio is kept.
        crop: side of the centre crop at that size; a shape that is not square is cropped by the same fraction.
        keep_aspect: take the median aspect ratio of the set, with sides that are multiples of 32; else a square.
        sizes: (height, width) of the pictures.

    Raises:
        OptionError: the pictures are so narrow that a side would be longer than `MAX_SIDE`.
    """
    if not keep_aspect:
        resized = (image_size, image_size)
        return WorkingShape(resized, (crop, crop) if crop else resized)
    root = math.sqrt(float(np.median([height / width for height, width in sizes])))
    resized = (_multiple(image_size * root), _multiple(image_size / root))
    if max(resized) > MAX_SIDE:
        raise OptionError(
            f"the pictures are {max(root, 1 / root) ** 2:.0f} times as long as wide and would be looked at as "
            f"{resized[1]}×{resized[0]} px; at most {MAX_SIDE} px on a side are possible. Cut them into parts, or "
            "lower image_size."
        )
    if crop is None:
        return WorkingShape(resized, resized)
    height, width = (min(_multiple(side * crop / image_size), side) for side in resized)
    return WorkingShape(resized, (height, width))


def _multiple(side: float) -> int:
    return max(SIDE_MULTIPLE, round(side / SIDE_MULTIPLE) * SIDE_MULTIPLE)

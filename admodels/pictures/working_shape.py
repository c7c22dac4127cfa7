"""How a detector looks at pictures, their size and the scale of their values, and the way back to their own size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from admodels.pictures.decoding import MIN_SIDE
from admodels.pictures.images import resize
from admodels.pictures.picture_files import max_megapixels
from admodels.pictures.value_range import ValueRange

SIDE_MULTIPLE = 32


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
            (_scaled((full - cut) // 2, n, full), _scaled((full - cut) // 2 + cut, n, full))
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
    """
    if not keep_aspect:
        resized = (image_size, image_size)
        return WorkingShape(resized, (crop, crop) if crop else resized)
    root = math.sqrt(float(np.median([height / width for height, width in sizes])))
    resized = (_multiple(image_size * root), _multiple(image_size / root))
    if crop is None:
        return WorkingShape(resized, resized)
    return WorkingShape(resized, _cropped(resized, image_size, crop))


def shape_fault(shape: WorkingShape, image_size: int, crop: int | None, keep_aspect: bool) -> str | None:
    """Why `choose_working_shape` gives this shape for no set of pictures; None where there is such a set.

    Args:
        image_size, crop, keep_aspect: as there.
    """
    height, width = shape.resized
    if not keep_aspect:
        if shape.resized != (image_size, image_size):
            return f"resized is {height}×{width}, expected {image_size}×{image_size}"
        expected = (crop, crop) if crop else shape.resized
    else:
        if any(side < SIDE_MULTIPLE or side % SIDE_MULTIPLE for side in shape.resized):
            return f"resized is {height}×{width}, expected multiples of {SIDE_MULTIPLE}"
        if max(height, width) > longest_side(image_size):
            return f"resized is {height}×{width}, longer than that of any picture that can be read"
        # Some aspect ratio r² must round both image_size·r to the height and image_size/r to the width. Each side was
        # rounded by half a multiple at most; the smallest one stands for all that would be smaller.
        half = SIDE_MULTIPLE // 2
        too_small = (height + half) * (width + half) < image_size**2
        too_large = min(height, width) > SIDE_MULTIPLE and (height - half) * (width - half) > image_size**2
        if too_small or too_large:
            return f"resized is {height}×{width}, expected about the area of {image_size}×{image_size}"
        expected = _cropped(shape.resized, image_size, crop) if crop else shape.resized
    if shape.cropped != expected:
        return f"cropped is {shape.cropped[0]}×{shape.cropped[1]}, expected {expected[0]}×{expected[1]}"
    return None


def longest_side(image_size: int) -> int:
    """Of a working shape: that of the longest picture that can be read, as narrow as a picture may be."""
    longest = max_megapixels() * 1e6 / MIN_SIDE
    return _multiple(image_size * math.sqrt(longest / MIN_SIDE))


def _cropped(resized: tuple[int, int], image_size: int, crop: int) -> tuple[int, int]:
    """The same fraction of both sides."""
    height, width = (min(_multiple(side * crop / image_size), side) for side in resized)
    return height, width


def _scaled(at: int, n: int, full: int) -> int:
    """The whole number next to at·n / full, in whole numbers, as a graph for another runtime computes it."""
    return (2 * at * n + full) // (2 * full)


def _multiple(side: float) -> int:
    return max(SIDE_MULTIPLE, round(side / SIDE_MULTIPLE) * SIDE_MULTIPLE)

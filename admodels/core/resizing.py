"""Pillow's resize as products of matrices, for a GPU: the same grey levels as `WorkingShape.prepare`.

Pillow weighs the pixels around by a triangle, in units of 2⁻²², across and then down, with whole grey levels in
between. Here each weight is split into two numbers of 11 bits, so that float32 holds every sum exactly, in any order.
"""

import numpy as np
import torch
from torch import Tensor

from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.tracing import kept

BITS, HALF_BITS = 22, 11  # of Pillow's weights, and of what float32 multiplies exactly
MAX_RATIO = 16  # the sum over 2·16 pixels of 255 times 11 bits is below 2²⁴
# Smaller pictures cost a thread of the CPU less than a GPU's kernels take to start; larger ones would take too much
# memory while they wait to be resized.
MIN_PIXELS, MAX_PIXELS = 1_000_000, 8_000_000


def is_for_a_gpu(size: tuple[int, ...], shape: WorkingShape) -> bool:
    """Whether a picture of this (height, width) is worth resizing there, and can be without a rounded sum."""
    sides = list(zip(size[:2], shape.resized, strict=True))
    is_exact = all(n_from <= MAX_RATIO * n_to for n_from, n_to in sides)
    return is_exact and size[:2] != shape.resized and MIN_PIXELS <= size[0] * size[1] <= MAX_PIXELS


def resized(pixels: Tensor, shape: WorkingShape) -> Tensor:
    """Resize and crop one picture on its device; uint8 H×W×3 to uint8 h×w×3. Products must not round to TF32."""
    (height, width), (h, w) = shape.resized, shape.cropped
    across = _resized(pixels.transpose(0, 1), width).transpose(0, 1)
    top, left = (height - h) // 2, (width - w) // 2
    return _resized(across, height)[top : top + h, left : left + w]


def _resized(rows: Tensor, n_to: int) -> Tensor:
    """uint8 (N, K, 3) to uint8 (n_to, K, 3)."""
    upper, lower = _weights(len(rows), n_to, rows.device)
    flat = rows.flatten(1).float()
    sums = ((upper @ flat).int() << HALF_BITS) + (lower @ flat).int()
    return ((sums + (1 << BITS - 1)) >> BITS).to(torch.uint8).view(n_to, *rows.shape[1:])


@kept(maxsize=16)
def _weights(n_from: int, n_to: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The upper and the lower halves of the weights, float32 (n_to, n_from).

    In units of half a pixel divided by `n_to`, pixel x lies at (2x + 1)·n_to and the middle of pixel j of the result at
    (2j + 1)·n_from: whole numbers.
    """
    reach = 2 * max(n_from, n_to)
    places, middles = (2 * np.arange(n_from) + 1) * n_to, (2 * np.arange(n_to) + 1) * n_from
    heights = (reach - np.abs(places - middles[:, None])).clip(0)  # int64 (n_to, n_from)
    total = heights.sum(1, keepdims=True)
    weights = (2 * (heights << BITS) + total) // (2 * total)
    halves = weights >> HALF_BITS, weights & ((1 << HALF_BITS) - 1)
    return tuple(torch.from_numpy(half.astype(np.float32)).to(device) for half in halves)

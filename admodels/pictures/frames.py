"""Frames of a camera: which of them show something new."""

import numpy as np
from PIL import Image

GLANCE_SIDE = 48
CHANGED_LEVELS = 8  # of 255, and of a mean of many pixels: far beyond a camera's noise
CHANGED_RATIO = 0.01


def glance(pixels: np.ndarray) -> np.ndarray:
    """A frame seen roughly, to be compared by `is_alike`: means of its parts, in which noise is gone.

    Args:
        pixels: uint8 H×W×3.

    Returns:
        Float32 48×48×3, from 0 to 255.
    """
    small = Image.fromarray(pixels).resize((GLANCE_SIDE, GLANCE_SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


def is_alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two glances show the same: fewer than 1 % of their parts differ by more than 8 of 255 levels.

    A change of brightness that is the same everywhere does not count: cameras adjust their exposure by themselves.
    """
    apart = one - other
    apart = np.abs(apart - np.median(apart, axis=(0, 1))).max(axis=2)
    return float((apart > CHANGED_LEVELS).mean()) < CHANGED_RATIO

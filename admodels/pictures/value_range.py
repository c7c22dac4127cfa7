"""One scale for pictures of more than 8 bits: which values are black and white is chosen once for a whole set.

A scale for each picture would hide a change of brightness, and a fixed one of 65,535 leaves ten grey levels of a camera
that fills 10 of 16 bits. So a fit chooses one from all of its pictures, the model keeps it, and every later picture is
read with it.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from admodels.errors import OptionError

AUTO = "auto"
BIT_DEPTHS = (8, 10, 12, 14, 16, 24, 32)
# Floating-point pictures that were resampled or filtered overshoot a little.
OVERSHOOT_RATIO = 0.05

ValueRange = tuple[float, float]  # (black, white)

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?"
_PATTERN = re.compile(rf"\s*({_NUMBER})\s*:\s*({_NUMBER})\s*")


@dataclass(frozen=True)
class DeepValues:
    """The values of one picture of more than 8 bits.

    Attributes:
        is_float: floating-point numbers; else whole ones.
        low, high: the smallest and the largest finite value.
        n_not_finite: how many values are NaN or infinite.
    """

    is_float: bool
    low: float
    high: float
    n_not_finite: int = 0


def parse_value_range(text: str) -> ValueRange | None:
    """The option `value_range`: "black:white" such as "0:4095"; None for "auto".

    Raises:
        OptionError: it is neither, or white does not lie above black.
    """
    if text.strip().lower() == AUTO:
        return None
    found = _PATTERN.fullmatch(text)
    low, high = map(float, found.groups()) if found else (0.0, 0.0)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise OptionError(
            f"value_range is {text!r}; expected {AUTO}, or the values of black and white with a colon between them, "
            'such as "0:4095" for a camera of 12 bits.'
        )
    return low, high


def deep_values(grey: np.ndarray) -> DeepValues:
    """What the values of a picture of more than 8 bits (H×W, integer or float) are."""
    is_float = grey.dtype.kind == "f"
    finite = grey[np.isfinite(grey)] if is_float else grey
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return DeepValues(is_float, low, high, grey.size - finite.size)


def choose_value_range(pictures: Sequence[DeepValues]) -> ValueRange | None:
    """The scale for all of these pictures together; None where there are none.

    Whole numbers get the smallest bit depth of 8, 10, 12, 14, 16, … that holds them all. Floating-point numbers are
    taken as 0 to 1 where all of them lie there, else as whole numbers are.

    Raises:
        OptionError: values that no such scale fits; the message says to set `value_range`.
    """
    if not pictures:
        return None
    low, high = min(p.low for p in pictures), max(p.high for p in pictures)
    n_float = sum(p.is_float for p in pictures)
    remedy = 'Set the option value_range to the values of black and white, such as "0:4095".'
    if 0 < n_float < len(pictures):
        raise OptionError(
            f"{n_float} pictures hold floating-point values and {len(pictures) - n_float} whole numbers of more than 8 "
            f"bits: no scale can be chosen for both. {remedy}"
        )
    if low < -OVERSHOOT_RATIO * max(high, 1.0) if n_float else low < 0:
        raise OptionError(
            f"pictures of more than 8 bits hold values from {low:g} to {high:g}; what is black there cannot be known. "
            f"{remedy}"
        )
    if n_float and high <= 1 + OVERSHOOT_RATIO:
        return 0.0, 1.0
    if high <= 0:
        return 0.0, 65535.0  # black all over: any scale does
    over = 1 + OVERSHOOT_RATIO if n_float else 1.0
    fitting = [float(2**bits - 1) for bits in BIT_DEPTHS if high <= (2**bits - 1) * over]
    if not fitting:
        raise OptionError(f"pictures hold values up to {high:g}, more than 32 bits can. {remedy}")
    return 0.0, fitting[0]


def usual_value_range(values: DeepValues) -> ValueRange:
    """The scale of a picture about whose set nothing is known: by convention 0 to 1, 255 or 65,535."""
    if values.is_float and values.high <= 1 + OVERSHOOT_RATIO:
        return 0.0, 1.0
    return 0.0, 255.0 if values.is_float else 65535.0


def to_8_bit(grey: np.ndarray, value_range: ValueRange) -> np.ndarray:
    """uint8 H×W from integers or floats; below black and NaN is black, above white is white."""
    low, high = value_range
    levels = grey.astype(np.float32 if grey.dtype.itemsize <= 2 else np.float64)
    levels -= low
    levels *= 255.0 / (high - low)
    np.nan_to_num(levels, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
    np.clip(levels, 0, 255, out=levels)
    return np.rint(levels, out=levels).astype(np.uint8)


def said_of(values: DeepValues, value_range: ValueRange, *, is_known: bool) -> list[str]:
    """What the user should know about how one picture's values were read.

    Args:
        is_known: the scale was chosen for the picture's set or asked for; else it is the usual one.
    """
    low, high = value_range
    said = []
    if not is_known:
        kind = "floating-point" if values.is_float else "16-bit"
        said.append(
            f"its {kind} values ({values.low:g} to {values.high:g}) were read as {low:g} (black) to {high:g} (white)"
        )
    span = high - low
    if values.high > high + OVERSHOOT_RATIO * span or values.low < low - OVERSHOOT_RATIO * span:
        said.append(
            f"its values go from {values.low:g} to {values.high:g}; what lies beyond {low:g} to {high:g} is shown as "
            "black or white"
        )
    if values.n_not_finite:
        said.append(f"{values.n_not_finite} of its values are NaN or infinite; they were read as black or white")
    return said

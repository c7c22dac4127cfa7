"""Pictures for the screen: the heatmap over the original with its contour, thumbnails, stamps."""

import base64
import io
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

from admodels.pictures.images import resize

COLOUR_SCALE = "Plasma"  # perceptually uniform, readable without telling red from green, and not black at its low end
CONTOUR_COLOUR = (0, 229, 255)
UNSCORED_STRIPES = (128, 128, 128)
# White on them is readable.
VERDICT_COLOURS = {"good": (15, 118, 110), "borderline": (180, 83, 9), "suspected": (190, 18, 60)}
# Of ✓ and ✗, from corner to corner of a square.
SIGN_LINES = {
    "good": (((0.0, 0.55), (0.38, 0.95), (1.0, 0.1)),),
    "suspected": (((0.08, 0.08), (0.92, 0.92)), ((0.08, 0.92), (0.92, 0.08))),
}
RING_RATIO = 0.05  # radius of the ring around the hottest place, of the longer side
MAX_SIDE = 1024
THUMBNAIL_SIDE = 160


class Heatmap(Protocol):
    """What is drawn of a `Prediction`."""

    @property
    def anomaly_map(self) -> np.ndarray:
        """Float32 H×W; NaN where nothing was scored."""

    @property
    def map_threshold(self) -> float:
        """Above it a pixel counts as anomalous."""

    @property
    def scale(self) -> tuple[float, float]:
        """Bottom and top of the colours."""

    @property
    def is_anomalous(self) -> bool:
        """Whether the picture as a whole is."""


@lru_cache(maxsize=1)
def colour_table() -> np.ndarray:
    """The colour scale as uint8 (256, 3)."""
    from plotly.colors import sample_colorscale, unlabel_rgb  # here, since it takes a while that only a picture needs

    colours = sample_colorscale(COLOUR_SCALE, np.linspace(0, 1, 256).tolist())
    return np.array([unlabel_rgb(c) for c in colours]).round().astype(np.uint8)


def shrink(pixels: np.ndarray, max_side: int = MAX_SIDE) -> np.ndarray:
    """A picture of at most `max_side` pixels a side, for the screen."""
    factor = max_side / max(pixels.shape[:2])
    if factor >= 1:
        return pixels
    height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
    return resize(pixels, (height, width))


def overlay(
    pixels: np.ndarray,
    prediction: Heatmap,
    opacity: float = 0.7,
    contour: bool = True,
    levels: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Lay the heatmap over the picture.

    Args:
        pixels: uint8 H×W×3.
        prediction: of the same picture; its fixed scale gives the colours.
        opacity: 0 shows the picture alone, 1 hides it where the heatmap is hottest.
        contour: draw the edge of the region above the pixel threshold; where an anomalous picture has none, a ring
            around its hottest place.
        levels: turns map values into 0 to 1, bottom to top of the colours; by default the model's fixed scale does.

    Returns:
        uint8, of at most `MAX_SIDE` pixels a side. Where the map is NaN the picture is striped: it was not scored.
    """
    small = shrink(pixels)
    rows, columns = _nearest(pixels.shape[0], small.shape[0]), _nearest(pixels.shape[1], small.shape[1])
    values = prediction.anomaly_map[np.ix_(rows, columns)]
    scored = np.isfinite(values)
    if levels is None:
        low, high = prediction.scale
        level = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
    else:
        level = levels(np.nan_to_num(values))
    heat = colour_table()[(level * 255).round().astype(np.uint8)]
    # What is usual stays clear, so that the part can be seen; full opacity is reached in the middle of the scale.
    alpha = (opacity * np.clip(2 * level, 0, 1) ** 2 * scored)[..., None]
    shown = small * (1 - alpha) + heat * alpha
    if contour:
        finite = np.nan_to_num(values, nan=-np.inf)
        mask = finite > prediction.map_threshold
        if prediction.is_anomalous and not mask.any():
            mask = _around(np.unravel_index(finite.argmax(), finite.shape), finite.shape)
        shown[_edge(mask, thickness=max(1, max(mask.shape) // 300))] = CONTOUR_COLOUR
    stripes = np.add.outer(np.arange(small.shape[0]), np.arange(small.shape[1])) % 8 < 2
    shown[~scored & stripes] = UNSCORED_STRIPES
    return shown.round().astype(np.uint8)


def _around(place: tuple[np.intp, ...], shape: tuple[int, int]) -> np.ndarray:
    """bool of this shape: what is near a place."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - place[0]) ** 2 + (columns - place[1]) ** 2 <= (RING_RATIO * max(shape)) ** 2


def stamp(pixels: np.ndarray, words: str, verdict: str) -> np.ndarray:
    """Write a verdict over the top of a picture: its sign, in words, and in its colour.

    Args:
        pixels: uint8 H×W×3.
        words: what follows the sign.
        verdict: good, borderline or suspected.

    Returns:
        uint8 H×W×3.
    """
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    height = max(16, image.height // 14)
    draw.rectangle((0, 0, image.width, height), fill=VERDICT_COLOURS[verdict])
    left, side = height // 3, 0.5 * height
    if verdict == "borderline":
        draw.text((left + side / 2, height / 2), "?", fill="white", anchor="mm", font_size=0.8 * height)
    else:  # Pillow's own font has no ✓ and no ✗
        for line in SIGN_LINES[verdict]:
            points = [(left + x * side, 0.25 * height + y * side) for x, y in line]
            draw.line(points, fill="white", width=max(2, height // 9), joint="curve")
    draw.text((left + 1.6 * side, height / 2), words, fill="white", anchor="lm", font_size=0.7 * height)
    return np.asarray(image)


def rarity(p_values: np.ndarray, smallest: float) -> np.ndarray:
    """p-values as levels from 0 (p = 1) to 1 (`smallest` and below), in proportion to their logarithm."""
    return np.clip(np.log10(p_values) / np.log10(smallest), 0, 1)


def as_jpeg(pixels: np.ndarray, max_side: int) -> bytes:
    """A picture of at most `max_side` pixels a side as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(shrink(pixels, max_side)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def as_address(jpeg: bytes) -> str:
    """An address that holds the picture itself, for a page."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """A small picture for a gallery."""
    return shrink(pixels, THUMBNAIL_SIDE)


def _nearest(n_from: int, n_to: int) -> np.ndarray:
    return np.minimum((np.arange(n_to) + 0.5) * n_from / n_to, n_from - 1).astype(int)


def _edge(mask: np.ndarray, thickness: int) -> np.ndarray:
    inner = mask.copy()
    for _ in range(thickness):
        padded = np.pad(inner, 1, constant_values=True)  # the picture's own border is no edge of the region
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & inner
    return mask & ~inner

"""Defects made by hand or at random, to see what a model finds, and how small they may get.

A defect is a layer: uint8 H×W×4 (RGB and opacity) of its picture's size, clear where there is nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

FINER = 4  # drawn so many times larger, then shrunk: smooth edges
MIN_LENGTH, MIN_WIDTH = 8.0, 2.0  # pixels; a line that is thinner is faint, since no pixel is all of it
DARK, BRIGHT = 60, 200  # dirt is at most so bright, bare metal at least
CONTRAST = 90  # of 255, to what is around


def scratch(size: tuple[int, int], rng: np.random.Generator, on: np.ndarray | None = None) -> np.ndarray:
    """A thin, slightly bent line: 10 to 35 % of the shorter side long, 0.4 to 1 % wide, and never too small to see.

    Args:
        size: (height, width) of the picture.
        on: the picture, uint8 H×W×3; the line is then dark or bright enough to stand out where it lies.
    """
    side = min(size)
    length = min(max(side * rng.uniform(0.1, 0.35), MIN_LENGTH), 0.5 * side)
    bend = rng.uniform(-0.2, 0.2)
    width = max(MIN_WIDTH, side * rng.uniform(0.004, 0.01))
    along = np.linspace(-0.5, 0.5, 24)
    angle = rng.uniform(0, np.pi)
    across = bend * (0.25 - along**2)
    turned = np.stack(
        [along * np.cos(angle) - across * np.sin(angle), along * np.sin(angle) + across * np.cos(angle)], axis=1
    )
    points = length * turned + _somewhere(size, length / 2 + width, rng)

    def draw(canvas: ImageDraw.ImageDraw, opacity: int) -> None:
        canvas.line([tuple(FINER * p) for p in points], fill=opacity, width=round(FINER * width), joint="curve")

    return _layer(size, draw, rng, on)


def spot(size: tuple[int, int], rng: np.random.Generator, on: np.ndarray | None = None) -> np.ndarray:
    """A blot of uneven outline, 1 to 4 % of the shorter side in diameter, and never too small to see.

    Args:
        size: (height, width) of the picture.
        on: the picture, uint8 H×W×3; the blot is then dark or bright enough to stand out where it lies.
    """
    radius = max(MIN_WIDTH, min(size) * rng.uniform(0.005, 0.02))
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    uneven = 1 + sum(rng.uniform(0, 0.15) * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4))
    outline = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (radius * uneven)[:, None]
    points = outline + _somewhere(size, 1.5 * radius, rng)

    def draw(canvas: ImageDraw.ImageDraw, opacity: int) -> None:
        canvas.polygon([tuple(FINER * p) for p in points], fill=opacity)

    return _layer(size, draw, rng, on)


def together(layers: Sequence[np.ndarray]) -> np.ndarray:
    """Several layers of one size as one, later ones above."""
    merged = Image.fromarray(layers[0])
    for layer in layers[1:]:
        merged = Image.alpha_composite(merged, Image.fromarray(layer))
    return np.asarray(merged)


def lay_over(pixels: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """The picture with the defect: uint8 H×W×3 in and out."""
    shown = Image.alpha_composite(Image.fromarray(pixels).convert("RGBA"), Image.fromarray(layer))
    return np.asarray(shown.convert("RGB"))


def extent(layer: np.ndarray) -> tuple[int, int, int, int] | None:
    """Where the defect is: top, left, bottom, right, the last two excluded; None where nothing was drawn."""
    rows, columns = (np.flatnonzero(layer[..., 3].any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def scaled(layer: np.ndarray, factor: float) -> np.ndarray:
    """The same defect, `factor` times as long and wide, at the same place; 0 < factor ≤ 1."""
    found = extent(layer)
    if found is None:
        return layer
    top, left, bottom, right = found
    cut = Image.fromarray(layer[top:bottom, left:right])
    size = max(1, round(cut.width * factor)), max(1, round(cut.height * factor))
    # With colours weighted by their opacity, else the clear surroundings would bleed in.
    small = cut.convert("RGBa").resize(size, Image.Resampling.BOX).convert("RGBA")
    placed = Image.new("RGBA", layer.shape[1::-1])
    placed.paste(small, (round((left + right - size[0]) / 2), round((top + bottom - size[1]) / 2)))
    return np.asarray(placed)


def _somewhere(size: tuple[int, int], margin: float, rng: np.random.Generator) -> np.ndarray:
    """A point (x, y) so far inside the picture and a pixel more; in the middle where there is no room for that."""
    height, width = size
    return np.array(
        [rng.uniform(min(margin + 1, side / 2), max(side - margin - 1, side / 2)) for side in (width, height)]
    )


def _layer(
    size: tuple[int, int],
    draw: Callable[[ImageDraw.ImageDraw, int], None],
    rng: np.random.Generator,
    on: np.ndarray | None,
) -> np.ndarray:
    height, width = size
    mask = Image.new("L", (FINER * width, FINER * height))
    draw(ImageDraw.Draw(mask), round(255 * rng.uniform(0.7, 0.95)))
    opacity = np.asarray(mask.resize((width, height), Image.Resampling.BOX))
    brightness = None if on is None else float(np.average(on.mean(axis=2), weights=opacity))
    colour = np.clip(_grey(brightness, rng) + rng.normal(0, 8, 3), 0, 255).round().astype(np.uint8)
    layer = np.empty((height, width, 4), np.uint8)
    layer[..., :3] = colour
    layer[..., 3] = opacity
    return layer


def _grey(around: float | None, rng: np.random.Generator) -> float:
    """Dark as dirt or bright as bare metal, and far enough from what is around, both from 0 to 255."""
    dark, bright = DARK, BRIGHT
    if around is not None:
        dark, bright = min(dark, around - CONTRAST), max(bright, around + CONTRAST)
    wants_dark = rng.random() < 0.7
    if dark >= 0 and (wants_dark or bright > 255):
        return rng.uniform(0, dark)
    return rng.uniform(bright, 255)

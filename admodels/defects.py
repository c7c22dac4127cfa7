"""Defects made by hand or at random, to see what a model finds, and how small they may get.

A defect is a layer: uint8 H×W×4 (RGB and opacity) of its picture's size, clear where there is nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

FINER = 4  # drawn so many times larger, then shrunk: smooth edges


def scratch(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A thin, slightly bent line: 10 to 35 % of the shorter side long, 0.4 to 1 % wide.

    Args:
        size: (height, width) of the picture.
    """
    side = min(size)
    length, bend = side * rng.uniform(0.1, 0.35), rng.uniform(-0.2, 0.2)
    along = np.linspace(-0.5, 0.5, 24)
    angle = rng.uniform(0, np.pi)
    across = bend * (0.25 - along**2)
    turned = np.stack(
        [along * np.cos(angle) - across * np.sin(angle), along * np.sin(angle) + across * np.cos(angle)], axis=1
    )
    points = length * turned + _somewhere(size, length / 2, rng)
    width = max(1.0, side * rng.uniform(0.004, 0.01))

    def draw(canvas: ImageDraw.ImageDraw, opacity: int) -> None:
        canvas.line([tuple(FINER * p) for p in points], fill=opacity, width=round(FINER * width), joint="curve")

    return _layer(size, draw, rng)


def spot(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A blot of uneven outline, 1 to 4 % of the shorter side in diameter.

    Args:
        size: (height, width) of the picture.
    """
    radius = max(1.0, min(size) * rng.uniform(0.005, 0.02))
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    uneven = 1 + sum(rng.uniform(0, 0.15) * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4))
    outline = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (radius * uneven)[:, None]
    points = outline + _somewhere(size, 1.5 * radius, rng)

    def draw(canvas: ImageDraw.ImageDraw, opacity: int) -> None:
        canvas.polygon([tuple(FINER * p) for p in points], fill=opacity)

    return _layer(size, draw, rng)


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
    """A point (x, y) so far inside the picture."""
    height, width = size
    return np.array([rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)])


def _layer(
    size: tuple[int, int], draw: Callable[[ImageDraw.ImageDraw, int], None], rng: np.random.Generator
) -> np.ndarray:
    height, width = size
    mask = Image.new("L", (FINER * width, FINER * height))
    draw(ImageDraw.Draw(mask), round(255 * rng.uniform(0.6, 0.95)))
    grey = rng.uniform(0, 60) if rng.random() < 0.7 else rng.uniform(200, 255)  # dirt is dark, bare metal bright
    colour = np.clip(grey + rng.normal(0, 8, 3), 0, 255).round().astype(np.uint8)
    layer = np.empty((height, width, 4), np.uint8)
    layer[..., :3] = colour
    layer[..., 3] = np.asarray(mask.resize((width, height), Image.Resampling.BOX))
    return layer

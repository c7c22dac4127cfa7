"""An ensemble's grid of tiles as a picture."""

import numpy as np
from PIL import Image, ImageDraw

from admodels.pictures.render import CONTOUR_COLOUR, shrink
from admodels.tiling.grid import TileGrid, coverage


def draw_grid(pixels: np.ndarray, grid: TileGrid, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Draw the tiles of an ensemble over a picture.

    Args:
        pixels: uint8 H×W×3, of the grid's size.
        rows, columns: along which the map is smoothed.

    Returns:
        uint8, as large as the picture with its padding, which is black, or less: brighter where tiles overlap, dotted
        where seams are smoothed, each tile with its frame and number.
    """
    (height, width), count = grid.tile, coverage(grid).numpy()
    canvas = np.zeros((*count.shape, 3), np.float32)
    canvas[: grid.size[0], : grid.size[1]] = pixels
    shown = canvas * (0.45 + 0.4 * (count / count.max()))[..., None] + 30 * (count > 1)[..., None]
    dots = np.logical_and.outer(np.arange(len(canvas)) % 6 < 2, np.arange(canvas.shape[1]) % 6 < 2)
    near = np.zeros(canvas.shape[:2], bool)
    near[rows] = True
    near[:, columns] = True
    shown[dots & near] = CONTOUR_COLOUR
    image = Image.fromarray(shown.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    line = max(1, max(grid.size) // 256)
    for number, (top, left) in enumerate(grid.starts, 1):
        inset = line * (1 + number % 3)  # so that frames of neighbours can be told apart
        box = (left + inset, top + inset, left + width - 1 - inset, top + height - 1 - inset)
        draw.rectangle(box, outline="white", width=line)
        at = (left + 4 * inset, top + 4 * inset)
        draw.text(
            at,
            str(number),
            fill="white",
            anchor="la",
            font_size=max(12, height // 10),
            stroke_width=line * 2,
            stroke_fill="black",
        )
    return shrink(np.asarray(image))

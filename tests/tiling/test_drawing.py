"""The grid of tiles as a picture."""

import numpy as np

from admodels.pictures.render import CONTOUR_COLOUR
from admodels.tiling.drawing import draw_grid
from admodels.tiling.grid import tile_grid


def test_a_grid_of_tiles_is_drawn_where_the_tiles_are():
    grid = tile_grid((96, 96), 96, 64, 32)
    pixels = np.full((96, 96, 3), 200, np.uint8)
    rows, columns = (at.numpy() for at in grid.seams(0.1))
    drawn = draw_grid(pixels, grid, rows, columns)
    assert drawn.shape == (96, 96, 3)
    middle, corner = drawn[54, 54].astype(int), drawn[8, 84].astype(int)
    assert middle.mean() > corner.mean()  # four tiles lie over the one, one over the other
    dotted = (drawn == CONTOUR_COLOUR).all(2)
    assert dotted.any()
    assert not dotted[40:56, 40:56].any()  # no seam in the middle of the second tile
    assert dotted[:, columns].sum() + dotted[rows].sum() >= dotted.sum()
    assert (drawn == 255).all(2).any()  # frames


def test_padding_is_drawn_too():
    grid = tile_grid((100, 100), 100, 64, 64)
    assert draw_grid(np.full((100, 100, 3), 200, np.uint8), grid, *(np.zeros(0, int),) * 2).shape == (128, 128, 3)

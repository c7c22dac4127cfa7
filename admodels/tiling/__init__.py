"""Tiled ensembles: one model for each position of a grid of tiles."""

from admodels.tiling.drawing import draw_grid
from admodels.tiling.grid import TileGrid
from admodels.tiling.method import OF_THE_TILES, TiledConfig, TiledEnsemble

__all__ = ["OF_THE_TILES", "TileGrid", "TiledConfig", "TiledEnsemble", "draw_grid"]

"""Where the tiles of a picture lie, cutting them out, and putting their maps together again (eq. 1, 2, 4 and 5)."""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from admodels.methods.feature_maps import blur_matrix
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.tracing import is_traced, kept


class TileGrid(NamedTuple):
    """Where tiles lie, in pixels of the picture as it is looked at (eq. 1 and 2).

    Attributes:
        size: height and width of the picture.
        tile: height and width of every tile.
        rows, columns: where they start. The last may end beyond the picture, which is padded with zeros there.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def n_tiles(self) -> int:
        """T."""
        return len(self.rows) * len(self.columns)

    @property
    def starts(self) -> list[tuple[int, int]]:
        """Top and left of each tile, row by row."""
        return [(top, left) for top in self.rows for left in self.columns]

    @property
    def tile_shape(self) -> WorkingShape:
        """What the model of a tile works on."""
        return WorkingShape(self.tile, self.tile)

    def cut(self, batch: Tensor) -> Tensor:
        """(B, H, W, ...) to tiles (B, T, h, w, ...)."""
        return torch.stack([self.cut_one(batch, i) for i in range(self.n_tiles)], 1)

    def cut_one(self, batch: Tensor, i: int) -> Tensor:
        """The i-th tile of (B, H, W, ...); a view where nothing is padded."""
        (top, left), (height, width) = self.starts[i], self.tile
        tile = batch[:, top : top + height, left : left + width]
        below, right = height - tile.shape[1], width - tile.shape[2]
        return F.pad(tile, (0, 0) * (batch.dim() - 3) + (0, right, 0, below)) if below or right else tile

    def merge(self, maps: Tensor) -> Tensor:
        """Maps of tiles (B, T, h, w) to maps (B, H, W): the mean where tiles overlap (section 3.3)."""
        (height, width), count = self.tile, coverage(self, str(maps.device))
        if is_traced():  # other runtimes write into parts of a tensor by lists of indices
            bottom, right = (n - side for n, side in zip(count.shape, self.tile, strict=True))
            placed = (F.pad(maps[:, i], (x, right - x, y, bottom - y)) for i, (y, x) in enumerate(self.starts))
            return (sum(placed) / count)[:, : self.size[0], : self.size[1]]
        total = maps.new_zeros(len(maps), *count.shape)
        for i, (top, left) in enumerate(self.starts):
            total[:, top : top + height, left : left + width] += maps[:, i]
        return (total / count)[:, : self.size[0], : self.size[1]]

    def seams(self, width_ratio: float) -> tuple[Tensor, Tensor]:
        """Rows and columns, int64, at most `width_ratio` of a tile's side from a border between tiles."""
        near = []
        for starts, side, full in zip((self.rows, self.columns), self.tile, self.size, strict=True):
            borders = {at for start in starts for at in (start, start + side) if 0 < at < full}
            band, at = round(width_ratio * side), torch.arange(full)
            beside = sum(((at >= b - band) & (at < b + band) for b in borders), torch.zeros(full, dtype=torch.bool))
            near.append(beside.nonzero()[:, 0])
        return near[0], near[1]


@kept(maxsize=64)
def coverage(grid: TileGrid, device: str = "cpu") -> Tensor:
    """How many tiles lie over each pixel, float32, of the picture with its padding."""
    (height, width), (bottom, right) = grid.tile, grid.starts[-1]
    count = torch.zeros(max(bottom + height, grid.size[0]), max(right + width, grid.size[1]), device=device)
    for top, left in grid.starts:
        count[top : top + height, left : left + width] += 1
    return count


@lru_cache(maxsize=64)
def tile_grid(size: tuple[int, int], side: int, tile_size: int, stride: int) -> TileGrid:
    """Cut a picture of `size` as a square of `side` would be cut by `tile_size` and `stride`.

    A picture that is not square gets tiles of its own shape, and as many.
    """
    n = n_along(side, tile_size, stride)
    starts, tile = [], []
    for full in size:
        step = -(-full * stride // side)
        starts.append(tuple(i * step for i in range(n)))
        tile.append(-(-full * tile_size // side))
    return TileGrid(size, (tile[0], tile[1]), *starts)


def n_along(side: int, tile_size: int, stride: int) -> int:
    """Tiles along a side; the last may reach beyond it."""
    return 1 + math.ceil((side - tile_size) / stride)


def smoothed(maps: Tensor, rows: Tensor, columns: Tensor, sigma: float) -> Tensor:
    """Maps (B, H, W) with these rows and columns blurred by a Gaussian of `sigma` pixels, and nothing else."""
    down, across = (blur_matrix(side, side, sigma, str(maps.device)) for side in maps.shape[1:])
    if is_traced():
        is_row, is_column = (torch.zeros(side, dtype=torch.bool, device=maps.device) for side in maps.shape[1:])
        is_row[rows], is_column[columns] = True, True
        return torch.where(is_row[:, None] | is_column, down @ maps @ across.T, maps)
    result = maps.clone()
    result[:, rows] = down[rows] @ maps @ across.T
    result[:, :, columns] = down @ (maps @ across[columns].T)
    return result

"""Stride-1 convolutions with a quarter of the multiplications, for processors without matrix units.

Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016): an output tile of m×m comes from an input
tile of n×n, n = m + r − 1, by n² products for each pair of channels instead of m²r². Both transforms and the products
are matrix products here, so that PyTorch's own do all the work, forward and backward. Float32 only: the transforms
multiply the rounding error by about five, which bfloat16 could not bear.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

TILE = 4  # m: with larger ones the transforms lose too many digits
CACHED_TILES = 64  # so many at a time: 62 to 124 of 49×128 values take 0.75 of the time of all 961 at once
# Where the polynomials are evaluated, besides infinity; the set with the smallest error of those tried for each r.
POINTS = {3: (0.0, 1.0, -1.0, 0.5, -1.5), 4: (0.0, 1.0, -1.0, -0.5, -2.0, 1.5)}


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Cross-correlation without padding, stride 1.

    Args:
        x: float32 (B, C, H, W); channels last is read without a copy.
        weight: float32 (C', C, r, r), r of 3 or 4.

    Returns:
        (B, C', H − r + 1, W − r + 1), channels last. Differentiable once in both arguments.
    """
    return _Winograd.apply(x, weight)


def transformed_weight(weight: Tensor) -> Tensor:
    """What `convolve_transformed` takes, (n², C, C'), made once for a network that does not learn."""
    n_out, n_in, r, _ = weight.shape
    _, of_weight, _ = _transforms(r)
    return (of_weight @ weight.permute(2, 3, 1, 0).reshape(r * r, -1)).view(-1, n_in, n_out)


def convolve_transformed(x: Tensor, u: Tensor, r: int) -> Tensor:
    """As `convolve`, without a way back, in parts that stay in the processor's cache."""
    of_input, _, of_output = _transforms(r)
    height, width, tiles = _tiles(x, r)
    batch, rows, columns = tiles
    taken, n_out = _input_tiles(x, tiles, r), u.shape[2]
    y = x.new_empty(batch, rows, TILE, columns, TILE, n_out)
    at_once = max(1, CACHED_TILES // (batch * columns))
    for first in range(0, rows, at_once):
        part = taken[:, :, :, first : first + at_once]
        v = (of_input @ part.reshape(len(of_input), -1)).view(len(u), -1, u.shape[1])
        found = (of_output @ torch.bmm(v, u).flatten(1)).view(TILE, TILE, batch, -1, columns, n_out)
        y[:, first : first + at_once] = found.permute(2, 3, 0, 4, 1, 5)
    return y.view(batch, TILE * rows, TILE * columns, n_out)[:, :height, :width].permute(0, 3, 1, 2)


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        n_out, n_in, r, _ = weight.shape
        of_input, _, of_output = _transforms(r)
        height, width, tiles = _tiles(x, r)
        u = transformed_weight(weight)
        v = (of_input @ _input_tiles(x, tiles, r).reshape(len(of_input), -1)).view(len(u), -1, n_in)  # (n², T, C)
        ctx.save_for_backward(v, u)
        ctx.sizes = x.shape, tiles, r
        y = (of_output @ torch.bmm(v, u).flatten(1)).view(TILE, TILE, *tiles, n_out)
        y = y.permute(2, 3, 0, 4, 1, 5).reshape(len(x), TILE * tiles[1], TILE * tiles[2], n_out)
        return y[:, :height, :width].permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (v, u), (x_shape, tiles, r) = ctx.saved_tensors, ctx.sizes
        of_input, of_weight, of_output = _transforms(r)
        n_in, n_out = u.shape[1:]
        batch, _, height, width = gradient.shape
        whole = gradient.new_zeros(batch, TILE * tiles[1], TILE * tiles[2], n_out)
        whole[:, :height, :width] = gradient.permute(0, 2, 3, 1)
        g = whole.view(batch, tiles[1], TILE, tiles[2], TILE, n_out).permute(2, 4, 0, 1, 3, 5)
        g = (of_output.T @ g.reshape(TILE * TILE, -1)).view(len(u), -1, n_out)  # (n², T, C')
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_u = torch.bmm(v.transpose(1, 2), g)
            grad_weight = (of_weight.T @ grad_u.flatten(1)).view(r, r, n_in, n_out).permute(3, 2, 0, 1)
        if ctx.needs_input_grad[0]:
            grad_v = torch.bmm(g, u.transpose(1, 2))
            grad_x = _added_tiles((of_input.T @ grad_v.flatten(1)), x_shape, tiles, r)
        return grad_x, grad_weight


def _tiles(x: Tensor, r: int) -> tuple[int, int, tuple[int, int, int]]:
    """Height and width of the result, and how many tiles it takes: (B, rows, columns)."""
    height, width = x.shape[2] - r + 1, x.shape[3] - r + 1
    return height, width, (len(x), -(-height // TILE), -(-width // TILE))


def _input_tiles(x: Tensor, tiles: tuple[int, int, int], r: int) -> Tensor:
    """A view of overlapping n×n tiles at every TILE-th pixel: (n, n, B, rows, columns, C)."""
    n = TILE + r - 1
    batch, rows, columns = tiles
    x = x.permute(0, 2, 3, 1)
    height, width = TILE * rows + r - 1, TILE * columns + r - 1
    if (height, width) != x.shape[1:3]:
        padded = x.new_zeros(batch, height, width, x.shape[3])
        padded[:, : x.shape[1], : x.shape[2]] = x
        x = padded
    x = x.contiguous()
    of_batch, of_row, of_column, _ = x.stride()
    strides = (of_row, of_column, of_batch, TILE * of_row, TILE * of_column, 1)
    return x.as_strided((n, n, batch, rows, columns, x.shape[3]), strides)


def _added_tiles(values: Tensor, shape: torch.Size, tiles: tuple[int, int, int], r: int) -> Tensor:
    """What `_input_tiles` took apart, added up where tiles overlap: of `shape`, channels last."""
    n = TILE + r - 1
    batch, rows, columns = tiles
    values = values.view(n, n, batch, rows, columns, shape[1])
    whole = values.new_zeros(batch, TILE * rows + r - 1, TILE * columns + r - 1, shape[1])
    for i in range(n):
        for j in range(n):
            whole[:, i : i + TILE * rows : TILE, j : j + TILE * columns : TILE] += values[i, j]
    return whole[:, : shape[2], : shape[3]].permute(0, 3, 1, 2)


@lru_cache
def _transforms(r: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices for flattened tiles: input (n², n²), weight (n², r²), output (m², n²)."""
    n = TILE + r - 1
    points = np.array(POINTS[r])

    def evaluate(length: int) -> np.ndarray:
        """Values of a polynomial of `length` coefficients at the points and at infinity."""
        return np.vstack([points[:, None] ** np.arange(length), np.eye(length)[-1:]])

    of_input, of_weight, of_output = np.linalg.inv(evaluate(n)).T, evaluate(r), evaluate(TILE).T
    # The same scale for both factors of each product keeps the digits.
    scale = np.sqrt(np.linalg.norm(of_input, axis=1) / np.linalg.norm(of_weight, axis=1))[:, None]
    of_input, of_weight = of_input / scale, of_weight * scale
    return tuple(torch.tensor(np.kron(m, m), dtype=torch.float32) for m in (of_input, of_weight, of_output))

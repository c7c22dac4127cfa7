"""Eigenvectors of many small symmetric matrices at once: all of them, or the leading ones.

P is the number of matrices, n their side, k the number of eigenvectors wanted.

On a CPU every matrix is decomposed by one thread, and the threads share the matrices out: with two threads on one
matrix the library's threads wait for each other inside every 32×32 problem (measured: 3,136 of them take 0.2 s with
one thread and 1.8 s with two).
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from admodels.methods.backbone_method import decomposing

REMEDY = "Use dtype=float64, precision=float32, or other pictures."
LEAST_PER_THREAD = 16  # matrices; fewer are not worth another thread
RESIDUAL_RATIO = 0.03  # ‖Gv − λv‖ up to this part of λ is taken as an eigenvector
OVERSAMPLING = 16  # directions beyond the k wanted that the search carries along
N_PRODUCTS = 5  # with the matrix, in the search
WORTH_RATIO = 0.3  # of the matrix's side: a search with more directions takes longer than the decomposition

DEVICE_BLOCK = 8  # times as many matrices at once elsewhere than on a CPU, to keep all of the device busy

Result = TypeVar("Result")
OnBlock = Callable[[int], None]  # is told how many are done

_one_thread = threading.Lock()  # the number of threads is the process's: two fits must not restore each other's 1


def eigh(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (P, n), ascending, and eigenvectors (P, n, n) in columns.

    Raises:
        TrainingError: they cannot be found.
    """
    n_blocks = torch.get_num_threads() if symmetric.device.type == "cpu" else 1
    size = max(-(-len(symmetric) // n_blocks), LEAST_PER_THREAD)
    parts = by_blocks(lambda block: exact(symmetric[block]), len(symmetric), size, symmetric.device)
    return tuple(map(torch.cat, zip(*parts, strict=True)))


def leading(symmetric: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues (P, k), ascending, and their eigenvectors (P, n, k); the matrices are not negative.

    Where k is small beside n, they are searched for in the range of Gᵠ·Ω (Halko, Martinsson and Tropp, "Finding
    structure with randomness", 2011, algorithm 4.4), with `OVERSAMPLING` directions more than wanted. Their residuals
    are checked, and matrices that fail are decomposed exactly. For a block of matrices, in one thread.

    Raises:
        TrainingError: they cannot be found.
    """
    n, b = symmetric.shape[1], k + OVERSAMPLING
    if b > WORTH_RATIO * n:
        values, vectors = exact(symmetric)
        return values[:, -k:], vectors[..., -k:]
    start = torch.randn(n, b, generator=torch.Generator().manual_seed(0)).to(symmetric)
    basis = torch.matmul(symmetric, start)  # (P, n, b)
    for _ in range(N_PRODUCTS - 2):
        basis = torch.bmm(symmetric, _orthonormal(basis))
    basis = _orthonormal(_orthonormal(basis))  # once leaves the weak directions askew
    image = torch.bmm(symmetric, basis)
    inner = torch.bmm(basis.mT, image)
    # A matrix without full rank may have left no basis; it fails the check.
    failed = ~inner.isfinite().flatten(1).all(1)
    inner[failed] = 0
    values, turn = exact(inner)
    values, turn = values[:, -k:], turn[..., -k:]
    vectors = torch.bmm(basis, turn)
    residuals = torch.bmm(image, turn) - vectors * values[:, None]
    norms = vectors.square().sum(1)
    good = (residuals.square().sum(1).sqrt() <= RESIDUAL_RATIO * values) & ((norms - 1).abs() <= RESIDUAL_RATIO)
    failed |= ~good.all(1)
    if failed.any():
        exact_values, exact_vectors = exact(symmetric[failed])
        values[failed], vectors[failed] = exact_values[:, -k:], exact_vectors[..., -k:]
    return values, vectors


def by_blocks(
    work: Callable[[slice], Result], n: int, size: int, device: torch.device, on_block: OnBlock | None = None
) -> list[Result]:
    """What `work` makes of the slices 0 to size, size to 2·size …, up to n; on a CPU several at once, a thread each.

    Args:
        on_block: called in this thread, in the order of the blocks; it may raise to stop.
    """
    if device.type != "cpu":
        size *= DEVICE_BLOCK
    blocks = [slice(first, min(first + size, n)) for first in range(0, n, size)]
    results = []
    if device.type != "cpu":
        for block in blocks:
            results.append(work(block))
            if on_block is not None:
                on_block(block.stop)
        return results
    inference = torch.is_inference_mode_enabled()  # a thread's own

    def alone(block: slice) -> Result:
        torch.set_num_threads(1)
        with torch.inference_mode(inference):
            return work(block)

    with _one_thread:
        n_threads = torch.get_num_threads()
        executor = ThreadPoolExecutor(n_threads)
        torch.set_num_threads(1)
        try:
            for block, result in zip(blocks, executor.map(alone, blocks), strict=True):
                results.append(result)
                if on_block is not None:
                    on_block(block.stop)
        finally:
            executor.shutdown(cancel_futures=True)
            torch.set_num_threads(n_threads)
    return results


def cholesky(symmetric: Tensor) -> Tensor:
    """Lower factor, with a ridge of a few rounding errors so that a matrix without full rank has one too.

    The ridge is added in place.
    """
    ridge = 8 * torch.finfo(symmetric.dtype).eps * symmetric.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
    symmetric.diagonal(dim1=1, dim2=2).add_(ridge)
    return torch.linalg.cholesky_ex(symmetric).L


def _orthonormal(x: Tensor) -> Tensor:
    """Orthonormal columns (P, n, b) that span the same, nearly: by the Cholesky factor of XᵀX."""
    factor = cholesky(torch.bmm(x.mT, x))
    return torch.linalg.solve_triangular(factor.mT, x, upper=True, left=False)


def exact(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """As `eigh`, in this thread."""
    with decomposing(REMEDY):
        return torch.linalg.eigh(symmetric)

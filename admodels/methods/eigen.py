"""Eigenvectors of many small symmetric matrices at once: all of them, or the leading ones.

P is the number of matrices, n their side, k the number of eigenvectors wanted.

On a CPU every matrix is decomposed by one thread, and the threads share the matrices out: with two threads on one
matrix the library's threads wait for each other inside every 32×32 problem (measured: 3,136 of them take 0.2 s with
one thread and 1.8 s with two).

On a GPU the libraries decompose many matrices of more than 32×32 one after the other, and many GPUs compute in double
precision at a 32nd or a 64th of their speed. What is quickest there is measured, once for each size of matrix: see
`quickest`.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import TypeVar

import torch
from torch import Tensor

from admodels.errors import TrainingError
from admodels.methods.backbone_method import decomposing
from admodels.runtime.memory import rows_at_once
from admodels.runtime.quiet import quiet_seconds

REMEDY = "Use dtype=float64, precision=float32, or other pictures."
LEAST_PER_THREAD = 16  # matrices; fewer are not worth another thread
RESIDUAL_RATIO = 0.03  # ‖Gv − λv‖ up to this part of λ is taken as an eigenvector
OVERSAMPLING = 16  # directions beyond the k wanted that the search carries along
N_PRODUCTS = 5  # with the matrix, in the search
WORTH_RATIO = 0.3  # of the matrix's side: a search with more directions takes longer than the decomposition
N_COPIES = 8  # of its largest matrix that a position takes while it is worked on
N_MEASURED, MEASURED_ELEMENTS = 64, 2**22  # matrices that are decomposed to see what is quickest, of large ones fewer
MEASURED_SECONDS = 0.1  # in which a way may begin again
ROUNDING = 64  # times n rounding errors of the largest eigenvalue: what a decomposition may leave

Result = TypeVar("Result")
OnBlock = Callable[[int], None]  # is told how many are done
Decompose = Callable[[Tensor], tuple[Tensor, Tensor]]  # (P, n, n) to eigenvalues, ascending, and eigenvectors
Clock = Callable[[Callable[[], object], torch.device], float]  # seconds of a call

_one_thread = threading.Lock()  # the number of threads is the process's: two fits must not restore each other's 1


def eigh(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (P, n), ascending, and eigenvectors (P, n, n) in columns.

    Raises:
        TrainingError: they cannot be found.
    """
    return _by_threads(symmetric, exact)


def leading(symmetric: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues (P, k), ascending, and their eigenvectors (P, n, k); the matrices are not negative.

    Where k is small beside n, they are searched for in the range of Gᵠ·Ω (Halko, Martinsson and Tropp, "Finding
    structure with randomness", 2011, algorithm 4.4), with `OVERSAMPLING` directions more than wanted. Their residuals
    are checked, and matrices that fail are decomposed exactly. For a block of matrices, in one thread. On a GPU it is
    measured whether to search.

    Raises:
        TrainingError: they cannot be found.
    """
    n, device = symmetric.shape[1], symmetric.device
    if device.type != "cpu":
        return quickest(str(device), n, k, symmetric.dtype)(symmetric)
    return _largest(symmetric, k) if k + OVERSAMPLING > WORTH_RATIO * n else _searched(symmetric, k, symmetric.dtype)


@lru_cache(maxsize=256)
def quickest(device: str, n: int, k: int | None, dtype: torch.dtype) -> Decompose:
    """How a GPU's matrices of side n in this dtype are decomposed, measured when the first ones come.

    Another process may measure otherwise. Its results differ by rounding; those of `leading`, by what its check of
    residuals lets pass.

    Args:
        k: how many of the largest are wanted; None for all.
    """
    n_measured = max(2, min(N_MEASURED, MEASURED_ELEMENTS // n**2))
    x = torch.randn(n_measured, n, n, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x *= torch.logspace(0, -2, n, dtype=dtype)  # as uneven as real ones
    clock = partial(quiet_seconds, budget=MEASURED_SECONDS)
    return chosen(ways(n, k, dtype), torch.bmm(x.mT, x).to(device), 0.0 if k is None else RESIDUAL_RATIO, clock)


def ways(n: int, k: int | None, dtype: torch.dtype) -> list[Decompose]:
    """What can be measured; the exact one first."""
    if k is None:
        return [_here, partial(_on_cpu, decompose=_here)]
    found = [partial(_largest, k=k), partial(_on_cpu, decompose=partial(leading, k=k))]
    if k + OVERSAMPLING < n:
        found += [partial(_searched, k=k, dtype=d) for d in dict.fromkeys((dtype, torch.float32))]
    return found


def chosen(candidates: list[Decompose], probe: Tensor, residual_ratio: float, seconds: Clock) -> Decompose:
    """The quickest way that finds eigenvectors of `probe` (P, n, n); the first where none does.

    Args:
        residual_ratio: ‖Gv − λv‖, in double precision, up to this part of λ is good enough.
    """
    good = [way for way in candidates if _succeeds(way, probe, residual_ratio)]
    return min(good, key=lambda way: seconds(lambda: way(probe), probe.device), default=candidates[0])


def _succeeds(way: Decompose, probe: Tensor, residual_ratio: float) -> bool:
    try:
        values, vectors = (found.double() for found in way(probe))
    except (TrainingError, RuntimeError):  # a library may fail on one GPU with what it does on others
        return False
    residuals = torch.linalg.vector_norm(torch.bmm(probe.double(), vectors) - vectors * values[:, None], dim=1)
    rounding = ROUNDING * probe.shape[1] * torch.finfo(probe.dtype).eps * values[:, -1:]
    aside = (torch.linalg.vector_norm(vectors, dim=1) - 1).abs()
    return bool(((residuals <= residual_ratio * values + rounding) & (aside <= RESIDUAL_RATIO)).all())


def _here(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    with decomposing(REMEDY):
        return torch.linalg.eigh(symmetric)


def _on_cpu(symmetric: Tensor, decompose: Decompose) -> tuple[Tensor, Tensor]:
    """By all threads, with both copies."""
    values, vectors = _by_threads(symmetric.cpu(), decompose)
    return values.to(symmetric.device), vectors.to(symmetric.device)


def _by_threads(symmetric: Tensor, decompose: Decompose) -> tuple[Tensor, Tensor]:
    """On a CPU as many blocks as there are threads."""
    size, n, device = LEAST_PER_THREAD, len(symmetric), symmetric.device
    if device.type == "cpu":
        size = max(-(-n // torch.get_num_threads()), size)
    each_bytes = symmetric[0].nbytes
    parts = by_blocks(lambda block: decompose(symmetric[block]), n, size, device, each_bytes=each_bytes)
    return tuple(map(torch.cat, zip(*parts, strict=True)))


def _largest(symmetric: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of all."""
    values, vectors = exact(symmetric)
    return values[:, -k:], vectors[..., -k:]


def _searched(symmetric: Tensor, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """As `leading`; the range is searched in `dtype`, and what it holds is found and checked in the matrices' own."""
    n, b = symmetric.shape[1], k + OVERSAMPLING
    g = symmetric.to(dtype)
    start = torch.randn(n, b, generator=torch.Generator().manual_seed(0)).to(g)
    basis = torch.matmul(g, start)  # (P, n, b)
    for _ in range(N_PRODUCTS - 2):
        basis = torch.bmm(g, _orthonormal(basis))
    basis = _orthonormal(_orthonormal(basis).to(symmetric))  # once leaves the weak directions askew
    image = torch.bmm(symmetric, basis)
    inner = torch.bmm(basis.mT, image)
    # A matrix without full rank may have left no basis; it fails the check.
    failed = ~inner.isfinite().flatten(1).all(1)
    inner.masked_fill_(failed[:, None, None], 0)  # an index of truth values would make a GPU wait
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
    work: Callable[[slice], Result],
    n: int,
    size: int,
    device: torch.device,
    on_block: OnBlock | None = None,
    *,
    each_bytes: int,
) -> list[Result]:
    """What `work` makes of the slices 0 to size, size to 2·size …, up to n; on a CPU several at once, a thread each.

    Args:
        size: on a CPU; elsewhere it is what the device's memory holds.
        on_block: called in this thread, in the order of the blocks; it may raise to stop.
        each_bytes: of the largest matrix at each of the n.
    """
    size = rows_at_once(n, N_COPIES * each_bytes, device, size)
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
    """As `eigh`, in this thread; of a GPU's matrices where that is quickest."""
    if symmetric.device.type != "cpu":
        return quickest(str(symmetric.device), symmetric.shape[1], None, symmetric.dtype)(symmetric)
    return _here(symmetric)

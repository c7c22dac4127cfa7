"""Exact nearest neighbours by blocked matrix products; many patches are searched at once."""

import torch
import torch.nn.functional as F
from torch import Tensor

from admodels.runtime.memory import rows_at_once
from admodels.runtime.tracing import is_traced

NEVER_NEAREST = -1e30  # q·k − ½‖k‖² of a key that is not there; other runtimes may make NaN of an infinity
BLOCK_ELEMENTS = 6 * 2**20  # distances held at once on a CPU: 24 MiB, which glibc still keeps when it is freed


def searchable(keys: Tensor) -> Tensor:
    """Keys (P, k, C) as (P, k, C + 1): the last channel holds −½‖k‖², so that one product gives q·k − ½‖k‖².

    A product with a bias would first write the bias everywhere: measured, that takes twice as long.
    """
    return torch.cat([keys, keys.square().sum(2, keepdim=True).div_(-2)], 2)


def padded(memories: list[Tensor], n: int) -> Tensor:
    """Memories (k_p, C + 1), from `searchable`, as one of (P, n, C + 1): the keys that are added are never nearest."""
    result = memories[0].new_zeros(len(memories), n, memories[0].shape[1])
    result[:, :, -1] = NEVER_NEAREST
    for row, memory in zip(result, memories, strict=True):
        row[: len(memory)] = memory
    return result


def nearest_distances(queries: Tensor, keys: Tensor) -> Tensor:
    """Euclidean distance of every query from the nearest key of its patch.

    Args:
        queries: float32 (P, q, C).
        keys: float32 (P, k, C + 1), from `searchable`.

    Returns:
        float32 (P, q).
    """
    return distances_from(largest_products(extended(queries), [keys]), queries)


def largest_products(queries: Tensor, runs: list[Tensor]) -> Tensor:
    """q·k − ½‖k‖² of each query and the nearest key of its patch, float32 (P, q).

    Args:
        queries: float32 (P, q, C + 1), from `extended`.
        runs: the keys (P_r, k_r, C + 1) of consecutive patches, from `searchable`.
    """
    if is_traced():
        parts = queries.split([len(keys) for keys in runs])
        return torch.cat([torch.bmm(part, keys.mT).amax(2) for part, keys in zip(parts, runs, strict=True)])
    closeness, first = queries.new_empty(queries.shape[:2]), 0
    for keys in runs:
        patches = slice(first, first + len(keys))
        n, n_distances = queries.shape[1], len(keys) * keys.shape[1]
        row_bytes = n_distances * queries.element_size()
        n_rows = rows_at_once(n, row_bytes, queries.device, max(1, BLOCK_ELEMENTS // n_distances))
        for row in range(0, n, n_rows):
            block = slice(row, row + n_rows)
            torch.amax(torch.bmm(queries[patches, block], keys.mT), 2, out=closeness[patches, block])
        first += len(keys)
    return closeness


def extended(queries: Tensor) -> Tensor:
    """Queries (..., C) as (..., C + 1), for products with `searchable` keys."""
    return F.pad(queries, (0, 1), value=1.0)


def distances_from(closeness: Tensor, queries: Tensor) -> Tensor:
    """Euclidean distances (...) from q·k − ½‖k‖² (...) and the queries (..., C); in place."""
    return closeness.mul_(-2).add_(queries.square().sum(-1)).clamp_min_(0).sqrt_()


def all_distances(queries: Tensor, keys: Tensor) -> Tensor:
    """Euclidean distances (q, k) of queries (q, C) from keys (k, C + 1), from `searchable`."""
    return distances_from(extended(queries) @ keys.T, queries[:, None])


def few_nearest_distances(queries: Tensor, keys: Tensor, n: int) -> Tensor:
    """Euclidean distances of every query from its n nearest keys, the nearest first.

    Args:
        queries: float32 (q, C).
        keys: float32 (q, k, C + 1), a memory for each query, or (1, k, C + 1), one for all; from `searchable`.

    Returns:
        float32 (q, n).
    """
    if len(keys) == 1:  # need not be copied for every query
        closeness = extended(queries) @ keys[0].T
    else:
        closeness = torch.bmm(keys, extended(queries)[..., None])[..., 0]
    return distances_from(closeness.topk(n, 1).values, queries[:, None])


def reweighted(distances: Tensor, neighbours: Tensor) -> Tensor:
    """PatchCore's re-weighting (its eq. 7): a distance counts for less where the memory around it is dense.

    Args:
        distances: (...), of a query from its nearest vector.
        neighbours: (..., b), of the same query from b vectors of the memory, the nearest one first; b = 1 changes
            nothing.
    """
    if neighbours.shape[-1] == 1:
        return distances
    return distances * (1 - torch.softmax(neighbours, -1)[..., 0])

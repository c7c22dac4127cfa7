"""Greedy k-centre selection (minimax facility location), exact, batched over patches, lazily evaluated.

The greedy rule takes, again and again, the vector farthest from those taken so far. Done literally, every pick reads
all the vectors, and the time goes into memory traffic. Here most picks are made among a few hundred candidates: the
vectors that were farthest when all distances were last brought up to date. Distances only shrink, so as long as the
farthest candidate is farther than every vector outside was then, it is the farthest of all, and the pick is the greedy
one. When no candidate is, all distances are brought up to date with one matrix product for all picks since. Measured on
Magnetic Tile: 1,017 of 10,176 vectors in each of 49 patches take 2 s instead of 18, 1,254 of 125,440 vectors 1 s
instead of 11.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from admodels.errors import TrainingError
from admodels.methods.neighbours import nearest_distances, searchable
from admodels.runtime.device import timed
from admodels.runtime.memory import rows_at_once
from admodels.runtime.quiet import rounds

BLOCK_ELEMENTS = 2**21  # distances computed at once on a CPU while all are brought up to date: 8 MiB
CPU_CANDIDATE_ELEMENTS = 2**18  # candidates' features: within a core's cache
GPU_CANDIDATE_BYTES = 2**24  # of those at most, where there is room: every pick reads all of them
MIN_CANDIDATES = 128
STEPS_PER_CHECK = 16  # picks between two looks at the counters, which make a GPU wait
MIN_USEFUL_RATIO = 0.5  # of a check's steps must have picked something, else all distances are brought up to date

# For the estimate, as seen on Magnetic Tile and PIPED.
PROBE_ELEMENTS = 2**23
MAX_PROBE_KEYS = 64
TYPICAL_ROUNDS = 20
USEFUL_STEPS_RATIO = 0.65

OnPick = Callable[[int, int], None]


@dataclass(frozen=True)
class Coreset:
    """Selected vectors of every patch.

    Attributes:
        indices: int64 (P, k), in the order of selection; the first k of a larger selection are the same.
        radii: float32 (P,), the distance of the farthest vector from its nearest selected one: the largest radius
            over the clusters around the selected vectors.
    """

    indices: Tensor
    radii: Tensor


def greedy_k_centre(
    vectors: Tensor, n_keys: int, *, kept: Tensor | None = None, on_pick: OnPick | None = None
) -> Coreset:
    """Select `n_keys` vectors in every patch, starting from the first; equal to the plain greedy rule up to rounding.

    Args:
        vectors: float32 (P, n, C), each patch a problem of its own.
        n_keys: from 1 to n.
        kept: float32 (P, k, C), selected before: the rule goes on from them.
        on_pick: called with (done, total) picks from time to time; what it raises ends the selection.

    Raises:
        TrainingError: vectors are not finite, or so large that their distances are not.
    """
    selection = _Selection(vectors, n_keys, kept)
    if not selection.norms.isfinite().all():  # no distance would be the largest, and the selection without end
        raise TrainingError(
            "the vectors to select from are not finite, or so large that their distances are not. Use "
            "precision=float32 or another backbone."
        )
    while True:
        selection.bring_up_to_date()
        if on_pick is not None:
            on_pick(selection.n_picked(), n_keys)
        if selection.n_picked() == n_keys:
            return Coreset(selection.picks[:, :n_keys], selection.squared.amax(1).clamp_min(0).sqrt())
        selection.choose_candidates()
        while selection.pick(STEPS_PER_CHECK):
            pass


def estimate_seconds(n_patches: int, n_vectors: int, n_channels: int, n_keys: int, device: torch.device) -> float:
    """Time that a selection of this size takes, from timing its two steps on a part of the vectors."""
    n_probe = min(n_vectors, max(256, PROBE_ELEMENTS // (n_patches * n_channels)))
    n_new = min(n_probe - 1, max(1, n_keys // TYPICAL_ROUNDS), MAX_PROBE_KEYS)
    vectors = torch.randn(n_patches, n_probe, n_channels, generator=torch.Generator().manual_seed(0)).to(device)
    picking, updating = [], []
    for _ in rounds(least=2):
        selection = _Selection(vectors, n_probe)
        selection.picks[:, : n_new + 1] = torch.arange(n_new + 1, device=device)
        selection.count += n_new
        updating.append(timed(selection.bring_up_to_date, device) / n_new)
        selection.choose_candidates()
        picking.append(timed(lambda: selection.pick(STEPS_PER_CHECK), device) / STEPS_PER_CHECK)  # noqa: B023
    return n_keys * (min(picking) / USEFUL_STEPS_RATIO + min(updating) * n_vectors / n_probe)


class _Selection:
    """The state of a selection: all P patches advance together, each at its own pace."""

    def __init__(self, vectors: Tensor, n_keys: int, kept: Tensor | None = None) -> None:
        n_patches, n, _ = vectors.shape
        device = vectors.device
        self.vectors, self.n_keys = vectors, n_keys
        self.norms = vectors.square().sum(2)  # (P, n)
        # Squared distance of each from the nearest pick, when last brought up to date.
        if kept is None:
            self.squared = torch.full((n_patches, n), float("inf"), device=device)
        else:
            self.squared = nearest_distances(vectors, searchable(kept)).square_()
        self.picks = torch.zeros(n_patches, n_keys + 1, dtype=torch.long, device=device)  # the last column is waste
        # How many are picked, to begin with the first vector, and how many of them `squared` knows.
        self.count = torch.full((n_patches,), int(kept is None), device=device)
        self.applied = torch.zeros_like(self.count)
        self.rows = torch.arange(n_patches, device=device)

    def n_picked(self) -> int:
        return int(self.count.min())

    def bring_up_to_date(self) -> None:
        """Take the picks since the last time into account, as one product over blocks of vectors."""
        n_new = int((self.count - self.applied).max())
        if n_new == 0:
            return
        # A patch with fewer new picks repeats its last one.
        columns = torch.arange(n_new, device=self.rows.device) + self.applied[:, None]
        new = self.picks.gather(1, columns.minimum(self.count[:, None] - 1))
        keys = _take(self.vectors, new)  # (P, b, C)
        half_norms = keys.square().sum(2).div_(2)[:, None]  # (P, 1, b)
        n, n_distances = self.vectors.shape[1], len(self.rows) * n_new
        row_bytes = n_distances * self.vectors.element_size()
        n_rows = rows_at_once(n, row_bytes, self.vectors.device, max(1, BLOCK_ELEMENTS // n_distances))
        for first in range(0, n, n_rows):
            block = slice(first, first + n_rows)
            nearest = torch.baddbmm(half_norms, self.vectors[:, block], keys.mT, alpha=-1).amin(2)
            nearest.mul_(2).add_(self.norms[:, block])
            torch.minimum(self.squared[:, block], nearest, out=self.squared[:, block])
        self.applied.copy_(self.count)

    def choose_candidates(self) -> None:
        """The vectors that are farthest now; `bound` is the distance that no vector outside exceeds."""
        n_patches, n, n_channels = self.vectors.shape
        n_each = n_patches * n_channels
        on_cpu, row_bytes = max(MIN_CANDIDATES, CPU_CANDIDATE_ELEMENTS // n_each), n_each * self.vectors.element_size()
        n_candidates = min(n, rows_at_once(n, row_bytes, self.vectors.device, on_cpu, GPU_CANDIDATE_BYTES))
        self.distances, self.candidates = self.squared.topk(n_candidates, dim=1)
        if n_candidates < n:
            self.bound = self.distances[:, -1].clone()
        else:
            self.bound = self.distances.new_full((n_patches,), -float("inf"))
        self.near = _take(self.vectors, self.candidates)
        self.near_norms = self.norms.gather(1, self.candidates)
        self.first = self.rows * n_candidates  # where each patch's candidates begin, among those of all

    def pick(self, n_steps: int) -> bool:
        """Pick up to `n_steps` vectors in every patch; False when too few of the steps found one."""
        before, unfinished = int(self.count.sum()), int((self.count < self.n_keys).sum())
        for _ in range(n_steps):
            farthest, j = self.distances.max(1)
            picked = (farthest >= self.bound) & (self.count < self.n_keys)
            column = torch.where(picked, self.count, self.n_keys)[:, None]
            at = j + self.first  # index_select takes half the time of an index for each dimension
            self.picks.scatter_(1, column, self.candidates.flatten().index_select(0, at)[:, None])
            key = self.near.flatten(0, 1).index_select(0, at)  # (P, C)
            norm = self.near_norms.flatten().index_select(0, at)
            # One row times many columns: the other way round the same product takes five times as long on a CPU.
            squared = torch.baddbmm(self.near_norms[:, None], key[:, None], self.near.mT, alpha=-2)[:, 0]
            squared += torch.where(picked, norm, float("inf"))[:, None]
            torch.minimum(self.distances, squared, out=self.distances)
            self.count += picked
        return int(self.count.sum()) - before > MIN_USEFUL_RATIO * n_steps * unfinished


def _take(vectors: Tensor, indices: Tensor) -> Tensor:
    """Vectors (P, n, C) at indices (P, k), as (P, k, C)."""
    return vectors.gather(1, indices[..., None].expand(-1, -1, vectors.shape[2]))

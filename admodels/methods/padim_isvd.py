"""PaDiM-iSVD: per patch position, a truncated PCA of the feature distribution, updated in fixed memory.

Lee, Nagai and Minezawa, "Memory-efficient and GPU-oriented visual anomaly detection with incremental dimension
reduction". P is the number of patch positions, m the feature length, k the dimensions kept, n a number of vectors.

Section 3.3 decomposes the small matrix WᵀW exactly at every step; on a CPU that is most of a fit, and what is cut off
at one step is lost to the next. Up to `MAX_SUMMED_CHANNELS` the solver "auto" (the default) sums up all products
instead, m×m numbers at each position, and decomposes them once: as if all pictures came in one step, in memory that
does not grow either, whatever `step` is. With more channels it is the paper's update. In both, leading eigenvectors
are searched for with a check of their residual, and decomposed exactly where they fail it (eigen.py). "eigh" is section
3.3 to the letter and "svd" equation 6. "gram" finds the subspace by a few iterations that start from the previous one;
where `step` is smaller than `n_components` it loses accuracy (Magnetic Tile, 48 dimensions, step 16: image AUROC 0.888
where the exact ones have 0.902).

That the subspace is of vectors that are not centred (section 3.2 subtracts the mean within it) is no detail: it keeps
the mean's own direction, in which good pictures vary little. With the 16 largest components about the mean, image
AUROC is 0.582 in place of 0.931 on PIPED's BRG03, and 0.867 in place of 0.975 on glass fibre.

One thing is added for small sets. From a few dozen pictures the smallest variances come out far too small and then
rule the score; `shrinkage` mixes in the mean variance with the weight of a quarter of a picture, which fades as
pictures come. Mean image AUROC over the six kinds of PIPED, 24 normals: 0.913 without, 0.983 with; 36 normals: 0.979
and 0.983.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from admodels.core.method import Cost, Layout, Learner, OnStep, Scored, State, layout_bytes
from admodels.errors import OptionError
from admodels.methods.backbone_method import BackboneConfig, BackboneMethod, decomposing
from admodels.methods.eigen import REMEDY, by_blocks, cholesky, eigh, exact, leading
from admodels.methods.feature_maps import concatenate, realign
from admodels.methods.moments import IMAGES_PER_UPDATE, Moments
from admodels.options import option
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.backbone_specs import backbone_spec
from admodels.runtime.quiet import quiet_seconds

SOLVERS = ("auto", "gram", "eigh", "svd")
N_ITERATIONS = 3  # for each update, from the subspace before it
N_FIRST_ITERATIONS = 6  # for the first update, from a random start
MIXING_RATIO = 0.01  # amplitude at which a step's new directions enter the start of its iteration
MAX_SUMMED_CHANNELS = 256  # of which "auto" sums up all products: 256 KiB at each position, in single precision
BLOCK = 64  # positions that are decomposed at a time, in one thread's cache
PROBE_POSITIONS = 1024  # learned on random numbers to estimate the time; fewer would fit in the cache, and mislead
PROBE_DECOMPOSED = 128  # of which the covariances are decomposed for that


@dataclass(frozen=True)
class PadimIsvdConfig(BackboneConfig):
    """Options of PaDiM-iSVD."""

    n_components: int = option(
        16, "Dimensions kept at each position; more find more, and need more memory.", minimum=1, common=True
    )
    step: int = option(64, "Pictures between two updates; more is faster and needs more memory.", minimum=1)
    solver: str = option(
        "auto",
        "auto: exact and fastest; eigh: section 3.3; svd: equation 6; gram: section 3.3 by subspace iteration, for "
        "steps of at least n_components.",
        choices=SOLVERS,
        before="gram",
    )
    incremental: bool = option(True, "Off: collect all features first (one-shot PCA; memory grows with the pictures).")
    shrinkage: float = option(
        0.25,
        "Shrink the variances at a position towards their mean, with the weight of this many pictures; 0 as in the "
        "paper.",
        minimum=0,
        maximum=100,
    )
    blur: bool = option(
        True, "Blur the map with a Gaussian of 4 pixels, as PaDiM does; the score stays as it is.", before=False
    )
    dtype: str = option("float32", "Precision of the statistics.", choices=("float32", "float64"))

    def __post_init__(self) -> None:
        super().__post_init__()
        length = sum(backbone_spec(self.backbone).channels)
        if self.n_components > length:
            raise OptionError(
                f"n_components is {self.n_components}; {self.backbone} has only {length} feature channels."
            )


class PadimIsvd(BackboneMethod):
    """PaDiM with incremental SVD; see the module's docstring for the paper."""

    key = "padim_isvd"
    title = "PaDiM-iSVD"
    summary = (
        "Learns the usual appearance at every position of the picture, in one quick pass and fixed memory. "
        "Best where parts lie in the same place."
    )
    Config = PadimIsvdConfig
    config: PadimIsvdConfig
    memory_advice = "set solver=gram, or lower n_components, step or image_size"
    comparison: ClassVar = {
        "one-shot PCA, SVD": {"incremental": False, "solver": "svd"},
        "one-shot PCA, Gram": {"incremental": False, "solver": "eigh"},
        "incremental, SVD of W (eq. 6)": {"solver": "svd", "step": 16},
        "incremental, Gram (section 3.3)": {"solver": "eigh"},
        "incremental, sums of products (default)": {},
    }

    def learner(self, shape: WorkingShape, n_images: int, state: State | None = None) -> Learner:
        if not self.config.incremental and state is None:
            return OneShotPca(self.config, self.statistics_device)
        incremental = SummedPca if self._sums_up() else IncrementalPca
        return incremental(self.config, self.statistics_device, resume_from=state)

    def _sums_up(self) -> bool:
        """Whether the products of all channels are summed up in place of a sketch."""
        n_channels = sum(backbone_spec(self.config.backbone).channels)
        return self.config.solver == "auto" and n_channels <= MAX_SUMMED_CHANNELS

    def scorer(self, state: State, shape: WorkingShape) -> "PadimIsvdScorer":
        return PadimIsvdScorer(state["projection"], state["offset"], shape if self.config.blur else None)

    def tile_scorer(self, states: list[State], stacked: State, shape: WorkingShape) -> "PadimIsvdScorer":
        return self.scorer({name: stacked[name].flatten(0, 1) for name in ("projection", "offset")}, shape)

    def layout(self, shape: WorkingShape, n_images: int) -> Layout:
        n_positions, length, k = self._sizes(shape)
        dtype = getattr(torch, self.config.dtype)
        return {
            "projection": ((n_positions, k, length), dtype),
            "offset": ((n_positions, k, 1), dtype),
            "mean": ((n_positions, length), dtype),
            "variances": ((n_positions, k), dtype),
            "n_images": ((), torch.int64),
        }

    def cost(self, shape: WorkingShape, n_images: int) -> Cost:
        state_bytes = layout_bytes(self.layout(shape, n_images))
        return Cost(self._seconds(shape, n_images), self._held_bytes(shape, n_images), state_bytes)

    def _held_bytes(self, shape: WorkingShape, n_images: int) -> int:
        n_positions, length, k = self._sizes(shape)
        itemsize = getattr(torch, self.config.dtype).itemsize
        if not self.config.incremental:
            return (n_images + 2 * k) * n_positions * length * itemsize
        if self._sums_up():
            # Pages of sums that no picture reached are never touched.
            n_products = length * length if n_images > IMAGES_PER_UPDATE else 0
            return (n_products + (min(n_images, IMAGES_PER_UPDATE) + k + 2) * length) * n_positions * itemsize
        n_rows = k + min(self.config.step, n_images)
        # The buffer, the new sketch with what finishing needs of its size, and the small matrices.
        return ((n_rows + 3 * k) * length + n_rows * (n_rows + 3 * k)) * n_positions * itemsize

    def _seconds(self, shape: WorkingShape, n_images: int) -> float:
        n_positions, length, k = self._sizes(shape)
        part = min(n_positions, PROBE_POSITIONS)
        device = self.statistics_device

        n_probe = n_images
        if self.config.incremental:
            n_probe = min(n_images, IMAGES_PER_UPDATE if self._sums_up() else k + self.config.step)
        vectors = torch.randn(n_probe, part, length, generator=torch.Generator().manual_seed(0))
        vectors = (vectors * torch.logspace(0, -2, length)).to(device)  # as uneven as real ones

        def added(x: Tensor) -> Learner:
            learner = self.learner(shape, n_images)
            learner.add_vectors(x)
            return learner

        if not self._sums_up() or not self.config.incremental:
            seconds = quiet_seconds(lambda: added(vectors).finish(), device)
            n_steps = 1 + math.ceil((n_images - n_probe) / self.config.step) if self.config.incremental else 1
            return seconds * n_steps * n_positions / part
        # Sums grow with the pictures, and are decomposed once, block by block.
        few = added(vectors[:, : min(part, PROBE_DECOMPOSED)])
        if n_images > IMAGES_PER_UPDATE:
            few.moments.flush()
        adding = quiet_seconds(lambda: added(vectors).moments.flush(), device)
        finishing = quiet_seconds(few.finish, device)
        return adding * n_images / n_probe * n_positions / part + finishing * n_positions / len(few.moments.rows)

    def _sizes(self, shape: WorkingShape) -> tuple[int, int, int]:
        spec = backbone_spec(self.config.backbone)
        height, width = spec.map_sizes(shape.cropped)[0]
        return height * width, sum(spec.channels), self.config.n_components


@dataclass(frozen=True, eq=False)
class PadimIsvdScorer:
    """Mahalanobis distance by projection (eq. 3); the image score is the largest over the patches.

    The map is these distances, upsampled and blurred where a shape is given; the score is of the patches either way.
    """

    projection: Tensor  # (P, k, m); with tiles, P are the positions of all
    offset: Tensor  # (P, k, 1)
    shape: WorkingShape | None  # whose map is wanted; None for the map of the patches

    def __call__(self, encoded: list[Tensor]) -> Scored:
        # One after the other, since MPS has no double precision.
        x = concatenate(encoded).to(self.projection.device).to(self.projection.dtype)
        x = x.reshape(-1, len(self.projection), x.shape[2])  # (B, P, m)
        z = torch.baddbmm(self.offset, self.projection, x.permute(1, 2, 0), beta=-1)  # (P, k, B)
        distances = z.square_().sum(1).sqrt_().T.float()  # (B, P)
        patches = distances.reshape(-1, *encoded[0].shape[-2:])
        maps = patches if self.shape is None else realign(patches.contiguous(), self.shape.cropped)
        return Scored(patches.flatten(1).amax(1), maps)


class IncrementalPca(Learner):
    """Sections 3.1 to 3.3: a sketch of k rows whose Gram matrix approximates that of all vectors seen.

    Vectors are buffered until k + step have come, then `step` more for each update, whatever the batches were.
    """

    stage = "computing the components"

    def __init__(self, config: PadimIsvdConfig, device: torch.device, resume_from: State | None = None) -> None:
        self.k, self.step, self.solver = config.n_components, config.step, config.solver
        self.shrinkage = config.shrinkage
        self.device = device
        self.dtype = getattr(torch, config.dtype)
        self.n_images = 0
        self.rows: Tensor | None = None  # (P, k + step, m): Wᵀ, the sketch on top of the vectors that wait
        self.total: Tensor | None = None  # (P, m): xₐ of section 3.2
        self.n_sketch = 0  # rows of the sketch, 0 before the first update
        self.n_waiting = 0
        if resume_from is not None:
            self._resume(resume_from)

    def add(self, encoded: list[Tensor]) -> None:
        self.add_vectors(concatenate(encoded))

    def add_vectors(self, x: Tensor) -> None:
        """Take in vectors (n, P, m)."""
        x = x.to(self.device).to(self.dtype)
        if self.rows is None:
            self._allocate(x.shape[1], x.shape[2])
        self.n_images += len(x)
        self.total += x.sum(0)
        while len(x):
            start = self.n_sketch + self.n_waiting
            taken = min(len(x), self.k + self.step - start)
            self.rows[:, start : start + taken].copy_(x[:taken].transpose(0, 1))
            self.n_waiting += taken
            x = x[taken:]
            if self.n_sketch + self.n_waiting == self.k + self.step:
                self._update()

    def finish(self, on_step: OnStep | None = None) -> State:
        """Section 3.2: subtract the projected mean, decompose again, scale to a whitening projection."""
        if self.n_waiting:
            self._update()
        sketch = self.rows[:, : self.n_sketch].double()  # (P, r, m)
        mean = (self.total / self.n_images).double()
        n = self.n_images
        s2, v = eigh(torch.bmm(sketch, sketch.mT))  # un-normalised until here (section 3.3)
        largest = s2[:, -1:]
        # What single or double precision cannot tell from zero is no direction of the data.
        tolerance = 32 * torch.finfo(self.dtype).eps * largest
        kept = s2 > tolerance
        u = torch.bmm((v * (kept / s2.clamp_min(torch.finfo(s2.dtype).tiny).sqrt())[:, None]).mT, sketch)  # (P, r, m)
        a = torch.bmm(u, mean[..., None])  # (P, r, 1): Uᵀμ
        middle = torch.diag_embed(s2 * kept) / (n - 1) - n / (n - 1) * torch.bmm(a, a.mT)  # eq. 9
        variances, r = eigh(middle)
        variances = torch.where(variances > tolerance / (n - 1), variances, 0)
        return _state(torch.bmm(r.mT, u), variances, mean, n, self.k, self.shrinkage, self.dtype)

    def _allocate(self, n_positions: int, length: int) -> None:
        # Allocated but not touched: a small set never fills it, and untouched pages cost nothing.
        self.rows = torch.empty(n_positions, self.k + self.step, length, dtype=self.dtype, device=self.device)
        self.total = torch.zeros(n_positions, length, dtype=self.dtype, device=self.device)

    def _resume(self, state: State) -> None:
        """Rebuild a sketch from (n − 1)·Σ + n·μμᵀ, which is the Gram matrix of the vectors learned before."""
        mean = state["mean"].to(self.device, self.dtype)
        n = int(state["n_images"])
        self._allocate(mean.shape[0], mean.shape[1])
        self.rows[:, : self.k] = _centred_rows(state, self.shrinkage, self.device, self.dtype)
        self.rows[:, self.k] = mean * n**0.5
        self.n_images, self.total = n, mean * n
        self.n_sketch, self.n_waiting = self.k, 1
        if self.step == 1:
            self._update()

    def _update(self) -> None:
        n_rows = self.n_sketch + self.n_waiting
        w = self.rows[:, :n_rows]  # (P, r + n, m)
        if n_rows > self.k or not self.n_sketch:
            r = min(self.k, n_rows)
            sketch = _leading_rows(w, r, self.n_sketch, self.solver)
            self.rows[:, :r] = sketch
            self.n_sketch = r
        else:
            self.n_sketch = n_rows
        self.n_waiting = 0


class SummedPca(Learner):
    """Sections 3.1 to 3.3 without a sketch: all products are summed up, P×m×m numbers however many pictures come.

    As with a sketch, the subspace is that of the vectors themselves, and the mean is subtracted within it (section
    3.2). So the mean's own direction is kept, in which good pictures vary little, beside those in which they vary most.
    Nothing is lost between the steps, and decomposing once takes less time than decomposing at every step.
    """

    stage = "computing the components"

    def __init__(self, config: PadimIsvdConfig, device: torch.device, resume_from: State | None = None) -> None:
        self.k, self.shrinkage, self.device = config.n_components, config.shrinkage, device
        self.dtype = getattr(torch, config.dtype)
        self.moments = Moments(device, self.dtype)
        if resume_from is not None:
            self._resume(resume_from)

    def add(self, encoded: list[Tensor]) -> None:
        self.add_vectors(concatenate(encoded))

    def add_vectors(self, x: Tensor) -> None:
        """Take in vectors (n, P, m)."""
        self.moments.add(x.to(self.device).to(self.dtype))

    def finish(self, on_step: OnStep | None = None) -> State:
        moments = self.moments
        few = moments.products is None  # so few pictures that all of them wait
        if not few:
            moments.flush()
        n_positions = moments.n_positions

        def done(n: int) -> None:
            if on_step is not None:
                on_step(n, n_positions)

        decompose = self._from_rows if few else self._from_covariance
        # Of few vectors it is they that take the room, of many their products.
        each_bytes = moments.rows[0].nbytes if few else moments.products[0].nbytes
        return _joined(by_blocks(decompose, n_positions, BLOCK, self.device, done, each_bytes=each_bytes))

    def _from_rows(self, positions: slice) -> State:
        x = self.moments.rows[positions, : self.moments.n_waiting]  # (p, n, m)
        mean = x.mean(1)
        s2, v = leading(torch.bmm(x, x.mT), self.k)
        u = torch.bmm(v.mT, x) / s2.clamp_min(torch.finfo(s2.dtype).tiny).sqrt()[..., None]  # (p, k, m)
        projected = torch.bmm(x - mean[:, None], u.mT)  # (p, n, k)
        return self._centred(u, s2, torch.bmm(projected.mT, projected) / max(x.shape[1] - 1, 1), mean)

    def _from_covariance(self, positions: slice) -> State:
        mean, n = self.moments.mean(positions), self.moments.n_images
        covariance = self.moments.covariance(positions)
        s2, v = leading((n - 1) * covariance + n * mean[:, :, None] * mean[:, None], self.k)
        return self._centred(v.mT, s2, torch.bmm(torch.bmm(v.mT, covariance), v), mean)

    def _centred(self, u: Tensor, s2: Tensor, middle: Tensor, mean: Tensor) -> State:
        """Section 3.2: from the subspace u (p, k, m) and the covariance within it, `middle` (p, k, k).

        Args:
            s2: squared singular values (p, k) of the vectors, ascending.
        """
        n = self.moments.n_images
        tolerance = 32 * torch.finfo(self.dtype).eps * s2[:, -1:]  # as in IncrementalPca
        kept = (s2 > tolerance).to(u)
        variances, r = exact(middle * kept[:, :, None] * kept[:, None])
        variances = torch.where(variances > tolerance / max(n - 1, 1), variances, 0)
        u = torch.bmm(r.mT, u * kept[..., None])
        return _state(u, variances, mean, n, self.k, self.shrinkage, self.dtype)

    def _resume(self, state: State) -> None:
        """Go on from the covariance that is kept, of rank k."""
        rows = _centred_rows(state, self.shrinkage, self.device, self.dtype)
        mean = state["mean"].to(self.device, self.dtype)
        self.moments.resume(mean, torch.bmm(rows.mT, rows), int(state["n_images"]))


class OneShotPca(Learner):
    """The paper's comparison (table 2, "Incremental? N"): keep all features, then one centred PCA per position."""

    stage = "computing the components"

    def __init__(self, config: PadimIsvdConfig, device: torch.device) -> None:
        self.k, self.solver, self.shrinkage = config.n_components, config.solver, config.shrinkage
        self.device = device
        self.dtype = getattr(torch, config.dtype)
        self.vectors: list[Tensor] = []

    def add(self, encoded: list[Tensor]) -> None:
        self.add_vectors(concatenate(encoded))

    def add_vectors(self, x: Tensor) -> None:
        """Take in vectors (n, P, m)."""
        self.vectors.append(x.to(self.device).to(self.dtype))

    def finish(self, on_step: OnStep | None = None) -> State:
        def decompose(positions: slice) -> State:
            x = torch.cat([v[:, positions] for v in self.vectors]).transpose(0, 1)  # (p, n, m)
            return _one_shot(x, self.k, self.solver, self.shrinkage)

        each_bytes = sum(v[:, 0].nbytes for v in self.vectors)
        return _joined(by_blocks(decompose, self.vectors[0].shape[1], BLOCK, self.device, each_bytes=each_bytes))


def _one_shot(x: Tensor, k: int, solver: str, shrinkage: float) -> State:
    """The centred PCA of all vectors x (p, n, m) at some positions."""
    n = x.shape[1]
    mean = x.mean(1)
    x = x - mean[:, None]
    if solver == "svd":
        with decomposing(REMEDY):
            _, s, u = torch.linalg.svd(x, full_matrices=False)
        variances, u = s[:, :k].flip(1).square() / (n - 1), u[:, :k].flip(1)
    elif n <= x.shape[2]:
        s2, v = _largest(torch.bmm(x, x.mT), k, solver)
        u = torch.bmm(v.mT, x) / s2.clamp_min(torch.finfo(s2.dtype).tiny).sqrt()[..., None]
        variances = s2 / max(n - 1, 1)
    else:
        variances, u = _largest(torch.bmm(x.mT, x) / (n - 1), k, solver)
        u = u.mT
    return _state(u, _above_rounding(variances), mean, n, k, shrinkage, x.dtype)


def _largest(symmetric: Tensor, k: int, solver: str) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues, ascending, and their vectors; all of them where there are fewer."""
    if solver == "auto":
        return leading(symmetric, k)
    values, vectors = exact(symmetric)
    return values[:, -k:], vectors[..., -k:]


def _above_rounding(variances: Tensor) -> Tensor:
    """Variances (P, k), ascending, with zeros for those that rounding alone would make."""
    return torch.where(variances > 32 * torch.finfo(variances.dtype).eps * variances[:, -1:], variances, 0)


def _joined(parts: list[State]) -> State:
    """The state of all positions from those of some."""
    names = ("projection", "offset", "mean", "variances")
    return {name: torch.cat([p[name] for p in parts]) for name in names} | {"n_images": parts[0]["n_images"]}


def _state(u: Tensor, variances: Tensor, mean: Tensor, n: int, k: int, shrinkage: float, dtype: torch.dtype) -> State:
    """diag(σ^-½)·Uᵀ, with rows of zero where there is no variance and where fewer than k directions were found."""
    shrunk = _shrunk(variances, n, shrinkage)
    scale = torch.where(variances > 0, shrunk.clamp_min(torch.finfo(shrunk.dtype).tiny).rsqrt(), 0)
    missing = k - variances.shape[1]
    projection = F.pad(u * scale[..., None], (0, 0, missing, 0))
    return {
        "projection": projection.to(dtype).contiguous(),
        "offset": torch.bmm(projection, mean[..., None]).to(dtype),
        "mean": mean.to(dtype).contiguous(),
        "variances": F.pad(variances, (missing, 0)).to(dtype).contiguous(),
        "n_images": torch.tensor(n),
    }


def _centred_rows(state: State, shrinkage: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Rows (P, k, m) whose Gram matrix is (n − 1)·Σ, from a learned state."""
    projection, variances = (state[name].to(device, dtype) for name in ("projection", "variances"))
    n = int(state["n_images"])
    # σ'^-½ Uᵀ, where σ' is the shrunk variance, to Uᵀ·√((n − 1)σ)
    return projection * (_shrunk(variances, n, shrinkage) * variances * (n - 1)).sqrt()[..., None]


def _shrunk(variances: Tensor, n: int, shrinkage: float) -> Tensor:
    """Variances (P, k) mixed with the mean of those above zero, with the weights n and `shrinkage`."""
    mean = variances.sum(1, keepdim=True) / (variances > 0).sum(1, keepdim=True).clamp_min(1)
    return (n * variances + shrinkage * mean) / (n + shrinkage)


def _leading_rows(w: Tensor, k: int, n_sketch: int, solver: str) -> Tensor:
    """k rows (P, k, m) whose Gram matrix is the best (or nearly best) rank-k part of that of w (P, n, m)."""
    if solver == "svd":  # eq. 6, with W = wᵀ
        with decomposing(REMEDY):
            _, s, u = torch.linalg.svd(w, full_matrices=False)
        return s[:, :k, None] * u[:, :k]
    if solver == "gram":
        return _subspace_iteration(w, k, n_sketch)
    gram = torch.bmm(w, w.mT)
    if solver == "auto":
        n, each_bytes = len(gram), gram[0].nbytes
        parts = by_blocks(lambda block: leading(gram[block], k)[1], n, BLOCK, gram.device, each_bytes=each_bytes)
        v = torch.cat(parts)
    else:
        v = eigh(gram)[1][..., -k:]
    return torch.bmm(v.mT, w)


def _subspace_iteration(w: Tensor, k: int, n_sketch: int) -> Tensor:
    """Warm-started subspace iteration on the small matrix WᵀW (W = wᵀ), in products and k×k Cholesky factors only.

    It starts from the rows of the sketch before, which are the first k of w. A little of all the new vectors is mixed
    in, so that a direction that no earlier picture had can be found.
    """
    n_rows = w.shape[1]
    g = torch.bmm(w, w.mT)  # (P, n, n)
    start = torch.randn(n_rows, k, generator=torch.Generator().manual_seed(0)).to(w)
    if n_sketch:
        start *= MIXING_RATIO / (n_rows - k) ** 0.5
        start[:k] = torch.eye(k)
    identity = torch.eye(k, dtype=w.dtype, device=w.device)
    gv = torch.matmul(g, start)  # (P, n, k)
    s = torch.matmul(start.T, gv)  # (P, k, k)
    n_rounds = N_ITERATIONS if n_sketch else N_FIRST_ITERATIONS
    for i in range(n_rounds):
        # Dividing by VᵀGV brings every direction to the same size, strong or weak, before it is made orthonormal.
        z = torch.bmm(gv, torch.cholesky_inverse(cholesky(s)))
        inverse = torch.linalg.solve_triangular(cholesky(torch.bmm(z.mT, z)), identity.expand_as(s), upper=False)
        v = torch.bmm(z, inverse.mT)
        if i + 1 < n_rounds:
            gv = torch.bmm(g, v)
            s = torch.bmm(v.mT, gv)
    return torch.bmm(v.mT, w)

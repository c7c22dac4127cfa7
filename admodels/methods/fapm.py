"""FAPM: nearest neighbours in small memory banks, one for each patch of the picture and each layer.

Kim et al., "FAPM: Fast adaptive patch memory for real-time industrial anomaly detection". B is a batch, L the positions
of a feature map, P the number of patches (grid cells), S the positions in the largest patch, C the channels.

What the paper leaves open was chosen by measurement (Lite0, 7×7 grid, a fifth of the normals held out; Magnetic Tile's
image and pixel AUROC, then the worst and the mean image AUROC of the six kinds of PIPED):

- τ is the mean plus one standard deviation of the patches' radii, for each layer: 10 to 22 % of the patches are
  selected again.
- Vectors are divided by the square root of their length (`norm_power` 0.5), half-way between the paper's Euclidean
  distance and the cosine distance. With the latter two, without re-weighting: 0.979 / 0.853, 0.929 / 0.979 (0) and
  0.979 / 0.790, 0.984 / 0.997 (1), against 0.981 / 0.831, 0.957 / 0.992 (0.5).
- A layer's image score is the mean over the largest 1 % of its distances ("some of the largest", section 2.3), of which
  the very largest is re-weighted by its 4 nearest vectors: 0.982, PIPED's worst kind 0.974. Re-weighting all of them:
  0.979, 0.965. The largest alone: 0.978, 0.962. The layers weigh the same.
- A third bank at stride 4 (`layers` 4,8,16) gives PIPED's pixels 0.6 points more and nothing else, for three times the
  fit time and twice the size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from admodels.core.method import Cost, Layout, Learner, OnStep, Scored, State
from admodels.errors import OptionError
from admodels.methods.backbone_method import BackboneConfig, BackboneMethod
from admodels.methods.coreset import estimate_seconds, greedy_k_centre
from admodels.methods.feature_maps import concatenate, count_padding_option, local_average, parse_layers, realign
from admodels.methods.neighbours import few_nearest_distances, nearest_distances, reweighted, searchable
from admodels.options import option
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.backbone_specs import backbone_spec

COARSE = 8  # stride from which on `coreset_ratio` holds as it is
USUAL_SELECTED_AGAIN = 0.15  # of the patches, by the automatic threshold


@dataclass(frozen=True)
class FapmConfig(BackboneConfig):
    """Options of FAPM."""

    layers: str = option(
        "4,8,16",
        "Strides of the feature maps used; without 4, a fit is faster and misses small defects.",
        before="8,16",
    )
    grid: int = option(7, "Split each map into grid × grid patches, each with its own memory.", minimum=1, maximum=64)
    coreset_ratio: float = option(0.1, "Fraction of the vectors to keep.", minimum=0.001, maximum=1.0)
    adaptive: bool = option(True, "Keep twice as many vectors in patches that vary a lot.")
    radius_threshold: float | str = option(
        "auto", "Radius above which a patch counts as varied: auto or a number; the fit reports the radii."
    )
    image_score: str = option(
        "map",
        "What the image score is: map, the largest value of the blurred map; layers, the largest distances of each "
        "layer, re-weighted, as in the paper.",
        choices=("map", "layers"),
        before="layers",
    )
    n_neighbors: int = option(
        4, "With layers: neighbours used to re-weight the largest distance; 1 turns this off.", minimum=1, maximum=100
    )
    layer_weights: str = option("equal", "Weights of the layers in the score: equal, or numbers such as 1,2.")
    top_ratio: float = option(
        0.01, "With layers: fraction of a layer's distances that is averaged.", minimum=0, maximum=1
    )
    norm_power: float = option(
        0.0,
        "How far vectors are normalised: 0 gives Euclidean, 1 cosine distance.",
        minimum=0,
        maximum=1,
        before=0.5,
    )
    patch_wise: bool = option(True, "A memory for each patch; off: one for the whole picture.")
    layer_wise: bool = option(True, "A memory for each layer; off: layers are concatenated.")
    count_padding: bool = count_padding_option()

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_layers(self.layers, self.backbone)
        threshold = self.radius_threshold
        if threshold != "auto" and (isinstance(threshold, str) or not threshold >= 0):
            raise OptionError(f"radius_threshold is {threshold!r}; expected auto or a number from 0.")
        self.bank_weights()

    def bank_weights(self) -> list[float]:
        """The weight of each bank; they add up to 1."""
        n = len(parse_layers(self.layers, self.backbone)) if self.layer_wise else 1
        if self.layer_weights == "equal":
            return [1 / n] * n
        try:
            given = [float(part) for part in self.layer_weights.split(",")]
        except ValueError:
            given = []
        if len(given) != n or not all(w >= 0 for w in given) or not 0 < sum(given) < float("inf"):
            raise OptionError(
                f"layer_weights is {self.layer_weights!r}; expected equal, or {n} number{'s' if n > 1 else ''} from 0 "
                "separated by commas, not all 0: one for each map used."
            )
        return [w / sum(given) for w in given]

    def ratios(self) -> list[float]:
        """The fraction of its vectors that each bank keeps.

        A map finer than stride 8 has more vectors and they overlap more: of a picture as many are kept as at stride 8.
        """
        strides = [backbone_spec(self.backbone).strides[i] for i in parse_layers(self.layers, self.backbone)]
        return [self.coreset_ratio * min(1, s / COARSE) ** 2 for s in (strides if self.layer_wise else strides[:1])]


@dataclass(frozen=True)
class PatchGrid:
    """A map cut into patches; where the grid does not divide it, some patches are one row or column larger.

    Attributes:
        size: (height, width) of the map.
        positions: int64 (P, S), the positions of each patch; a smaller one repeats its first. It lies on the device of
            the vectors, so that no search has to copy it there.
        sizes: how many positions each patch really has.
    """

    size: tuple[int, int]
    positions: Tensor
    sizes: tuple[int, ...]

    def split(self, vectors: Tensor) -> Tensor:
        """(B, L, C) to (P, B·S, C)."""
        n_patches, n_positions = self.positions.shape
        taken = vectors[:, self.positions.flatten()]
        return taken.unflatten(1, (n_patches, n_positions)).transpose(0, 1).flatten(1, 2)

    def join(self, values: Tensor) -> Tensor:
        """(P, B·S) to (B, L)."""
        n_positions = self.positions.shape[1]
        by_picture = values.unflatten(1, (-1, n_positions)).transpose(0, 1).flatten(1)  # (B, P·S)
        joined = by_picture.new_empty(len(by_picture), self.size[0] * self.size[1])
        joined[:, self.positions.flatten()] = by_picture
        return joined


@lru_cache(maxsize=64)
def patch_grid(height: int, width: int, n: int, device: str = "cpu") -> PatchGrid:
    """Cut a map into n × n patches, or as many as it has rows and columns."""
    rows = np.array_split(np.arange(height), min(n, height))
    columns = np.array_split(np.arange(width), min(n, width))
    patches = [(r[:, None] * width + c).ravel() for r in rows for c in columns]
    largest = max(map(len, patches))
    table = [np.concatenate([p, np.full(largest - len(p), p[0])]) for p in patches]
    positions = torch.from_numpy(np.stack(table).astype(np.int64)).to(device)
    return PatchGrid((height, width), positions, tuple(map(len, patches)))


@dataclass(frozen=True)
class PatchBank:
    """The memory of one layer, laid out for the search: patches with the same number of keys are searched together.

    Attributes:
        grid: of the layer's map.
        runs: patches (P_r,) and their keys (P_r, k, C + 1), from `searchable`.
        run_of, row_of: for each of the P patches, its run and its row there.
        patch_of: int64 (L,), the patch of each position.
        n_tiles: of how many tiles, whose maps stand below each other in the grid, this is the memory.
    """

    grid: PatchGrid
    runs: list[tuple[Tensor, Tensor]]
    run_of: Tensor
    row_of: Tensor
    patch_of: Tensor
    n_tiles: int = 1

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of one map."""
        return self.grid.size[0] // self.n_tiles, self.grid.size[1]

    def distances(self, vectors: Tensor) -> Tensor:
        """(B, L, C) to the distance of each from the nearest key of its patch, (B, L); with tiles, (B·T, L / T, …)."""
        queries = self.grid.split(vectors.reshape(-1, len(self.patch_of), vectors.shape[2]))
        if len(self.runs) == 1:
            found = nearest_distances(queries, self.runs[0][1])
        else:
            found = queries.new_empty(queries.shape[:2])
            for patches, keys in self.runs:
                found[patches] = nearest_distances(queries[patches], keys)
        return self.grid.join(found).reshape(vectors.shape[:2])

    def few_nearest(self, vectors: Tensor, positions: Tensor, n: int) -> Tensor:
        """Distances (B, n) of each picture's vector at its position (B,) from the n nearest keys of its patch."""
        rows = torch.arange(len(vectors), device=vectors.device)
        chosen = vectors[rows, positions]  # (B, C)
        patch = self.patch_of[positions + rows % self.n_tiles * vectors.shape[1]]
        n = min(n, self.runs[0][1].shape[1])  # the first run has the fewest keys
        found = chosen.new_empty(len(chosen), n)
        for i, (_, keys) in enumerate(self.runs):
            here = (self.run_of[patch] == i).nonzero()[:, 0]
            memories = keys if len(keys) == 1 else keys[self.row_of[patch[here]]]
            found[here] = few_nearest_distances(chosen[here], memories, n)
        return found


class Fapm(BackboneMethod):
    """Small memory banks by patch and layer, thinned by an adaptive coreset."""

    key = "fapm"
    title = "FAPM"
    summary = (
        "Remembers what each region looks like in good parts, and keeps only what matters. Accurate from a few dozen "
        "pictures on; fast to fit and to predict; the model grows with the number of pictures."
    )
    Config = FapmConfig
    config: FapmConfig
    memory_advice = "lower image_size, drop the finest of layers, or use fewer pictures"
    # The rows of the paper's table 2.
    comparison: ClassVar = {
        "A  one memory": {"patch_wise": False, "layer_wise": False, "adaptive": False},
        "B  patch-wise": {"patch_wise": True, "layer_wise": False, "adaptive": False},
        "C  layer-wise": {"patch_wise": False, "layer_wise": True, "adaptive": False},
        "D  both": {"patch_wise": True, "layer_wise": True, "adaptive": False},
        "E  both, adaptive": {"patch_wise": True, "layer_wise": True, "adaptive": True},
    }

    def learner(self, shape: WorkingShape, n_images: int, state: State | None = None) -> Learner:
        return FapmLearner(self.config, self._grids(shape), n_images, self.statistics_device, state)

    def scorer(self, state: State, shape: WorkingShape) -> "FapmScorer":
        banks = [_bank(state[f"keys_{i}"], state[f"counts_{i}"], grid) for i, grid in enumerate(self._grids(shape))]
        return FapmScorer(self.config, banks, shape)

    def tile_scorer(self, states: list[State], stacked: State, shape: WorkingShape) -> "FapmScorer":
        """As if the tiles' maps stood below each other, with as many patches as they have together."""
        banks, n = [], len(states)
        for i, grid in enumerate(self._grids(shape)):
            keys = [patch_keys for state in states for patch_keys in _keys_by_patch(state, i)]
            counts = torch.cat([state[f"counts_{i}"] for state in states])
            height, width = grid.size
            positions = torch.cat([grid.positions + tile * height * width for tile in range(n)])
            joined = PatchGrid((n * height, width), positions, grid.sizes * n)
            banks.append(_bank(torch.cat([keys[p] for p in _order(counts)]), counts, joined, n))
        return FapmScorer(self.config, banks, shape)

    def layout(self, shape: WorkingShape, n_images: int) -> Layout:
        layout: Layout = {"n_images": ((), torch.int64), "thresholds": ((self._n_banks(),), torch.float32)}
        for i, (grid, length) in enumerate(zip(self._grids(shape), self._lengths(), strict=True)):
            # Models saved before `ratios` were by layer kept `coreset_ratio` in all.
            n_patches, most = len(grid.sizes), 2 * sum(key_counts(self.config.coreset_ratio, n_images, grid))
            layout[f"keys_{i}"] = ((range(n_patches, most + 1), length), torch.float32)
            layout[f"counts_{i}"] = ((n_patches,), torch.int64)
            layout[f"radii_{i}"] = ((n_patches,), torch.float32)
        return layout

    def cost(self, shape: WorkingShape, n_images: int) -> Cost:
        config, seconds, sizes, state_bytes = self.config, 0.0, [], 0.0
        more = 1 + USUAL_SELECTED_AGAIN * (config.adaptive and config.patch_wise)
        for grid, length, ratio in zip(self._grids(shape), self._lengths(), config.ratios(), strict=True):
            n_patches, n_positions = grid.positions.shape
            n_vectors, n_keys = n_images * n_positions, key_counts(ratio, n_images, grid)
            seconds += estimate_seconds(n_patches, n_vectors, length, n_keys[0], self.statistics_device)
            if config.adaptive and n_patches > 1:
                n_again = max(1, round(USUAL_SELECTED_AGAIN * n_patches))
                seconds += estimate_seconds(n_again, n_vectors, length, 2 * n_keys[0], self.statistics_device)
            sizes.append(4 * n_patches * n_vectors * length)
            state_bytes += more * 4 * length * sum(n_keys)
        # All vectors, and for the layer at work its norms, distances and the patches that are selected again.
        held = sum(sizes) + max(s * (3 / c + 0.4) for s, c in zip(sizes, self._lengths(), strict=True))
        return Cost(seconds, round(held), round(state_bytes))

    def details(self, state: State, shape: WorkingShape) -> dict[str, str]:
        found = {}
        for i, threshold in enumerate(state["thresholds"].tolist()):
            radii, n_keys = state[f"radii_{i}"], len(state[f"keys_{i}"])
            again = int((radii > threshold).sum()) if self.config.adaptive else 0
            found[f"memory bank {i + 1}"] = (
                f"{n_keys:,} vectors in {len(radii)} patches; {again} selected again "
                f"(radii {radii.min():.3g} to {radii.max():.3g}, threshold {threshold:.3g})"
            )
        return found

    def _n_banks(self) -> int:
        return len(self.config.bank_weights())

    def _lengths(self) -> list[int]:
        channels = [
            backbone_spec(self.config.backbone).channels[i]
            for i in parse_layers(self.config.layers, self.config.backbone)
        ]
        return channels if self.config.layer_wise else [sum(channels)]

    def _grids(self, shape: WorkingShape) -> list[PatchGrid]:
        all_sizes = backbone_spec(self.config.backbone).map_sizes(shape.cropped)
        indices = parse_layers(self.config.layers, self.config.backbone)
        n = self.config.grid if self.config.patch_wise else 1
        sizes = [all_sizes[i] for i in indices[: self._n_banks()]]
        return [patch_grid(*size, n, str(self.statistics_device)) for size in sizes]


def bank_vectors(encoded: list[Tensor], config: FapmConfig) -> list[Tensor]:
    """The vectors (B, L, C) of each bank, locally averaged and divided by their length to `norm_power`."""
    maps = [local_average(encoded[i], config.count_padding) for i in parse_layers(config.layers, config.backbone)]
    banks = [concatenate([m]) for m in maps] if config.layer_wise else [concatenate(maps)]
    if config.norm_power == 0:
        return banks
    smallest = torch.finfo(torch.float32).tiny
    return [v * v.square().sum(-1, keepdim=True).clamp_min(smallest).pow(-config.norm_power / 2) for v in banks]


def key_counts(ratio: float, n_images: int, grid: PatchGrid) -> list[int]:
    """How many vectors each patch keeps, before any is selected again."""
    return [max(1, round(ratio * n_images * size)) for size in grid.sizes]


@dataclass(frozen=True, eq=False)
class FapmScorer:
    """Section 2.3: distances by layer, unified by a weighted sum; the map is realigned and blurred."""

    config: FapmConfig
    banks: list[PatchBank]
    shape: WorkingShape

    def __call__(self, encoded: list[Tensor]) -> Scored:
        config, maps, largest = self.config, 0, 0
        for vectors, bank, weight in zip(bank_vectors(encoded, config), self.banks, config.bank_weights(), strict=True):
            vectors = vectors.to(bank.patch_of.device)
            distances = bank.distances(vectors)  # (B, L)
            maps = maps + realign(weight * distances.unflatten(1, bank.map_size), self.shape.cropped)
            if config.image_score == "layers":
                largest = largest + weight * self._largest(vectors, distances, bank)
        return Scored(largest if config.image_score == "layers" else maps.flatten(1).amax(1), maps)

    def _largest(self, vectors: Tensor, distances: Tensor, bank: PatchBank) -> Tensor:
        """A layer's image score (B,): the mean of its largest distances, the very largest of them re-weighted."""
        largest, positions = distances.topk(max(1, round(self.config.top_ratio * distances.shape[1])), 1)
        nearest = bank.few_nearest(vectors, positions[:, 0], self.config.n_neighbors)
        largest[:, 0] = reweighted(largest[:, 0], nearest)
        return largest.mean(1)


class FapmLearner(Learner):
    """Collects the vectors of every patch, then selects (section 2.2).

    An update selects from the old keys and the new vectors together, as many as a fit on all pictures would keep.
    """

    stage = "selecting the coreset"

    def __init__(
        self,
        config: FapmConfig,
        grids: list[PatchGrid],
        n_images: int,
        device: torch.device,
        resume_from: State | None = None,
    ) -> None:
        self.config, self.grids, self.device = config, grids, device
        self.n_new = n_images
        self.n_images = n_images + (int(resume_from["n_images"]) if resume_from else 0)
        self.old = [_keys_by_patch(resume_from, i) for i in range(len(grids))] if resume_from else None
        self.vectors: list[Tensor] = []  # of each bank: (P, old + n·S, C)
        self.filled = [0] * len(grids)

    def add(self, encoded: list[Tensor]) -> None:
        for i, (vectors, grid) in enumerate(zip(bank_vectors(encoded, self.config), self.grids, strict=True)):
            new = grid.split(vectors.to(self.device))
            if i == len(self.vectors):
                self._allocate(i, grid, new.shape[2])
            self.vectors[i][:, self.filled[i] : self.filled[i] + new.shape[1]] = new
            self.filled[i] += new.shape[1]

    def finish(self, on_step: OnStep | None = None) -> State:
        state: State = {"n_images": torch.tensor(self.n_images)}
        thresholds = []
        total = sum(3 * sum(self._wanted(i)) for i in range(len(self.grids)))  # once, and once more at twice the ratio
        done = 0
        for i in range(len(self.grids)):
            vectors, self.vectors[i] = self.vectors[i], torch.empty(0)  # freed as soon as its keys are taken
            wanted = self._wanted(i)
            keys, radii = self._select(vectors, wanted, _shifted(on_step, done, total))
            threshold = self._threshold(radii)
            thresholds.append(threshold)
            if self.config.adaptive and (radii > threshold).any():
                again = (radii > threshold).nonzero()[:, 0]
                twice = [2 * wanted[p] for p in again.tolist()]
                more, _ = self._select(vectors[again], twice, _shifted(on_step, done + sum(wanted), total))
                for p, patch_keys in zip(again.tolist(), more, strict=True):
                    keys[p] = patch_keys
            done += 3 * sum(wanted)
            if on_step is not None:
                on_step(done, total)
            counts = torch.tensor([len(patch_keys) for patch_keys in keys], device=self.device)
            state[f"keys_{i}"] = torch.cat([keys[p] for p in _order(counts)])
            state[f"counts_{i}"] = counts
            state[f"radii_{i}"] = radii
        return state | {"thresholds": torch.tensor(thresholds, device=self.device)}

    def _allocate(self, i: int, grid: PatchGrid, length: int) -> None:
        old = self.old[i] if self.old else []
        n_old = max((len(keys) for keys in old), default=0)
        n_patches, n_positions = grid.positions.shape
        buffer = torch.empty(n_patches, n_old + self.n_new * n_positions, length, device=self.device)
        for p, keys in enumerate(old):
            buffer[p, : len(keys)] = keys
            buffer[p, len(keys) : n_old] = keys[0]  # a copy is never far from the memory, so it is never selected
        self.vectors.append(buffer)
        self.filled[i] = n_old

    def _wanted(self, i: int) -> list[int]:
        return key_counts(self.config.ratios()[i], self.n_images, self.grids[i])

    def _select(
        self, vectors: Tensor, wanted: list[int], on_keys: Callable[[int], None] | None
    ) -> tuple[list[Tensor], Tensor]:
        """Keys of each patch, and the largest radius in each, (P,); patches that keep equally many go together."""
        keys: list[Tensor] = [torch.empty(0)] * len(vectors)
        radii = torch.empty(len(vectors), device=self.device)
        done = 0
        for n_keys in sorted(set(wanted)):
            patches = [p for p, n in enumerate(wanted) if n == n_keys]
            group = vectors if len(patches) == len(vectors) else vectors[patches]
            at_most = min(n_keys, group.shape[1])
            coreset = greedy_k_centre(group, at_most, on_pick=_scaled(on_keys, done, len(patches) * n_keys))
            done += len(patches) * n_keys
            for row, p in enumerate(patches):
                keys[p] = group[row, coreset.indices[row]]
            radii[patches] = coreset.radii
        return keys, radii

    def _threshold(self, radii: Tensor) -> float:
        if self.config.radius_threshold == "auto":
            return float(radii.mean() + radii.std(correction=0))
        return self.config.radius_threshold


def _shifted(on_step: OnStep | None, done: int, total: int) -> Callable[[int], None] | None:
    """Tell of keys selected after `done` others."""
    return None if on_step is None else lambda n: on_step(done + n, total)


def _scaled(on_keys: Callable[[int], None] | None, done: int, n_all: int) -> OnStep | None:
    """Tell of a group of patches, which together select `n_all` keys after `done` others."""
    return None if on_keys is None else lambda n, n_each: on_keys(done + n_all * n // n_each)


def _order(counts: Tensor) -> list[int]:
    """In which order the patches' keys lie together: by their number, so that a run of them is one tensor."""
    return sorted(range(len(counts)), key=counts.tolist().__getitem__)


def _keys_by_patch(state: State, i: int) -> list[Tensor]:
    """The keys of each patch, from where they lie together in the order of their counts."""
    counts = state[f"counts_{i}"]
    order = _order(counts)
    parts = state[f"keys_{i}"].split(counts[order].tolist())
    return [part for _, part in sorted(zip(order, parts, strict=True), key=lambda pair: pair[0])]


def _bank(keys: Tensor, counts: Tensor, grid: PatchGrid, n_tiles: int = 1) -> PatchBank:
    if int(counts.min()) < 1 or int(counts.sum()) != len(keys):
        raise ValueError(f"the patches' counts add up to {int(counts.sum())}, and {len(keys)} keys are there")
    device = keys.device
    runs, start = [], 0
    run_of, row_of = torch.empty_like(counts), torch.empty_like(counts)
    for count in sorted(set(counts.tolist())):
        patches = (counts == count).nonzero()[:, 0]
        taken = keys[start : start + len(patches) * count].unflatten(0, (len(patches), count))
        run_of[patches], row_of[patches] = len(runs), torch.arange(len(patches), device=device)
        runs.append((patches, searchable(taken)))
        start += len(patches) * count
    patch_of = torch.empty(grid.size[0] * grid.size[1], dtype=torch.long, device=device)
    numbers = torch.arange(len(counts), device=device)
    patch_of[grid.positions.flatten()] = numbers.repeat_interleave(grid.positions.shape[1])
    return PatchBank(grid, runs, run_of, row_of, patch_of, n_tiles)

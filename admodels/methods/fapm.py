"""FAPM: nearest neighbours in small memory banks, one for each patch of the picture and each layer.

Kim et al., "FAPM: Fast adaptive patch memory for real-time industrial anomaly detection". B is a batch, L the positions
of a feature map, P the number of patches (grid cells), S the positions in the largest patch, C the channels.

What the paper leaves open, and what is not as in the paper, was chosen over ten sets by leaving one out
(tests/evaluation/measure_accuracy.py; the table is in admodels/README.md):

- The local average counts the zeros beyond the border (`count_padding`), as PatchCore's published code does.
- Distances are Euclidean, as in the paper; dividing vectors by a power of their length (`norm_power`) is kept for
  models saved before.
- The image score is the largest value of the blurred, unified map. The paper's score, from the largest distances of
  each layer with the very largest re-weighted by its neighbours, is `image_score="layers"`.
- There is a bank at stride 4 besides those at 8 and 16. Its map is learned at every second row and column: the fit
  takes little longer, and small defects are found better.
- 5 % of the vectors are kept, since 10 % find no more.
- τ is the mean plus one standard deviation of the patches' radii, for each layer: 10 to 22 % of the patches keep twice
  as many vectors. The layers weigh the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from admodels.core.method import Cost, Layout, Learner, OnStep, Scored, State
from admodels.errors import OptionError
from admodels.methods.backbone_method import BackboneConfig, BackboneMethod
from admodels.methods.coreset import estimate_seconds, greedy_k_centre
from admodels.methods.feature_maps import concatenate, count_padding_option, local_average, parse_layers, realign
from admodels.methods.neighbours import (
    distances_from,
    extended,
    few_nearest_distances,
    largest_products,
    nearest_distances,
    padded,
    reweighted,
    searchable,
)
from admodels.options import option
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.backbone_specs import backbone_spec
from admodels.runtime.tracing import is_traced, kept

COARSE = 8  # stride from which on vectors are learned from every position
# Patches with unequal numbers of keys are searched in one product up to so many operations in vain: a product more
# takes longer. At eight pictures it is the other way round, by less.
WORTH_A_RUN = 3e6
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
    coreset_ratio: float = option(
        0.05,
        "Fraction of the vectors to keep; the paper keeps 0.1.",
        minimum=0.001,
        maximum=1.0,
        before=0.1,
        common=True,
    )
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
    patch_wise: bool = option(
        True, "A memory for each patch; off: one for the whole picture, for parts that lie anywhere.", common=True
    )
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

    def steps(self) -> list[int]:
        """Of each bank, from which position on to the next one vectors are learned.

        The vectors of a map finer than stride 8 overlap so much that as many as at stride 8 tell the same.
        """
        strides = [backbone_spec(self.backbone).strides[i] for i in parse_layers(self.layers, self.backbone)]
        return [max(1, COARSE // stride) for stride in (strides if self.layer_wise else strides[:1])]


@dataclass(frozen=True)
class PatchGrid:
    """A map cut into patches; where the grid does not divide it, some patches are one row or column larger.

    Attributes:
        size: (height, width) of the map.
        positions: int64 (P, S), the positions of each patch; a smaller one repeats its first. It lies on the device of
            the vectors, so that no search has to copy it there.
        sizes: how many different positions of each patch these are.
    """

    size: tuple[int, int]
    positions: Tensor
    sizes: tuple[int, ...]

    def split(self, vectors: Tensor) -> Tensor:
        """(B, L, C) to (P, B·S, C)."""
        n_patches, n_positions = self.positions.shape
        taken = vectors[:, self.positions.flatten()]
        return taken.unflatten(1, (n_patches, n_positions)).transpose(0, 1).flatten(1, 2)


@kept(maxsize=64)
def patch_grid(height: int, width: int, n: int, device: str = "cpu", step: int = 1) -> PatchGrid:
    """Cut a map into n × n patches, or as many as it has rows and columns; of each, every `step`-th row and column."""
    rows = [part[::step] for part in np.array_split(np.arange(height), min(n, height))]
    columns = [part[::step] for part in np.array_split(np.arange(width), min(n, width))]
    patches = [(r[:, None] * width + c).ravel() for r in rows for c in columns]
    largest = max(map(len, patches))
    table = [np.concatenate([p, np.full(largest - len(p), p[0])]) for p in patches]
    positions = torch.from_numpy(np.stack(table).astype(np.int64)).to(device)
    return PatchGrid((height, width), positions, tuple(map(len, patches)))


@dataclass(frozen=True)
class PatchBank:
    """The memory of one layer, laid out for the search: patches with about as many keys are searched together.

    Attributes:
        size: (height, width) of the map; of several tiles, whose maps stand below each other.
        positions: int64 (P·S,), the positions of all patches, those of the first run first.
        place_of: int64 (L,), where each position stands among those.
        runs: the keys (P_r, k, C + 1) of consecutive patches, from `searchable`; `padded` to the largest number.
        n_fewest: how many keys the patch with the fewest has.
        n_tiles: of how many tiles this is the memory.
    """

    size: tuple[int, int]
    positions: Tensor
    place_of: Tensor
    runs: list[Tensor]
    n_fewest: int
    n_tiles: int = 1

    @property
    def n_patches(self) -> int:
        """P."""
        return sum(map(len, self.runs))

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of one map."""
        return self.size[0] // self.n_tiles, self.size[1]

    def distances(self, vectors: Tensor) -> Tensor:
        """(B, L, C) to the distance of each from the nearest key of its patch, (B, L); with tiles, (B·T, L / T, …)."""
        pictures = vectors.reshape(-1, len(self.place_of), vectors.shape[2])
        # Every position beside the same one of the other pictures: one copy makes the queries of all patches.
        taken = extended(pictures).transpose(0, 1).index_select(0, self.positions)  # (P·S, B, C + 1)
        queries = taken.view(self.n_patches, -1, taken.shape[2])
        closeness = largest_products(queries, self.runs)
        by_picture = closeness.view(len(self.positions), -1)[self.place_of].T  # (B, L)
        return distances_from(by_picture, pictures).reshape(vectors.shape[:2])

    def few_nearest(self, vectors: Tensor, positions: Tensor, n: int) -> Tensor:
        """Distances (B, n) of each picture's vector at its position (B,) from the n nearest keys of its patch."""
        rows = torch.arange(len(vectors), device=vectors.device)
        chosen = vectors[rows, positions]  # (B, C)
        n_positions = len(self.positions) // self.n_patches
        patch = self.place_of[positions + rows % self.n_tiles * vectors.shape[1]] // n_positions
        found, first = chosen.new_zeros(len(chosen), min(n, self.n_fewest)), 0
        for keys in self.runs:
            is_here = (patch >= first) & (patch < first + len(keys))
            if may_count(keys.device):
                here = is_here.nonzero()[:, 0]
                memories = keys if len(keys) == 1 else keys[patch[here] - first]
                found[here] = few_nearest_distances(chosen[here], memories, found.shape[1])
            else:  # of every vector, as if its patch were here
                memories = keys if len(keys) == 1 else keys[(patch - first).clamp(0, len(keys) - 1)]
                found = torch.where(is_here[:, None], few_nearest_distances(chosen, memories, found.shape[1]), found)
            first += len(keys)
        return found


def may_count(device: torch.device) -> bool:
    """Whether work may depend on how many values meet a condition.

    A GPU would have to be waited for to know how many, and in what is written down for another runtime it is always the
    same number.
    """
    return device.type == "cpu" and not is_traced()


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
        return FapmLearner(self.config, self._learned_grids(shape), n_images, self.statistics_device, state)

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
            # Of all positions, from which models were learned before there were `steps`.
            n_patches, most = len(grid.sizes), 2 * sum(key_counts(self.config.coreset_ratio, n_images, grid))
            layout[f"keys_{i}"] = ((range(n_patches, most + 1), length), torch.float32)
            layout[f"counts_{i}"] = ((n_patches,), torch.int64)
            layout[f"radii_{i}"] = ((n_patches,), torch.float32)
        return layout

    def cost(self, shape: WorkingShape, n_images: int) -> Cost:
        config, seconds, sizes, state_bytes = self.config, 0.0, [], 0.0
        more = 1 + USUAL_SELECTED_AGAIN * (config.adaptive and config.patch_wise)
        for grid, length in zip(self._learned_grids(shape), self._lengths(), strict=True):
            n_patches, n_positions = grid.positions.shape
            n_vectors, n_keys = n_images * n_positions, key_counts(config.coreset_ratio, n_images, grid)
            seconds += estimate_seconds(n_patches, n_vectors, length, n_keys[0], self.statistics_device)
            if config.adaptive and n_patches > 1:
                n_again = max(1, round(USUAL_SELECTED_AGAIN * n_patches))
                seconds += estimate_seconds(n_again, n_vectors, length, n_keys[0], self.statistics_device)
            sizes.append(4 * n_patches * n_vectors * length)
            state_bytes += more * 4 * length * sum(n_keys)
        # All vectors, and for the layer at work its norms, distances and the patches that are selected again.
        held = sum(sizes) + max(s * (3 / c + 0.4) for s, c in zip(sizes, self._lengths(), strict=True))
        return Cost(seconds, round(held), round(state_bytes))

    def details(self, state: State, shape: WorkingShape) -> dict[str, str]:
        found, n_images = {}, int(state["n_images"])
        for i, (threshold, grid) in enumerate(
            zip(state["thresholds"].tolist(), self._learned_grids(shape), strict=True)
        ):
            radii, n_keys = state[f"radii_{i}"], len(state[f"keys_{i}"])
            counts = key_counts(self.config.coreset_ratio, n_images, grid)
            again = int((state[f"counts_{i}"].cpu() > torch.tensor(counts)).sum()) if self.config.adaptive else 0
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

    def _learned_grids(self, shape: WorkingShape) -> list[PatchGrid]:
        """The positions that vectors are learned from."""
        n, device = self.config.grid if self.config.patch_wise else 1, str(self.statistics_device)
        steps = zip(self._grids(shape), self.config.steps(), strict=True)
        return [patch_grid(*grid.size, n, device, step) for grid, step in steps]


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
            vectors = vectors.to(bank.positions.device)
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

    An update goes on from the keys that are there, over the new vectors, until there are as many as a fit on all
    pictures would keep.
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
        self.before = resume_from
        self.n_images = n_images + (int(resume_from["n_images"]) if resume_from else 0)
        self.vectors: list[Tensor] = []  # of each bank: (P, n·S, C)
        self.filled = [0] * len(grids)

    def add(self, encoded: list[Tensor]) -> None:
        for i, (vectors, grid) in enumerate(zip(bank_vectors(encoded, self.config), self.grids, strict=True)):
            new = grid.split(vectors.to(self.device))
            if i == len(self.vectors):
                n_patches, n_positions = grid.positions.shape
                self.vectors.append(torch.empty(n_patches, self.n_new * n_positions, new.shape[2], device=self.device))
            self.vectors[i][:, self.filled[i] : self.filled[i] + new.shape[1]] = new
            self.filled[i] += new.shape[1]

    def finish(self, on_step: OnStep | None = None) -> State:
        state: State = {"n_images": torch.tensor(self.n_images)}
        thresholds = []
        wanted = [key_counts(self.config.coreset_ratio, self.n_images, grid) for grid in self.grids]
        total, done = 2 * sum(map(sum, wanted)), 0  # once, and once more where the ratio is doubled
        for i, n_keys in enumerate(wanted):
            vectors, self.vectors[i] = self.vectors[i], torch.empty(0)  # freed as soon as its keys are taken
            kept = _keys_by_patch(self.before, i) if self.before else [vectors[0, :0]] * len(vectors)
            keys, radii = self._extended(vectors, kept, n_keys, _shifted(on_step, done, total))
            if self.before:
                radii = torch.maximum(radii, self.before[f"radii_{i}"])
            threshold = self._threshold(radii)
            thresholds.append(threshold)
            if self.config.adaptive and (radii > threshold).any():
                again = (radii > threshold).nonzero()[:, 0]
                chosen = again.tolist()
                told = _shifted(on_step, done + sum(n_keys), total)
                twice = [2 * n_keys[p] for p in chosen]
                more, _ = self._extended(vectors[again], [keys[p] for p in chosen], twice, told)
                for p, patch_keys in zip(chosen, more, strict=True):
                    keys[p] = patch_keys
            done += 2 * sum(n_keys)
            if on_step is not None:
                on_step(done, total)
            counts = torch.tensor([len(patch_keys) for patch_keys in keys], device=self.device)
            state[f"keys_{i}"] = torch.cat([keys[p] for p in _order(counts)])
            state[f"counts_{i}"] = counts
            state[f"radii_{i}"] = radii
        return state | {"thresholds": torch.tensor(thresholds, device=self.device)}

    def _extended(
        self, vectors: Tensor, kept: list[Tensor], wanted: list[int], on_keys: Callable[[int], None] | None
    ) -> tuple[list[Tensor], Tensor]:
        """As many keys of each patch as wanted, those kept first, and the largest radius in each patch, (P,).

        Patches that keep equally many and want equally many go together.
        """
        keys, radii = list(kept), torch.empty(len(vectors), device=self.device)
        alike: dict[tuple[int, int], list[int]] = {}
        for p, n_keys in enumerate(wanted):
            alike.setdefault((len(kept[p]), max(0, n_keys - len(kept[p]))), []).append(p)
        done = 0
        for (n_kept, n_more), patches in sorted(alike.items()):
            group = vectors if len(patches) == len(vectors) else vectors[patches]
            before = torch.stack([kept[p] for p in patches]) if n_kept else None
            n_more = min(n_more, group.shape[1])
            if n_more == 0:  # there are as many already: of a model that was saved when more were kept
                radii[patches] = nearest_distances(group, searchable(before)).amax(1)
                continue
            told = _scaled(on_keys, done, len(patches) * n_more)
            coreset = greedy_k_centre(group, n_more, kept=before, on_pick=told)
            done += len(patches) * n_more
            for row, p in enumerate(patches):
                keys[p] = torch.cat([kept[p], group[row, coreset.indices[row]]])
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
    n_positions, order = grid.positions.shape[1], _order(counts)
    ordered = counts[order].tolist()
    parts, runs, first = keys.split(ordered), [], 0
    for last, n_keys in enumerate(ordered, 1):
        is_end = last == len(ordered)
        missing = 0 if is_end else ordered[last] * (last - first) - sum(ordered[first:last])
        if is_end or 2 * missing * n_positions * (keys.shape[1] + 1) > WORTH_A_RUN:
            runs.append(padded([searchable(part[None])[0] for part in parts[first:last]], n_keys))
            first = last
    positions = grid.positions[order].flatten()
    place_of = torch.empty(grid.size[0] * grid.size[1], dtype=torch.long, device=keys.device)
    place_of[positions] = torch.arange(len(positions), device=keys.device)
    return PatchBank(grid.size, positions, place_of, runs, ordered[0], n_tiles)

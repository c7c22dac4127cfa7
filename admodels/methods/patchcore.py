"""PatchCore: nearest neighbours in one memory of patch vectors, thinned by a greedy coreset.

Roth et al., "Towards total recall in industrial anomaly detection", 2022. B is a batch, L the positions of the finest
map used, K the vectors kept, C their length.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from admodels.core.method import Cost, Layout, Learner, OnStep, Scored, State, layout_bytes
from admodels.methods.backbone_method import BackboneConfig, BackboneMethod
from admodels.methods.coreset import estimate_seconds, greedy_k_centre
from admodels.methods.feature_maps import concatenate, count_padding_option, local_average, parse_layers, realign
from admodels.methods.neighbours import all_distances, nearest_distances, reweighted, searchable
from admodels.options import option
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.backbone_specs import backbone_spec

PROJECTED_LENGTH = 128  # of the vectors that the selection looks at (section 3.2)


@dataclass(frozen=True)
class PatchCoreConfig(BackboneConfig):
    """Options of PatchCore."""

    layers: str = option("8,16", "Strides of the feature maps used, concatenated at the finest.")
    coreset_ratio: float = option(
        0.01,
        "Fraction of the vectors to keep; the paper compares 0.01 and 0.1.",
        minimum=0.0001,
        maximum=1.0,
        common=True,
    )
    n_neighbors: int = option(
        9, "Neighbours used to re-weight the image score; 1 turns this off.", minimum=1, maximum=100
    )
    count_padding: bool = count_padding_option()

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_layers(self.layers, self.backbone)


class PatchCore(BackboneMethod):
    """One memory for all positions."""

    key = "patchcore"
    title = "PatchCore"
    summary = (
        "Remembers patches of good parts wherever they were seen. Best where parts are not aligned; "
        "the more it keeps, the slower it predicts."
    )
    Config = PatchCoreConfig
    config: PatchCoreConfig
    memory_advice = "lower image_size, drop the finest of layers, use fewer pictures, or use fapm"
    comparison: ClassVar = {"1 %": {"coreset_ratio": 0.01}, "10 %": {"coreset_ratio": 0.1}}

    def learner(self, shape: WorkingShape, n_images: int, state: State | None = None) -> Learner:
        return PatchCoreLearner(self.config, n_images, self.statistics_device, state)

    def scorer(self, state: State, shape: WorkingShape) -> "PatchCoreScorer":
        return PatchCoreScorer(self.config, state["keys"], searchable(state["keys"][None]), shape)

    def layout(self, shape: WorkingShape, n_images: int) -> Layout:
        n_positions, length = self._sizes(shape)
        n_keys = key_count(self.config.coreset_ratio, n_images * n_positions)
        return {"keys": ((n_keys, length), torch.float32), "n_vectors": ((), torch.int64)}

    def cost(self, shape: WorkingShape, n_images: int) -> Cost:
        n_positions, length = self._sizes(shape)
        n_vectors, projected = n_images * n_positions, min(length, PROJECTED_LENGTH)
        n_keys = key_count(self.config.coreset_ratio, n_vectors)
        seconds = estimate_seconds(1, n_vectors, projected, n_keys, self.statistics_device)
        # All vectors, their projections, and two numbers for each.
        return Cost(seconds, 4 * n_vectors * (length + projected + 2), layout_bytes(self.layout(shape, n_images)))

    def details(self, state: State, shape: WorkingShape) -> dict[str, str]:
        return {"memory": f"{len(state['keys']):,} of {int(state['n_vectors']):,} vectors"}

    def _sizes(self, shape: WorkingShape) -> tuple[int, int]:
        spec, indices = backbone_spec(self.config.backbone), parse_layers(self.config.layers, self.config.backbone)
        height, width = spec.map_sizes(shape.cropped)[indices[0]]
        return height * width, sum(spec.channels[i] for i in indices)


def concatenated(encoded: list[Tensor], config: PatchCoreConfig) -> Tensor:
    """Locally averaged maps, concatenated: (B, L, C) (section 3.1)."""
    return concatenate(
        [local_average(encoded[i], config.count_padding) for i in parse_layers(config.layers, config.backbone)]
    )


def key_count(ratio: float, n_vectors: int) -> int:
    """How many vectors are kept."""
    return max(1, round(ratio * n_vectors))


@dataclass(frozen=True, eq=False)
class PatchCoreScorer:
    """Distance from the nearest vector kept (section 3.3); the largest, re-weighted by eq. 7, is the image's."""

    config: PatchCoreConfig
    keys: Tensor  # (K, C)
    to_search: Tensor  # the same, from `searchable`
    shape: WorkingShape

    def __call__(self, encoded: list[Tensor]) -> Scored:
        config, keys = self.config, self.keys
        vectors = concatenated(encoded, config).to(keys.device)  # (B, L, C)
        distances = nearest_distances(vectors.flatten(0, 1)[None], self.to_search)[0].unflatten(0, vectors.shape[:2])
        largest, position = distances.max(1)
        winner = vectors[torch.arange(len(vectors), device=keys.device), position]  # (B, C)
        to_keys = all_distances(winner, self.to_search[0])  # (B, K)
        around = all_distances(keys[to_keys.argmin(1)], self.to_search[0])
        nearest = around.topk(min(config.n_neighbors, len(keys)), largest=False).indices  # its own first
        size = encoded[parse_layers(config.layers, config.backbone)[0]].shape[-2:]
        maps = realign(distances.unflatten(1, size), self.shape.cropped)
        return Scored(reweighted(largest, to_keys.gather(1, nearest)), maps)


class PatchCoreLearner(Learner):
    """Collects all vectors, then selects; an update goes on from the keys that are there, over the new vectors."""

    stage = "selecting the coreset"

    def __init__(
        self, config: PatchCoreConfig, n_images: int, device: torch.device, resume_from: State | None = None
    ) -> None:
        self.config, self.n_images, self.device = config, n_images, device
        self.kept = resume_from["keys"] if resume_from else None
        self.n_before = int(resume_from["n_vectors"]) if resume_from else 0
        self.vectors: Tensor | None = None
        self.filled = 0

    def add(self, encoded: list[Tensor]) -> None:
        new = concatenated(encoded, self.config)
        if self.vectors is None:
            self.vectors = torch.empty(self.n_images * new.shape[1], new.shape[2], device=self.device)
        new = new.flatten(0, 1)
        self.vectors[self.filled : self.filled + len(new)] = new
        self.filled += len(new)

    def finish(self, on_step: OnStep | None = None) -> State:
        n_vectors = self.n_before + self.filled
        n_keys = key_count(self.config.coreset_ratio, n_vectors) - (0 if self.kept is None else len(self.kept))
        parts = [] if self.kept is None else [self.kept]
        if n_keys > 0:
            projection = random_projection(self.vectors.shape[1]).to(self.device)
            kept = None if self.kept is None else (self.kept @ projection)[None]
            chosen = greedy_k_centre((self.vectors @ projection)[None], n_keys, kept=kept, on_pick=on_step).indices[0]
            parts.append(self.vectors[chosen])
        return {"keys": torch.cat(parts), "n_vectors": torch.tensor(n_vectors)}


def random_projection(length: int) -> Tensor:
    """A fixed random projection that keeps distances up to a few percent (Johnson and Lindenstrauss)."""
    if length <= PROJECTED_LENGTH:
        return torch.eye(length)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(length, PROJECTED_LENGTH, generator=generator) / PROJECTED_LENGTH**0.5

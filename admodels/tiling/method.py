"""A tiled ensemble: one model for each position of a grid of tiles, of any method.

Rolih et al., "Divide and conquer: high-resolution industrial anomaly detection via memory efficient tiled ensemble",
2024. T is the number of tiles, B a batch of pictures; where both stand in one dimension, picture by picture, B·T.

The paper's implementation runs the models one after the other, each with its own backbone. Here all tiles of a batch
pass through one backbone together, and methods that can (`Method.tile_scorer`) score all tiles by one product.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from admodels.core.batches import finish_progress, prepared_batches
from admodels.core.method import BATCH_SIZE, Cost, DetectorConfig, Layout, Method, Scored, Scorer, State
from admodels.core.results import OnProgress
from admodels.errors import OptionError
from admodels.methods.registry import METHODS
from admodels.options import make_options, option
from admodels.pictures.images import ImageLike
from admodels.pictures.working_shape import WorkingShape
from admodels.tiling.cluster import learn_tiles, turn_share
from admodels.tiling.grid import TileGrid, n_along, smoothed, tile_grid
from admodels.tiling.learner import TiledLearner, is_fixed, member_state, numbered, stacked_state

MERGES = ("mean", "max")
ENGINES = ("local", "ray")
MAX_TILES = 256
# A member's options that follow from the ensemble's.
OF_THE_TILES = ("image_size", "crop", "keep_aspect", "precision", "value_range")


@dataclass(frozen=True)
class TiledConfig(DetectorConfig):
    """Options of a tiled ensemble."""

    image_size: int = option(
        512,
        "Side in pixels to which pictures are resized before they are cut into tiles.",
        minimum=64,
        maximum=4096,
        common=True,
    )
    method: str = option("padim_isvd", "The method of every tile's model; its options are given as member.<option>.")
    member: dict = option({}, "Options of the tiles' method.")  # noqa: RUF009 - a field; each instance has its own
    tile_size: int = option(256, "Side of a tile in pixels.", minimum=32, maximum=2048, common=True)
    stride: int = option(
        128, "Step from one tile to the next; if smaller than tile_size, tiles overlap.", minimum=16, common=True
    )
    one_model: bool = option(False, "One model for all tiles, regardless of position (the paper's ST4 and ST9).")
    score_merge: str = option(
        "mean", "How the picture's score follows from its tiles' scores.", choices=MERGES, common=True
    )
    seam_smoothing: bool = option(True, "Blur the map only where tiles meet.")
    seam_width_ratio: float = option(
        0.1, "Width of that blur on each side of a seam, as a fraction of the tile's side.", minimum=0.0, maximum=0.5
    )
    seam_sigma: float = option(2.0, "Standard deviation of that blur, in pixels.", minimum=0.1, maximum=64)
    memory_limit_mib: int | None = option(None, "Use smaller batches to stay below this limit, in MiB.", minimum=16)
    engine: str = option(
        "local",
        "Where tiles are fitted: local, or as tasks of a Ray cluster (without folds; updates always run locally).",
        choices=ENGINES,
        for_all=("local",),
    )
    workers: int | None = option(
        None, "With ray: how many tiles are fitted at a time. Default: one per CPU.", minimum=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        side = self.crop or self.image_size
        if self.tile_size > side:
            raise OptionError(f"tile_size is {self.tile_size}, larger than the picture ({side}); make it smaller.")
        if self.stride > self.tile_size:
            raise OptionError(
                f"stride is {self.stride}, larger than tile_size {self.tile_size}: the gaps between tiles would never "
                "be checked. Make it smaller."
            )
        if self.one_model and self.engine == "ray":
            raise OptionError("one_model has a single model to fit, engine=ray fits several at a time. Use local.")
        n_tiles = n_along(side, self.tile_size, self.stride) ** 2
        if n_tiles > MAX_TILES:
            raise OptionError(f"{n_tiles} tiles are more than {MAX_TILES}; raise stride or tile_size.")
        member, cls = self.member_config(), _method(self.method).Config
        # As they were checked: text from a command line has become numbers, and defaults need no mention.
        given = _of_the_member(asdict(member))
        changed = {f.name: given[f.name] for f in fields(cls) if f.name in given and given[f.name] != f.default}
        object.__setattr__(self, "member", changed)

    def stored(self) -> dict[str, Any]:
        """With every option of the member."""
        return super().stored() | {"member": _of_the_member(self.member_config().stored())}

    @classmethod
    def from_stored(cls, values: Mapping[str, Any]) -> Self:
        """With the member's as they were."""
        member = values.get("member", {})
        if isinstance(member, Mapping):  # else the check of types says what is wrong
            member = _of_the_member(_method(values.get("method")).Config.from_stored(member).stored()) | dict(member)
        return super().from_stored({**values, "member": member})

    def member_config(self) -> DetectorConfig:
        """The options of one tile's model."""
        for name in OF_THE_TILES:
            if name in self.member:
                own = name if name in ("precision", "value_range") else "tile_size, image_size, crop and keep_aspect"
                raise OptionError(f"member.{name} follows from the ensemble's own {own}; set those.")
        values = {"image_size": max(self.tile_size, 64), "precision": self.precision}
        return make_options(_method(self.method).Config, dict(self.member) | values)


class TiledEnsemble(Method):
    """A method made of methods: its member's, one state for each tile."""

    key = "tiled"
    title = "Tiled ensemble"
    summary = (
        "Cuts large pictures into overlapping tiles, each with its own model. Small defects are seen at full "
        "resolution; the cost grows with the number of tiles."
    )
    Config = TiledConfig
    config: TiledConfig

    def __init__(
        self, config: TiledConfig | None = None, *, device: str | torch.device = "auto", time_share: float = 1.0
    ) -> None:
        super().__init__(config, device=device, time_share=time_share)
        cls = _method(self.config.method)
        share = time_share * turn_share(self.n_models, self.n_at_once)
        self.member = cls(self.config.member_config(), device=self.device, time_share=share)
        self.folds_by_default = cls.folds_by_default and self.config.engine == "local"
        self.learns_held_out, self.one_thread_mib = cls.learns_held_out, cls.one_thread_mib
        self.memory_advice = f"lower image_size, raise stride, or: {cls.memory_advice}"

    @property
    def network_name(self) -> str:
        """The members'."""
        return self.member.network_name

    @property
    def network_licence(self) -> str:
        """The members'."""
        return self.member.network_licence

    @property
    def engine_title(self) -> str:
        """The members'."""
        return self.member.engine_title

    @classmethod
    def titled(cls, config: TiledConfig) -> str:
        """With the members' method."""
        return f"{cls.title} of {_method(config.method).title}"

    @property
    def n_models(self) -> int:
        """One for each tile, or one for all of them."""
        config = self.config
        if config.one_model:
            return 1
        return n_along(config.crop or config.image_size, config.tile_size, config.stride) ** 2

    @property
    def n_at_once(self) -> int:
        """How many of them learn at a time; a cluster is taken to have as many CPUs as this machine."""
        if self.config.engine == "local":
            return 1
        n_cpus = os.cpu_count() or 1
        return min(self.n_models, n_cpus, self.config.workers or n_cpus)

    def check_shape(self, shape: WorkingShape) -> None:
        self.member.check_shape(self.grid(shape).tile_shape)

    def check_folds(self, n_folds: int) -> None:
        if n_folds and self.config.engine == "ray":
            raise OptionError(
                f"n_folds is {n_folds}; with engine=ray the tiles are fitted once, by the workers. Use n_folds=0 (one "
                "split), or engine=local."
            )

    def download_mib(self) -> float:
        """The members'."""
        return self.member.download_mib()

    def to_measure(self) -> Self:
        """With a member that downloads nothing."""
        other = copy(self)
        other.member = self.member.to_measure()
        return other

    def grid(self, shape: WorkingShape) -> TileGrid:
        """Where the tiles lie."""
        config = self.config
        return tile_grid(shape.cropped, config.crop or config.image_size, config.tile_size, config.stride)

    def batch_size(self, shape: WorkingShape) -> int:
        """Pictures at a time: fewer where memory_limit_mib asks for it."""
        if self.config.memory_limit_mib is None:
            return BATCH_SIZE
        grid = self.grid(shape)
        tile = grid.tile_shape
        # Pixels and features once as they come and once as they are used, and maps of the tiles and of the whole.
        of_tile = 2 * self.member.encoded_bytes(tile) + (2 * 4 * 3 + 3 * 4) * tile.cropped[0] * tile.cropped[1]
        return min(BATCH_SIZE, max(1, self.config.memory_limit_mib * 2**20 // (grid.n_tiles * of_tile)))

    def encode(self, batch: Tensor) -> list[Tensor]:
        """All tiles of all pictures in one pass: the member's tensors as (B, T, ...)."""
        return self.encode_with(self.member.encode, batch.to(self.device))

    def encode_with(self, encode: Callable[[Tensor], list[Tensor]], batch: Tensor) -> list[Tensor]:
        """The same, by another encoder of tiles."""
        size = tuple(batch.shape[1:3])
        tiles = self.grid(WorkingShape(size, size)).cut(batch)
        return [m.unflatten(0, (len(batch), -1)) for m in encode(tiles.flatten(0, 1))]

    def encoder(self) -> nn.Module:
        """Cuts tiles, and has the member's see them."""
        return _TilesEncoder(self, self.member.encoder())

    def encoded_bytes(self, shape: WorkingShape) -> int:
        """Of all tiles of a picture."""
        grid = self.grid(shape)
        return grid.n_tiles * self.member.encoded_bytes(grid.tile_shape)

    def learner(self, shape: WorkingShape, n_images: int, state: State | None = None) -> TiledLearner:
        tile, n_models, n_each = self._members(shape, n_images)
        states = [None if state is None else member_state(state, i) for i in range(n_models)]
        return TiledLearner([self.member.learner(tile, n_each, s) for s in states], self._stacked(shape))

    def learn(self, shape: WorkingShape, images: list[ImageLike], on_progress: OnProgress | None) -> State:
        """The state after all these pictures; tile by tile, so that a cluster's workers do exactly the same."""
        config, grid = self.config, self.grid(shape)
        if config.engine == "ray":
            states = learn_tiles(
                self.member, grid, shape, images, self.batch_size(shape), self.time_share, config.workers, on_progress
            )
            return stacked_state(states, self._stacked(shape))
        if config.one_model:
            return super().learn(shape, images, on_progress)
        learner = self.learner(shape, len(images))
        with torch.inference_mode():
            for batch in prepared_batches(images, shape, self.batch_size(shape), "learning", on_progress, self.device):
                batch = batch.to(self.device)  # once, not tile by tile
                for i, of_tile in enumerate(learner.learners):
                    of_tile.add(self.member.encode(grid.cut_one(batch, i)))
            return learner.finish(finish_progress(learner.stage, on_progress))

    def scorer(self, state: State, shape: WorkingShape) -> "TiledScorer":
        grid, config = self.grid(shape), self.config
        tile, n_models, _ = self._members(shape, 0)
        states = [member_state(state, i) for i in range(n_models)]
        joined = self.member.tile_scorer(states, state, tile) if n_models > 1 else None
        each = [self.member.scorer(s, tile) for s in states] if joined is None else []
        rows, columns = (at.to(self.statistics_device) for at in grid.seams(config.seam_width_ratio))
        has_seams = config.seam_smoothing and bool(len(rows) + len(columns))
        return TiledScorer(config, grid, joined, each, (rows, columns) if has_seams else None)

    def layout(self, shape: WorkingShape, n_images: int) -> Layout:
        tile, n_models, n_each = self._members(shape, n_images)
        layout: Layout = {}
        for name, (size, dtype) in self.member.layout(tile, n_each).items():
            if is_fixed(size):
                layout[name] = ((n_models, *size), dtype)
            else:
                layout |= {numbered(name, i): (size, dtype) for i in range(n_models)}
        return layout

    def cost(self, shape: WorkingShape, n_images: int) -> Cost:
        tile, n_models, n_each = self._members(shape, n_images)
        each = self.member.cost(tile, n_each)
        seconds = math.ceil(n_models / self.n_at_once) * each.seconds
        return Cost(seconds, n_models * each.learner_bytes, n_models * each.state_bytes)

    def details(self, state: State, shape: WorkingShape) -> dict[str, str]:
        grid = self.grid(shape)
        height, width = grid.tile
        models = "one model for all" if self.config.one_model else f"{grid.n_tiles} models"
        return {"tiles": f"{len(grid.rows)} × {len(grid.columns)} of {width}×{height} px, {models}"}

    def _stacked(self, shape: WorkingShape) -> set[str]:
        """Names of tensors whose shape is the same for every model."""
        layout = self.member.layout(self.grid(shape).tile_shape, 1)
        return {name for name, (size, _) in layout.items() if is_fixed(size)}

    def _members(self, shape: WorkingShape, n_images: int) -> tuple[WorkingShape, int, int]:
        """What each model works on, how many there are, and of how many pictures each learns."""
        grid = self.grid(shape)
        n_models, n_each = (1, grid.n_tiles * n_images) if self.config.one_model else (grid.n_tiles, n_images)
        return grid.tile_shape, n_models, n_each


class _TilesEncoder(nn.Module):
    def __init__(self, ensemble: TiledEnsemble, of_tiles: nn.Module) -> None:
        super().__init__()
        self.ensemble, self.of_tiles = ensemble, of_tiles

    def forward(self, batch: Tensor) -> list[Tensor]:
        return self.ensemble.encode_with(self.of_tiles, batch)


@dataclass(frozen=True, eq=False)
class TiledScorer:
    """Eq. 4 and 5; the parts are the map before seams were smoothed, and those of the method itself.

    Attributes:
        joined: scores all tiles at once; None where the method cannot.
        each: else, the scorer of each tile; one for all of them with one_model.
        seams: rows and columns along which the map is smoothed; None where it is not.
    """

    config: TiledConfig
    grid: TileGrid
    joined: Scorer | None
    each: list[Scorer]
    seams: tuple[Tensor, Tensor] | None

    def __call__(self, encoded: list[Tensor]) -> Scored:
        grid, config = self.grid, self.config
        found = self._tiles([m.flatten(0, 1) for m in encoded])
        tile_scores = found.scores.unflatten(0, (-1, grid.n_tiles))
        scores = tile_scores.mean(1) if config.score_merge == "mean" else tile_scores.amax(1)
        parts = {name: self._merged(part) for name, part in found.parts.items()}
        maps = self._merged(found.maps)
        if self.seams is not None:
            parts["unsmoothed"] = maps
            maps = smoothed(maps, *self.seams, config.seam_sigma)
        return Scored(scores, maps, parts, tile_scores.unflatten(1, (len(grid.rows), -1)))

    def _tiles(self, flat: list[Tensor]) -> Scored:
        """What the member says of tiles (B·T, ...): everything with B·T in front."""
        if self.joined is not None:
            return self.joined(flat)
        if len(self.each) == 1:
            return self.each[0](flat)
        n = len(self.each)
        found = [scorer([m[i::n] for m in flat]) for i, scorer in enumerate(self.each)]

        def together(parts: Sequence[Tensor]) -> Tensor:
            return torch.stack(parts, 1).flatten(0, 1)

        names = found[0].parts
        parts = {name: together([f.parts[name] for f in found]) for name in names}
        return Scored(together([f.scores for f in found]), together([f.maps for f in found]), parts)

    def _merged(self, maps: Tensor) -> Tensor:
        """Maps of tiles (B·T, h, w), of any size, to maps of pictures."""
        grid = self.grid
        if grid.n_tiles == 1 and grid.tile == grid.size:
            return maps  # as the single model gives them
        if maps.shape[1:] != grid.tile:
            maps = F.interpolate(maps[:, None], grid.tile, mode="bilinear", align_corners=False)[:, 0]
        return grid.merge(maps.unflatten(0, (-1, grid.n_tiles)))


def _of_the_member(options: dict[str, Any]) -> dict[str, Any]:
    """Those that do not follow from the ensemble's."""
    return {name: value for name, value in options.items() if name not in OF_THE_TILES}


def _method(name: str) -> type[Method]:
    if name not in METHODS:
        raise OptionError(f"method is {name!r}; expected one of {', '.join(METHODS)}.")
    return METHODS[name]

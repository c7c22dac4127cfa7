"""A tiled ensemble: one model for each position of a grid of tiles, of any method.

Rolih et al., "Divide and conquer: high-resolution industrial anomaly detection via memory efficient tiled ensemble",
2024. T is the number of tiles, B a batch of pictures; where both stand in one dimension, picture by picture, B·T.

The paper's implementation runs the models one after the other, each with its own backbone. Here all tiles of a batch
pass through one backbone together, and methods that can (`Detector.ready_tiles`) score all tiles by one product.
"""

import math
import os
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from admodels.core.detector import BATCH_SIZE, Detector, DetectorConfig, Layout, Learner, OnStep, Scored, State
from admodels.core.results import OnProgress
from admodels.errors import Cancelled, Enough, OptionError
from admodels.methods.feature_maps import blur_matrix
from admodels.options import make_options, option
from admodels.pictures.images import ImageLike
from admodels.pictures.working_shape import WorkingShape
from admodels.tiling.cluster import learn_tiles

MERGES = ("mean", "max")
ENGINES = ("local", "ray")
MAX_TILES = 256
# A member's options that follow from the ensemble's.
OF_THE_TILES = ("image_size", "crop", "keep_aspect", "precision", "value_range")


@dataclass(frozen=True)
class TiledConfig(DetectorConfig):
    """Options of a tiled ensemble."""

    image_size: int = option(512, "Side in pixels at which pictures are cut into tiles.", minimum=64, maximum=4096)
    method: str = option("padim_isvd", "The method of every tile's model; its options are given as member.<option>.")
    member: dict = option({}, "Options of the tiles' method.")  # noqa: RUF009 - a field; each instance has its own
    tile_size: int = option(256, "Side of a tile in pixels.", minimum=32, maximum=2048)
    stride: int = option(128, "From one tile to the next; smaller than tile_size, tiles overlap.", minimum=16)
    one_model: bool = option(False, "One model for all tiles, wherever they lie (the paper's ST4 and ST9).")
    score_merge: str = option("mean", "The picture's score from those of its tiles.", choices=MERGES)
    seam_smoothing: bool = option(True, "Blur the map where tiles meet, and only there.")
    seam_width_ratio: float = option(
        0.1, "How far from a seam, as a fraction of the tile's side.", minimum=0.0, maximum=0.5
    )
    seam_sigma: float = option(2.0, "Of that blur, in pixels.", minimum=0.1, maximum=64)
    memory_limit_mib: int | None = option(
        None, "Take fewer pictures at a time, so that a batch stays below it.", minimum=16
    )
    engine: str = option(
        "local",
        "Where tiles are fitted: here, or as tasks of a Ray cluster. Without folds; an update is always done here.",
        choices=ENGINES,
        for_all=("local",),
    )
    workers: int | None = option(
        None, "With ray: how many tiles are fitted at a time; where none are given, one for each CPU.", minimum=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        side = self.crop or self.image_size
        if self.tile_size > side:
            raise OptionError(f"tile_size is {self.tile_size}, larger than the picture ({side}); make it smaller.")
        if self.stride > self.tile_size:
            raise OptionError(
                f"stride is {self.stride}, larger than tile_size {self.tile_size}: what lies between two tiles would "
                "never be looked at. Make it smaller."
            )
        if self.one_model and self.engine == "ray":
            raise OptionError("one_model has a single model to fit, engine=ray fits several at a time. Use local.")
        n_tiles = _count(side, self.tile_size, self.stride) ** 2
        if n_tiles > MAX_TILES:
            raise OptionError(f"{n_tiles} tiles are more than {MAX_TILES}; raise stride or tile_size.")
        member, cls = self.member_config(), _method(self.method).Config
        # As they were checked: text from a command line has become numbers, and defaults need no mention.
        given = {f.name: getattr(member, f.name) for f in fields(cls) if f.name not in OF_THE_TILES}
        changed = {f.name: given[f.name] for f in fields(cls) if f.name in given and given[f.name] != f.default}
        object.__setattr__(self, "member", changed)

    def member_config(self) -> DetectorConfig:
        """The options of one tile's model."""
        for name in OF_THE_TILES:
            if name in self.member:
                own = name if name in ("precision", "value_range") else "tile_size, image_size, crop and keep_aspect"
                raise OptionError(f"member.{name} follows from the ensemble's own {own}; set those.")
        values = {"image_size": max(self.tile_size, 64), "precision": self.precision}
        return make_options(_method(self.method).Config, dict(self.member) | values)


class TileGrid(NamedTuple):
    """Where tiles lie, in pixels of the picture as it is looked at (eq. 1 and 2).

    Attributes:
        size: height and width of the picture.
        tile: height and width of every tile.
        rows, columns: where they start. The last may end beyond the picture, which is padded with zeros there.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def n_tiles(self) -> int:
        """T."""
        return len(self.rows) * len(self.columns)

    @property
    def starts(self) -> list[tuple[int, int]]:
        """Top and left of each tile, row by row."""
        return [(top, left) for top in self.rows for left in self.columns]

    @property
    def tile_shape(self) -> WorkingShape:
        """What the model of a tile works on."""
        return WorkingShape(self.tile, self.tile)

    def cut(self, batch: Tensor) -> Tensor:
        """(B, H, W, ...) to tiles (B, T, h, w, ...)."""
        return torch.stack([self.cut_one(batch, i) for i in range(self.n_tiles)], 1)

    def cut_one(self, batch: Tensor, i: int) -> Tensor:
        """The i-th tile of (B, H, W, ...); a view where nothing is padded."""
        (top, left), (height, width) = self.starts[i], self.tile
        tile = batch[:, top : top + height, left : left + width]
        below, right = height - tile.shape[1], width - tile.shape[2]
        return F.pad(tile, (0, 0) * (batch.dim() - 3) + (0, right, 0, below)) if below or right else tile

    def merge(self, maps: Tensor) -> Tensor:
        """Maps of tiles (B, T, h, w) to maps (B, H, W): the mean where tiles overlap (section 3.3)."""
        (height, width), count = self.tile, coverage(self, str(maps.device))
        total = maps.new_zeros(len(maps), *count.shape)
        for i, (top, left) in enumerate(self.starts):
            total[:, top : top + height, left : left + width] += maps[:, i]
        return (total / count)[:, : self.size[0], : self.size[1]]

    def seams(self, width_ratio: float) -> tuple[Tensor, Tensor]:
        """Rows and columns, int64, at most `width_ratio` of a tile's side from a border between tiles."""
        near = []
        for starts, side, full in zip((self.rows, self.columns), self.tile, self.size, strict=True):
            borders = {at for start in starts for at in (start, start + side) if 0 < at < full}
            band, at = round(width_ratio * side), torch.arange(full)
            beside = sum(((at >= b - band) & (at < b + band) for b in borders), torch.zeros(full, dtype=torch.bool))
            near.append(beside.nonzero()[:, 0])
        return near[0], near[1]


@lru_cache(maxsize=64)
def coverage(grid: TileGrid, device: str = "cpu") -> Tensor:
    """How many tiles lie over each pixel, float32, of the picture with its padding."""
    (height, width), (bottom, right) = grid.tile, grid.starts[-1]
    with torch.inference_mode(False):  # a cached inference tensor could not be used outside inference mode
        count = torch.zeros(max(bottom + height, grid.size[0]), max(right + width, grid.size[1]), device=device)
        for top, left in grid.starts:
            count[top : top + height, left : left + width] += 1
    return count


@lru_cache(maxsize=64)
def tile_grid(size: tuple[int, int], side: int, tile_size: int, stride: int) -> TileGrid:
    """Cut a picture of `size` as a square of `side` would be cut by `tile_size` and `stride`.

    A picture that is not square gets tiles of its own shape, and as many.
    """
    n = _count(side, tile_size, stride)
    starts, tile = [], []
    for full in size:
        step = -(-full * stride // side)
        starts.append(tuple(i * step for i in range(n)))
        tile.append(-(-full * tile_size // side))
    return TileGrid(size, (tile[0], tile[1]), *starts)


def _count(side: int, tile_size: int, stride: int) -> int:
    """Tiles along a side; the last may reach beyond it."""
    return 1 + math.ceil((side - tile_size) / stride)


class Ready(NamedTuple):
    """A fitted state as `score` wants it.

    Attributes:
        joined: what the method scores all tiles with at once; None where it cannot.
        models: else, what it scores one tile with, for each tile; one for all of them with one_model.
        seams: rows and columns along which the map is smoothed; None where it is not.
    """

    grid: TileGrid
    joined: Any
    models: list[Any]
    seams: tuple[Tensor, Tensor] | None


class TiledEnsemble(Detector):
    """A detector made of detectors."""

    key = "tiled"
    title = "Tiled ensemble"
    summary = (
        "Cuts large pictures into overlapping tiles, each with a model of its own: small defects are seen at full "
        "resolution, for as many times the cost as there are tiles."
    )
    Config = TiledConfig
    config: TiledConfig

    def __init__(self, config: TiledConfig | None = None, *, device: str | torch.device = "auto") -> None:
        super().__init__(config, device=device)
        cls = _method(self.config.method)
        self.member = cls(self.config.member_config(), device=self.device)
        self.take_turns(self.n_at_once)
        self.folds_by_default = cls.folds_by_default and self.config.engine == "local"
        self.memory_advice = f"lower image_size, raise stride, or: {cls.memory_advice}"

    @property
    def network_name(self) -> str:
        """The members'."""
        return self.member.network_name

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
        return _count(config.crop or config.image_size, config.tile_size, config.stride) ** 2

    @property
    def n_at_once(self) -> int:
        """How many of them learn at a time; a cluster is taken to have as many CPUs as this machine."""
        if self.config.engine == "local":
            return 1
        n_cpus = os.cpu_count() or 1
        return min(self.n_models, n_cpus, self.config.workers or n_cpus)

    def take_turns(self, n_at_once: int) -> None:
        """Give each model the part of a fit's minutes that is left for it where so many learn at a time."""
        self.member.time_share = 1 / math.ceil(self.n_models / n_at_once)

    def check_shape(self, shape: WorkingShape) -> None:
        self.member.check_shape(self.grid(shape).tile_shape)

    def to_download_mib(self) -> float:
        """The members'."""
        return self.member.to_download_mib()

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
        grid = self.grid(WorkingShape(tuple(batch.shape[1:3]), tuple(batch.shape[1:3])))
        tiles = grid.cut(batch.to(self.device))
        return [m.unflatten(0, (len(batch), -1)) for m in self.member.encode(tiles.flatten(0, 1))]

    def encoded_bytes(self, shape: WorkingShape) -> int:
        """Of all tiles of a picture."""
        grid = self.grid(shape)
        return grid.n_tiles * self.member.encoded_bytes(grid.tile_shape)

    def new_learner(self, shape: WorkingShape, n_images: int) -> "TiledLearner":
        tile, n_models, n_each = self._members(shape, n_images)
        return TiledLearner([self.member.new_learner(tile, n_each) for _ in range(n_models)], self._stacked(shape))

    def learn(self, shape: WorkingShape, images: list[ImageLike], on_progress: OnProgress | None) -> State:
        """The state after all these pictures; tile by tile, so that a cluster's workers do exactly the same."""
        if self.config.engine == "ray":
            return stacked_state(learn_tiles(self, shape, images, on_progress), self._stacked(shape))
        if self.config.one_model:
            return super().learn(shape, images, on_progress)
        grid = self.grid(shape)
        with torch.inference_mode():
            learner = self.new_learner(shape, len(images))
            for batch in self._prepared_batches(shape, images, "learning", on_progress):
                for i, of_tile in enumerate(learner.learners):
                    of_tile.add(self.member.encode(grid.cut_one(batch, i)))
            return learner.finish(self._on_finishing(learner.stage, on_progress))

    def resumed_learner(self, shape: WorkingShape, state: State, n_images: int) -> Learner:
        tile, n_models, n_each = self._members(shape, n_images)
        states = [member_state(state, i) for i in range(n_models)]
        return TiledLearner([self.member.resumed_learner(tile, s, n_each) for s in states], self._stacked(shape))

    def score(self, encoded: list[Tensor], ready: Ready) -> tuple[Tensor, Tensor]:
        return self.score_parts(encoded, ready)[:2]

    def score_parts(self, encoded: list[Tensor], ready: Ready) -> Scored:
        """Eq. 4 and 5; the parts are the map before seams were smoothed, and those of the method itself."""
        grid, config = ready.grid, self.config
        found = self._scored_tiles([m.flatten(0, 1) for m in encoded], ready)
        tile_scores = found.scores.unflatten(0, (-1, grid.n_tiles))
        scores = tile_scores.mean(1) if config.score_merge == "mean" else tile_scores.amax(1)
        parts = {name: self._merged(part, grid) for name, part in found.parts.items()}
        maps = self._merged(found.maps, grid)
        if ready.seams is not None:
            parts["unsmoothed"] = maps
            maps = smoothed(maps, *ready.seams, config.seam_sigma)
        return Scored(scores, maps, parts, tile_scores.unflatten(1, (len(grid.rows), -1)))

    def ready(self, state: State, shape: WorkingShape) -> Ready:
        grid, config = self.grid(shape), self.config
        tile, n_models, _ = self._members(shape, 0)
        states = [member_state(state, i) for i in range(n_models)]
        joined = self.member.ready_tiles(states, state, tile) if n_models > 1 else None
        models = [self.member.ready(s, tile) for s in states] if joined is None else []
        rows, columns = (at.to(self.statistics_device) for at in grid.seams(config.seam_width_ratio))
        has_seams = config.seam_smoothing and bool(len(rows) + len(columns))
        return Ready(grid, joined, models, (rows, columns) if has_seams else None)

    def state_layout(self, shape: WorkingShape, n_images: int) -> Layout:
        tile, n_models, n_each = self._members(shape, n_images)
        layout: Layout = {}
        for name, (size, dtype) in self.member.state_layout(tile, n_each).items():
            if _is_fixed(size):
                layout[name] = ((n_models, *size), dtype)
            else:
                layout |= {_numbered(name, i): (size, dtype) for i in range(n_models)}
        return layout

    def state_bytes(self, shape: WorkingShape, n_images: int) -> int:
        tile, n_models, n_each = self._members(shape, n_images)
        return n_models * self.member.state_bytes(tile, n_each)

    def learner_bytes(self, shape: WorkingShape, n_images: int) -> int:
        tile, n_models, n_each = self._members(shape, n_images)
        return n_models * self.member.learner_bytes(tile, n_each)

    def learning_seconds(self, shape: WorkingShape, n_images: int) -> float:
        tile, n_models, n_each = self._members(shape, n_images)
        return math.ceil(n_models / self.n_at_once) * self.member.learning_seconds(tile, n_each)

    def details(self) -> dict[str, str]:
        grid = self.grid(self.working_shape_)
        _, n_models, _ = self._members(self.working_shape_, 0)
        height, width = grid.tile
        models = "one model for all" if self.config.one_model else f"{n_models} models"
        return {"tiles": f"{len(grid.rows)} × {len(grid.columns)} of {width}×{height} px, {models}"}

    def _n_folds(self, asked: int | None, n_images: int, shape: WorkingShape) -> int:
        if asked and self.config.engine == "ray":
            raise OptionError(
                f"n_folds is {asked}; with engine=ray the tiles are fitted once, by the workers. Use n_folds=0 (one "
                "split), or engine=local."
            )
        return super()._n_folds(asked, n_images, shape)

    def _stacked(self, shape: WorkingShape) -> set[str]:
        """Names of tensors whose shape is the same for every model."""
        layout = self.member.state_layout(self.grid(shape).tile_shape, 1)
        return {name for name, (size, _) in layout.items() if _is_fixed(size)}

    def _members(self, shape: WorkingShape, n_images: int) -> tuple[WorkingShape, int, int]:
        """What each model works on, how many there are, and of how many pictures each learns."""
        grid = self.grid(shape)
        n_models, n_each = (1, grid.n_tiles * n_images) if self.config.one_model else (grid.n_tiles, n_images)
        return grid.tile_shape, n_models, n_each

    def _scored_tiles(self, flat: list[Tensor], ready: Ready) -> Scored:
        """What the member says of tiles (B·T, ...): everything with B·T in front."""
        if ready.joined is not None:
            return self.member.score_parts(flat, ready.joined)
        if len(ready.models) == 1:
            return self.member.score_parts(flat, ready.models[0])
        n = len(ready.models)
        found = [self.member.score_parts([m[i::n] for m in flat], model) for i, model in enumerate(ready.models)]

        def together(parts: Sequence[Tensor]) -> Tensor:
            return torch.stack(parts, 1).flatten(0, 1)

        names = found[0].parts
        parts = {name: together([f.parts[name] for f in found]) for name in names}
        return Scored(together([f.scores for f in found]), together([f.maps for f in found]), parts)

    def _merged(self, maps: Tensor, grid: TileGrid) -> Tensor:
        """Maps of tiles (B·T, h, w), of any size, to maps of pictures."""
        if grid.n_tiles == 1 and grid.tile == grid.size:
            return maps  # as the single model gives them
        if maps.shape[1:] != grid.tile:
            maps = F.interpolate(maps[:, None], grid.tile, mode="bilinear", align_corners=False)[:, 0]
        return grid.merge(maps.unflatten(0, (-1, grid.n_tiles)))


def smoothed(maps: Tensor, rows: Tensor, columns: Tensor, sigma: float) -> Tensor:
    """Maps (B, H, W) with these rows and columns blurred by a Gaussian of `sigma` pixels, and nothing else."""
    down, across = (blur_matrix(side, side, sigma, str(maps.device)) for side in maps.shape[1:])
    result = maps.clone()
    result[:, rows] = down[rows] @ maps @ across.T
    result[:, :, columns] = down @ (maps @ across[columns].T)
    return result


class TiledLearner(Learner):
    """Hands every tile to its learner; one learner gets them all.

    Args:
        stacked: names of the state's tensors that are kept as one for all tiles.
    """

    def __init__(self, learners: list[Learner], stacked: set[str]) -> None:
        self.learners: list[Learner | None] = list(learners)
        self.stacked = stacked
        self.stage = learners[0].stage

    def add(self, encoded: list[Tensor]) -> None:
        if len(self.learners) == 1:
            self.learners[0].add([m.flatten(0, 1) for m in encoded])
            return
        for i, learner in enumerate(self.learners):
            learner.add([m[:, i] for m in encoded])

    def finish(self, on_step: OnStep | None = None) -> State:
        states, steps = [], _StepsOfTiles(on_step, len(self.learners))
        for i, learner in enumerate(self.learners):
            self.learners[i] = None  # what it collected is freed before the next one needs room
            states.append(learner.finish(steps.told_by(i)))
        return stacked_state(states, self.stacked)


def stacked_state(states: list[State], stacked: set[str]) -> State:
    """The states of all models as one; those are emptied. `member_state` takes it apart."""
    state: State = {}
    for name in list(states[0]):
        tensors = [s.pop(name) for s in states]
        if name in stacked:
            state[name] = torch.stack(tensors)
        else:
            state |= {_numbered(name, i): tensor for i, tensor in enumerate(tensors)}
    return state


def member_state(state: State, i: int) -> State:
    """The state of one model, without a copy."""
    found = {}
    for name, tensor in state.items():
        own, _, number = name.rpartition("@")
        if not own:
            found[name] = tensor[i]
        elif int(number) == i:
            found[own] = tensor
    return found


def _is_fixed(size: tuple[int | range, ...]) -> bool:
    return all(isinstance(dim, int) for dim in size)


def _numbered(name: str, i: int) -> str:
    return f"{name}@{i}"


class _StepsOfTiles:
    """Progress of n tiles, one after the other, as that of all; an ensemble is of use when all of them have learned."""

    def __init__(self, on_step: OnStep | None, n: int) -> None:
        self.on_step, self.n = on_step, n
        self.n_before = self.n_done = 0  # steps of the tiles before, and with this one's

    def told_by(self, i: int) -> OnStep | None:
        """What the i-th tile tells its progress to."""
        self.n_before = self.n_done
        if self.on_step is None:
            return None

        def told(done: int, total: int, *loss: float) -> None:
            self.n_done = self.n_before + done
            try:
                # Tiles that train for a time do not know the others' steps: those to come are taken to be as many.
                self.on_step(self.n_done, self.n_before + (self.n - i) * total, *loss)
            except Enough as error:
                if i + 1 < self.n:
                    raise Cancelled(
                        f"stopped at tile {i + 1} of {self.n}, and the others have not learned yet"
                    ) from error
                raise

        return told


def _method(name: str) -> type[Detector]:
    from admodels import METHODS  # the registry imports every method; at the top this would be a circle

    if name not in METHODS:
        raise OptionError(f"method is {name!r}; expected one of {', '.join(METHODS)}.")
    return METHODS[name]

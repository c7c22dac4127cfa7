"""What the methods share that train a network on the feature maps of a frozen backbone.

The backbone sees each picture once: its maps are kept, and a training step costs the trained part only.
"""

import math
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from admodels.core.method import Cost, Layout, Learner, OnStep, Scored, State, layout_bytes
from admodels.methods.backbone_method import BackboneConfig, BackboneMethod
from admodels.methods.feature_maps import parse_layers, realign
from admodels.options import option
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.backbone_specs import backbone_spec
from admodels.runtime.device import computing_in, statistics_device, trainable
from admodels.runtime.finite import are_finite
from admodels.runtime.memory import keepable_bytes
from admodels.runtime.quiet import quiet_seconds
from admodels.training.average import Average
from admodels.training.budget import Budget, Schedule, Seconds
from admodels.training.loop import (
    batches_without_end,
    before_the_first_step,
    diverged,
    rows,
    train,
    warmed_up_and_decayed,
)

AVERAGED = 0.25  # the last part of a training, whose weights are averaged
BLOCK = 16  # pictures whose maps are looked at together
PREFIX = "network."


@dataclass(frozen=True)
class TrainedConfig(BackboneConfig):
    """The options of every method that trains on a backbone's maps."""

    layers: str = option("8,16", "Strides of the feature maps used; 4 takes long and finds less.")
    max_steps: int | None = option(
        None,
        "Training steps. Default: the paper's on CUDA, elsewhere as many as help if max_minutes allows.",
        minimum=1,
        common=True,
    )
    max_minutes: float | None = option(
        None,
        "Time limit of the whole fit in minutes; training ends in time. Default without CUDA: 5.",
        minimum=0.05,
        common=True,
    )
    batch_size: int = option(8, "Pictures per training step; the papers have 16 and more.", minimum=2, maximum=256)
    learning_rate: float = option(1e-3, "Adam's highest learning rate.", minimum=1e-7, maximum=1.0)
    top_ratio: float = option(
        0.0,
        "Part of the map whose largest values are averaged to the image score; 0 takes the largest.",
        minimum=0,
        maximum=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_layers(self.layers, self.backbone)


class MapMoments(NamedTuple):
    """Of the maps of one layer.

    Attributes:
        n: how many pictures.
        mean, variance: over the pictures, (C, h, w), float32.
    """

    n: int
    mean: Tensor
    variance: Tensor


class TrainedNetwork(nn.Module):
    """What is trained: it takes those maps B×C×h×w that are used, from fine to coarse."""

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Set all weights and buffers, whose memory holds anything yet."""

    @abstractmethod
    def loss(self, maps: list[Tensor]) -> Tensor:
        """What a step makes smaller."""

    @abstractmethod
    def anomaly_maps(self, maps: list[Tensor]) -> list[Tensor]:
        """How unusual each position of each map is: (B, h, w), float32."""

    def look_at(self, moments: list[MapMoments]) -> None:
        """Take in, before the first step, what is needed to know of all pictures' maps."""

    def check(self) -> None:
        """Refuse weights that contradict themselves.

        Raises:
            ValueError: they do.
        """


class TrainedMethod(BackboneMethod):
    """A network that learns to describe the maps of good pictures."""

    Config: ClassVar[type[TrainedConfig]]
    config: TrainedConfig
    folds_by_default = False  # a training takes minutes
    learns_held_out = False
    one_thread_mib = 0.0  # its networks compute enough for all
    memory_advice = "lower image_size or batch_size"
    # Of each method:
    schedule: ClassVar[Schedule]
    numbers_held: ClassVar[float]  # in a training step, for each number of the batch's maps

    @abstractmethod
    def network(self, sizes: list[tuple[int, int, int]]) -> TrainedNetwork:
        """A network for maps of so many channels, of that height and width; its weights are `initialise`d later."""

    @abstractmethod
    def optimizer(self, network: TrainedNetwork) -> torch.optim.Optimizer:
        """The paper's."""

    def learner(self, shape: WorkingShape, n_images: int, state: State | None = None) -> "TrainedLearner":
        with torch.inference_mode(False):
            network = self._new_network(shape) if state is None else self._restored(state, shape)
        return TrainedLearner(self, network, shape, n_images, state)

    def scorer(self, state: State, shape: WorkingShape) -> "TrainedScorer":
        network = self._restored(state, shape).eval().requires_grad_(False)
        return TrainedScorer(network, self._indices, shape, self.dtype, self.config.top_ratio)

    def layout(self, shape: WorkingShape, n_images: int) -> Layout:
        found: Layout = {
            f"{PREFIX}{k}": (tuple(v.shape), saved_dtype(v)) for k, v in self._bare(shape).state_dict().items()
        }
        return found | {"n_steps": ((1,), torch.int64)}

    def cost(self, shape: WorkingShape, n_images: int) -> Cost:
        n_numbers = self.n_numbers(shape)
        state_bytes = layout_bytes(self.layout(shape, n_images))
        batch = min(self.config.batch_size, n_images)
        # Weights, gradients, Adam's two moments and the average, in float32; most of the saved state is in float16.
        held = 2 * self.n_kept(shape, n_images) * n_numbers + 10 * state_bytes
        held += 4 * self.numbers_held * batch * n_numbers
        return Cost(self.budget(shape).seconds(n_images), round(held), state_bytes)

    def details(self, state: State, shape: WorkingShape) -> dict[str, str]:
        return {"training": f"{int(state['n_steps']):,} steps"}

    def budget(self, shape: WorkingShape) -> Budget:
        """How long a training on pictures of this shape lasts."""
        config = self.config
        as_measured = replace(config, learning_rate=1.0, max_steps=None, max_minutes=None)

        def measure(long: bool) -> Seconds:
            with torch.inference_mode(False):
                return self._measured(shape)

        return Budget(
            schedule=self.schedule,
            max_steps=config.max_steps,
            max_minutes=config.max_minutes,
            batch_size=config.batch_size,
            on_cuda=self.device.type == "cuda",
            time_share=self.time_share,
            key=(self.key, as_measured, shape.cropped, self.device),
            measure=measure,
        )

    def used(self, encoded: Sequence[Tensor]) -> list[Tensor]:
        """Those of a backbone's maps that are used, from fine to coarse."""
        return [encoded[i] for i in self._indices]

    def map_sizes(self, shape: WorkingShape) -> list[tuple[int, int, int]]:
        """Channels, height and width of each map that is used."""
        spec = backbone_spec(self.config.backbone)
        sizes = spec.map_sizes(shape.cropped)
        return [(spec.channels[i], *sizes[i]) for i in self._indices]

    def n_numbers(self, shape: WorkingShape) -> int:
        """Of one picture's maps."""
        return sum(map(math.prod, self.map_sizes(shape)))

    def n_kept(self, shape: WorkingShape, n_images: int) -> int:
        """Of how many pictures the maps are kept, some of them where these are more than the memory holds.

        The tiles of an ensemble share the memory, as they do the time.
        """
        n_bytes = int(keepable_bytes(self.device) * self.time_share)
        return min(n_images, max(1, n_bytes // (2 * self.n_numbers(shape))))

    def loss(self, network: TrainedNetwork, maps: list[Tensor]) -> Tensor:
        """Of a batch, with the network in this method's precision."""
        with computing_in(trainable(self.dtype), self.device):
            return network.loss(maps)

    @property
    def _indices(self) -> tuple[int, ...]:
        return parse_layers(self.config.layers, self.config.backbone)

    def _bare(self, shape: WorkingShape) -> TrainedNetwork:
        """Without weights."""
        with torch.device("meta"):
            return self.network(self.map_sizes(shape))

    def _new_network(self, shape: WorkingShape) -> TrainedNetwork:
        """That knows nothing yet, the same in every call."""
        network = self._bare(shape).to_empty(device="cpu")
        with torch.no_grad():
            network.initialise(torch.Generator().manual_seed(0))
        return network.to(self.device, memory_format=torch.channels_last)

    def _restored(self, state: State, shape: WorkingShape) -> TrainedNetwork:
        network = self._bare(shape)
        weights = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
        # A copy: what is trained on must not change what was learned before.
        weights = {k: v.to(torch.float32 if v.is_floating_point() else v.dtype, copy=True) for k, v in weights.items()}
        network.load_state_dict(weights, assign=True)
        network.check()
        return network.to(self.device, memory_format=torch.channels_last)

    def _measured(self, shape: WorkingShape) -> Seconds:
        """What a step takes on this machine, and scoring a picture with the backbone's part; on noise."""
        generator = torch.Generator(self.device).manual_seed(0)
        sizes, n = self.map_sizes(shape), self.config.batch_size
        maps = [torch.randn(n, *size, device=self.device, generator=generator) for size in sizes]
        network = self._new_network(shape)
        optimizer = self.optimizer(network)
        step = quiet_seconds(lambda: do_step(self, network, optimizer, maps), self.device, budget=1.0)
        state = {f"{PREFIX}{k}": v.detach() for k, v in network.state_dict().items()}
        scorer, method = self.scorer(state, shape), self.to_measure()
        picture = torch.zeros(1, *shape.cropped, 3, dtype=torch.uint8)

        def score() -> None:
            with torch.inference_mode():
                scorer(method.encode(picture))

        return Seconds(step, 0.0, quiet_seconds(score, self.device))


def do_step(
    method: TrainedMethod, network: TrainedNetwork, optimizer: torch.optim.Optimizer, maps: list[Tensor]
) -> Tensor:
    """One training step: the loss before it."""
    loss = method.loss(network, maps)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def saved_dtype(tensor: Tensor) -> torch.dtype:
    """What a weight is saved as: matrices and kernels, which are most of it, as float16."""
    return torch.float16 if tensor.is_floating_point() and tensor.dim() > 1 else tensor.dtype


def moments(maps: Tensor) -> MapMoments:
    """Of maps (N, C, h, w) in float16."""
    place = statistics_device(maps.device)  # where there is double precision
    mean = sum(part.to(place).double().sum(0) for part in maps.split(BLOCK)) / len(maps)
    variance = sum((part.to(place).double() - mean).square().sum(0) for part in maps.split(BLOCK)) / len(maps)
    return MapMoments(len(maps), mean.float().to(maps.device), variance.float().to(maps.device))


class TrainedLearner(Learner):
    """Collects maps; `finish` trains on them.

    Args:
        network: the training goes on with it.
        n_images: how many pictures will come.
        before: the state that the network is from; None where it knows nothing yet.
    """

    stage = "training"

    def __init__(
        self, method: TrainedMethod, network: TrainedNetwork, shape: WorkingShape, n_images: int, before: State | None
    ) -> None:
        self.method, self.network, self.before = method, network, before
        self._n_images, self._budget = n_images, method.budget(shape)
        self._began, self._seconds_before = time.perf_counter(), 0.0
        self._rng = np.random.default_rng(0)
        kept = method.n_kept(shape, n_images)
        self._wanted = np.zeros(n_images, dtype=bool)
        self._wanted[self._rng.permutation(n_images)[:kept]] = True
        self._n_seen = self._n_there = 0
        with torch.inference_mode(False):
            self._maps = [
                torch.empty(kept, *size, dtype=torch.float16, device=method.device, memory_format=torch.channels_last)
                for size in method.map_sizes(shape)
            ]

    def add(self, encoded: list[Tensor]) -> None:
        used = self.method.used(encoded)
        wanted = self._wanted[self._n_seen : self._n_seen + len(used[0])]
        chosen = torch.from_numpy(wanted.nonzero()[0]).to(used[0].device)
        for kept, new in zip(self._maps, used, strict=True):
            kept[self._n_there : self._n_there + len(chosen)] = new if wanted.all() else new[chosen]
        self._seconds_before = time.perf_counter() - self._began
        self._n_seen += len(wanted)
        self._n_there += len(chosen)

    def finish(self, on_step: OnStep | None = None) -> State:
        with torch.inference_mode(False):
            return self._finish(on_step)

    def _finish(self, on_step: OnStep | None) -> State:
        method, network, n = self.method, self.network, self._n_there
        # The backbone's passes belong to the fit's minutes; those of all tiles were done together.
        started = time.perf_counter() - method.time_share * self._seconds_before
        long = self._budget.is_long(self._n_images)
        if on_step is not None:
            with before_the_first_step():
                on_step(0, self._budget.n_steps(self._n_images))
        if self.before is None:
            with torch.no_grad():
                network.look_at([moments(kept[:n]) for kept in self._maps])
        network.train()
        optimizer, averaged = method.optimizer(network), None
        n_chosen = max(2, min(method.config.batch_size, n))  # a batch's own deviation takes two
        batches = batches_without_end(self._rng, np.arange(n), n_chosen)

        def step(done: float) -> Tensor:
            nonlocal averaged
            for group in optimizer.param_groups:
                group["lr"] = method.config.learning_rate * (1.0 if long else warmed_up_and_decayed(done))
            loss = do_step(method, network, optimizer, self._batch(next(batches)))
            if averaged is not None:
                averaged.add()
            elif done >= 1 - AVERAGED:
                averaged = Average(network)
            return loss

        n_done = train(
            step,
            end=self._budget.end(started, self._n_images, long=long),
            max_steps=self._budget.steps_limit(long, self._n_images),
            device=method.device,
            on_step=on_step,
            learning_rate=method.config.learning_rate,
        )
        self._maps = []
        if averaged is not None:
            averaged.write()
        state = {f"{PREFIX}{k}": v.detach().to(saved_dtype(v)) for k, v in network.state_dict().items()}
        if not all(are_finite(tensor) for tensor in state.values() if tensor.is_floating_point()):
            raise diverged(n_done, math.nan, method.config.learning_rate)
        before = int(self.before["n_steps"]) if self.before is not None else 0
        state["n_steps"] = torch.tensor([before + n_done])
        return {k: v.contiguous().to(method.statistics_device) for k, v in state.items()}

    def _batch(self, chosen: Sequence[int]) -> list[Tensor]:
        return [rows(kept, chosen).float() for kept in self._maps]


@dataclass(frozen=True, eq=False)
class TrainedScorer:
    """The maps of all layers, brought to the picture's size, blurred and averaged."""

    network: TrainedNetwork
    indices: tuple[int, ...]
    shape: WorkingShape
    dtype: torch.dtype
    top_ratio: float

    def __call__(self, encoded: list[Tensor]) -> Scored:
        used = [encoded[i] for i in self.indices]
        with computing_in(self.dtype, used[0].device):
            found = self.network.anomaly_maps(used)
        maps = sum(realign(m, self.shape.cropped) for m in found) / len(found)
        return Scored.by_largest(maps, self.top_ratio)

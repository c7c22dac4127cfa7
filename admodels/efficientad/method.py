"""EfficientAD (Batzner, Heckler and König, "EfficientAD: accurate visual anomaly
detection at millisecond-level latencies").

A small frozen teacher describes patches. A student learns to describe good ones in the same words, and an autoencoder
to predict the descriptions from one vector for the whole picture; the student's other half learns to predict the
autoencoder. Where the student disagrees with the teacher the patch is unusual (local map), where it disagrees with the
autoencoder the arrangement is (global map).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from admodels.core.method import Cost, DetectorConfig, Layout, Method, Scored, State
from admodels.efficientad.networks import (
    FIRST_MIDDLE,
    LAYERS,
    MIN_SIDE,
    NORMALISATION,
    STRIDE,
    Autoencoder,
    Networks,
    Pdn,
    initialise_weights,
    output_size,
)
from admodels.efficientad.schedule import SCHEDULE
from admodels.efficientad.step import Trainer, TrainingOptions, measured_seconds
from admodels.efficientad.teachers import SHIPPED, teacher_weights
from admodels.efficientad.training import N_PENALTY, EfficientAdLearner, squared_differences
from admodels.errors import OptionError
from admodels.options import option
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime import openvino_engine
from admodels.runtime.device import trainable
from admodels.runtime.engine_choice import asked_engine, has_openvino
from admodels.runtime.engines import TORCH_TITLE, Engine
from admodels.runtime.graphs import Graphed
from admodels.runtime.memory import keepable_bytes
from admodels.runtime.openvino_engine import OpenVinoEngine
from admodels.runtime.tracing import is_traced
from admodels.training.budget import Budget, Seconds

TRAINING_BYTES = 9000  # held in a training step for each pixel of the batch; measured at 256×256, batch 1
MAX_CHANNELS = 4096
SCORINGS = ("auto", "whitened", "published")


@dataclass(frozen=True)
class EfficientAdConfig(DetectorConfig):
    """Options of EfficientAD."""

    size: str = option(
        "small",
        "Size of the networks; medium is slower and slightly more accurate.",
        choices=tuple(LAYERS),
        common=True,
    )
    teacher: str = option(SHIPPED, "The frozen teacher: shipped, or the path of a teacher file.", for_all=(SHIPPED,))
    max_steps: int | None = option(
        None, "Training steps. Default: 70000 on CUDA, elsewhere 1500 if max_minutes allows.", minimum=1, common=True
    )
    max_minutes: float | None = option(
        None,
        "Time limit of the whole fit in minutes; training ends in time. Default without CUDA: 10.",
        minimum=0.05,
        common=True,
    )
    batch_size: int = option(1, "Pictures per training step.", minimum=1, maximum=64)
    learning_rate: float = option(1e-4, "Adam's learning rate.", minimum=1e-7, maximum=1.0)
    scoring: str = option(
        "auto",
        "published: all of the student's differences count alike, and a picture's score is the largest. whitened: they "
        "count by how unusual they are on good pictures, and the score is the mean of the largest 1 %. auto: whitened "
        "for trainings of fewer than 10000 steps.",
        choices=SCORINGS,
        before="published",
    )
    compile: bool = option(
        False, "On CUDA, compile the networks before training, which takes a minute; ignored elsewhere."
    )
    penalty_images: str = option(
        "auto",
        "Unrelated pictures on which the student must not imitate the teacher: generated, none, or a folder; auto "
        "generates them for trainings of 10000 steps or more.",
        for_all=("auto", "generated", "none"),
    )


class EfficientAd(Method):
    """EfficientAD-S and -M."""

    key = "efficientad"
    title = "EfficientAD"
    summary = "A student network learns to imitate a small teacher on good pictures; minutes to fit on a CPU."
    Config = EfficientAdConfig
    folds_by_default = False
    can_pause = True
    learns_held_out = False  # the quantiles of its maps belong to the networks as they were trained
    one_thread_mib = 0.0  # its networks compute enough for all
    memory_advice = "lower image_size"

    @property
    def network_name(self) -> str:
        """Size of the networks."""
        return f"pdn {self.config.size}"

    def check_shape(self, shape: WorkingShape) -> None:
        if min(shape.cropped) < MIN_SIDE:
            height, width = shape.cropped
            raise OptionError(
                f"pictures, or tiles of them, would be resized to {width}×{height} px; EfficientAD needs {MIN_SIDE} "
                "on each side. Raise image_size (for an ensemble, tile_size), or set keep_aspect=False."
            )

    def encode(self, batch: Tensor) -> list[Tensor]:
        """The pictures themselves: what the networks say of them is asked for where it is needed."""
        return [batch.to(self.device)]

    def encoded_bytes(self, shape: WorkingShape) -> int:
        """A picture."""
        return 3 * shape.cropped[0] * shape.cropped[1]

    def learner(self, shape: WorkingShape, n_images: int, state: State | None = None) -> EfficientAdLearner:
        self.check_shape(shape)
        with torch.inference_mode(False):  # the learner needs gradients
            networks = self._initial_networks(shape) if state is None else self._networks(state, shape)
            trainer = Trainer(networks, self.training_options(shape))
        return EfficientAdLearner(trainer, self.budget(shape, state), n_images, self.config.scoring, state)

    def scorer(self, state: State, shape: WorkingShape) -> "EfficientAdScorer":
        rows, columns = (
            _interpolation(n_from, n_to).to(self.device)
            for n_from, n_to in zip(output_size(shape.cropped), shape.cropped, strict=True)
        )
        mean, std = (state[name].to(self.device)[None, :, None, None] for name in ("mean", "std"))
        if (std <= 0).any():
            raise ValueError("std is not above 0")
        quantiles = state["quantiles"].to(self.device)
        if (quantiles[:, 1] <= quantiles[:, 0]).any():
            raise ValueError("quantiles are not in ascending order")
        # Autocast would convert the weights in every prediction.
        networks = Networks(*(network.to(self.dtype) for network in self._networks(state, shape)))
        top_ratio, whitening = 0.0, None
        if self.config.scoring != "published":
            top_ratio = float(state["top_ratio"])
            if not 0 <= top_ratio <= 1:
                raise ValueError("top_ratio is not from 0 to 1")
            whitening = state["whitening"].to(self.device) if top_ratio > 0 else None
        weights, engine = state["map_weights"].to(self.device), None
        if self._other_engine():
            whole = Disagreement(self._networks(state, shape), mean, std, whitening)
            engine = OpenVinoEngine(whole, NORMALISATION, self.dtype, takes_any_size=False, is_kept=False)
        scorer = EfficientAdScorer(
            networks, mean, std, whitening, top_ratio, quantiles, weights, rows, columns, self.dtype, engine
        )
        return replace(scorer, graph=Graphed(scorer.computed)) if self.device.type == "cuda" else scorer

    @property
    def network_licence(self) -> str:
        """The teacher's."""
        if self.config.teacher != SHIPPED:
            return "the teacher: as its file came, by its maker's terms"
        return "the teacher: MIT, distilled from efficientnet_lite0 (Apache-2.0) on pictures for research"

    @property
    def engine_title(self) -> str:
        """PyTorch's unless another one is asked for by name."""
        return openvino_engine.title() if self._other_engine() else TORCH_TITLE

    def _other_engine(self) -> bool:
        """Whether OpenVINO is asked for. In float32 its convolutions take 1.6 times as long as ours (winograd.py)."""
        return asked_engine() == "openvino" and has_openvino(self.device, self.dtype, "openvino")

    def training_options(self, shape: WorkingShape) -> TrainingOptions:
        """What a training needs to know."""
        config = self.config
        return TrainingOptions(
            size=shape.cropped,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            penalty_images=config.penalty_images,
            device=self.device,
            statistics_device=self.statistics_device,
            dtype=trainable(self.dtype),
            compile=config.compile,
        )

    def budget(self, shape: WorkingShape, state: State | None = None) -> Budget:
        """How long a training on pictures of this shape lasts.

        Args:
            state: that a training goes on from, with its own teacher: the file may be gone, or another one by now.
        """
        # A few steps are measured, for which compiling would take longer than they do.
        config, options = self.config, replace(self.training_options(shape), compile=False)

        def measure(long: bool) -> Seconds:
            with torch.inference_mode(False):
                networks = self._initial_networks(shape) if state is None else self._networks(state, shape)
                return measured_seconds(Trainer(networks, options), long)

        return Budget(
            schedule=SCHEDULE,
            max_steps=config.max_steps,
            max_minutes=config.max_minutes,
            batch_size=config.batch_size,
            on_cuda=self.device.type == "cuda",
            time_share=self.time_share,
            key=(config.size, config.teacher, replace(options, learning_rate=0.0)),
            measure=measure,
        )

    def layout(self, shape: WorkingShape, n_images: int) -> Layout:
        n = range(1, MAX_CHANNELS + 1)
        networks, wider = (self._new_networks(shape, channels) for channels in (5, 6))
        layout: Layout = {}
        for part, network, other in zip(Networks._fields, networks, wider, strict=True):
            channels = n if part != "student" else range(2, 2 * MAX_CHANNELS + 1, 2)
            for (name, tensor), changed in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
                # What grows with the teacher's channels may be of any size; `scorer` sees whether all agree.
                size = tuple(
                    dim if dim == dim_of_wider else channels
                    for dim, dim_of_wider in zip(tensor.shape, changed.shape, strict=True)
                )
                layout[f"{part}.{name}"] = (size, torch.float16)
        layout |= dict.fromkeys(("mean", "std"), ((n,), torch.float32))
        if self.config.scoring != "published":
            layout |= {"whitening": ((n, n), torch.float32), "top_ratio": ((1,), torch.float32)}
        layout |= {"quantiles": ((2, 2), torch.float32), "map_weights": ((2,), torch.float32)}
        return layout | {"n_steps": ((1,), torch.int64)}

    def cost(self, shape: WorkingShape, n_images: int) -> Cost:
        n_channels, (h, w) = self._n_channels(), output_size(shape.cropped)
        networks = self._new_networks(shape, n_channels)
        state_bytes = 2 * sum(p.numel() for network in networks for p in network.parameters())
        area = shape.cropped[0] * shape.cropped[1]
        features = min(2 * n_images * n_channels * h * w, keepable_bytes(self.device))
        pictures = 3 * (n_images + N_PENALTY) * area
        # Weights, gradients and Adam's two moments in float32; the saved state is in float16.
        held = features + pictures + 4 * 2 * state_bytes + TRAINING_BYTES * area * self.config.batch_size
        return Cost(self.budget(shape).seconds(n_images), held, state_bytes)

    def details(self, state: State, shape: WorkingShape) -> dict[str, str]:
        weights = state["map_weights"].tolist()
        return {
            "training": f"{int(state['n_steps']):,} steps",
            "weights of the maps": f"local {weights[0]:.2f}, global {weights[1]:.2f}",
        }

    def _teacher_weights(self) -> dict[str, Tensor]:
        return teacher_weights(self.config.teacher, self.config.size)

    def _n_channels(self) -> int:
        return len(list(self._teacher_weights().values())[-1])

    def _initial_networks(self, shape: WorkingShape) -> Networks:
        """The teacher, and two that know nothing yet."""
        networks = self._new_networks(shape, self._n_channels())
        _loaded(networks.teacher, self._teacher_weights())
        generator = torch.Generator().manual_seed(0)
        for network in networks[1:]:
            initialise_weights(network.to_empty(device="cpu"), generator)
        return networks

    def _new_networks(self, shape: WorkingShape, n: int) -> Networks:
        """On the meta device: their weights are still to come."""
        size = self.config.size
        with torch.device("meta"):
            return Networks(Pdn(size, n), Pdn(size, 2 * n), Autoencoder(shape.cropped, n))

    def _networks(self, state: State, shape: WorkingShape) -> Networks:
        n = len(state["mean"])
        networks = self._new_networks(shape, n)
        for part, network in zip(Networks._fields, networks, strict=True):
            weights = {k.removeprefix(f"{part}."): t.float() for k, t in state.items() if k.startswith(f"{part}.")}
            try:
                _loaded(network, weights).to(self.device, memory_format=torch.channels_last)
            except RuntimeError as error:
                raise ValueError(f"the {part} does not have {n} channels ({error})") from error
        return networks


@dataclass(frozen=True, eq=False)
class EfficientAdScorer:
    """The weighted sum of the local and the global map, each on the scale that its quantiles give."""

    networks: Networks
    mean: Tensor
    std: Tensor
    whitening: Tensor | None  # (C, C); None is as published
    top_ratio: float
    quantiles: Tensor  # (local and global, a and b)
    weights: Tensor
    rows: Tensor  # (H, h) and (W, w): from a map to the picture
    columns: Tensor
    dtype: torch.dtype
    engine: Engine | None = None  # of `Disagreement`, where it is not PyTorch that runs the networks
    graph: Graphed | None = None  # of `computed`, on CUDA

    def __call__(self, encoded: list[Tensor]) -> Scored:
        low, high = self.quantiles.unbind(1)
        parts = {
            name: self.rows @ (0.1 * (m - low[i]) / (high[i] - low[i])) @ self.columns.T
            for i, (name, m) in enumerate(zip(("local", "global"), self.maps(encoded), strict=True))
        }
        maps = self.weights[0] * parts["local"] + self.weights[1] * parts["global"]
        return Scored.by_largest(maps, self.top_ratio, parts)

    def maps(self, encoded: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Local and global map (B, h, w), as the networks give them."""
        if self.engine is not None and not is_traced():
            local, whole = self.engine(encoded[0])
            return local[:, 0], whole[:, 0]
        local, whole = (self.computed if self.graph is None or is_traced() else self.graph)(encoded[0])
        return local, whole

    def computed(self, pictures: Tensor) -> list[Tensor]:
        """The same by PyTorch, kernel by kernel."""
        said = self.networks.descriptions(pictures, self.mean, self.std, self.dtype)
        return list(squared_differences(*said, self.whitening))


class Disagreement(nn.Module):
    """All three networks as one, from normalised (B, 3, H, W) to the local and the global map, each (B, 1, h, w)."""

    def __init__(self, networks: Networks, mean: Tensor, std: Tensor, whitening: Tensor | None) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("whitening", whitening)

    def forward(self, x: Tensor) -> list[Tensor]:
        taught, student, predicted = (network(x) for network in self.networks)
        apart = squared_differences((taught - self.mean) / self.std, student, predicted, self.whitening)
        return [m[:, None] for m in apart]


def _loaded(network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """A network from the meta device with these weights."""
    network.load_state_dict(weights, assign=True)
    return network.eval()


def _interpolation(n_from: int, n_to: int) -> Tensor:
    """Matrix (n_to, n_from): a value for every pixel from the vectors at the middles of their patches, bilinear.

    Beyond the first and the last middle the nearest value stands.
    """
    at = ((np.arange(n_to) + 0.5 - FIRST_MIDDLE) / STRIDE).clip(0, n_from - 1)
    left = np.minimum(at.astype(int), n_from - 2) if n_from > 1 else np.zeros(n_to, int)
    matrix = np.zeros((n_to, n_from), dtype=np.float32)
    rows = np.arange(n_to)
    matrix[rows, left] = 1 - (at - left)
    if n_from > 1:
        matrix[rows, left + 1] = at - left
    return torch.from_numpy(matrix)

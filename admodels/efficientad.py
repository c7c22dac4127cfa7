"""EfficientAD (Batzner, Heckler and König, "EfficientAD: accurate visual anomaly
detection at millisecond-level latencies").

A small frozen teacher describes patches. A student learns to describe good ones in the same words, and an autoencoder
to predict the descriptions from one vector for the whole picture; the student's other half learns to predict the
autoencoder. Where the student disagrees with the teacher the patch is unusual (local map), where it disagrees with the
autoencoder the arrangement is (global map).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from admodels.base import Detector, DetectorConfig, Layout, Learner, OnStep, State
from admodels.device import timed
from admodels.errors import Enough, OptionError, TrainingError
from admodels.options import option
from admodels.pdn import FIRST_MIDDLE, LAYERS, MIN_SIDE, STRIDE, Autoencoder, Pdn, normalised, output_size
from admodels.penalty import penalty_pictures
from admodels.teachers import SHIPPED, teacher_weights
from admodels.working_shape import WorkingShape

CUDA_STEPS = 70_000  # the paper's
CPU_MINUTES = 10.0
MAX_FEATURE_BYTES = 4 * 2**30  # of the teacher's output for the pictures; above, it is computed again in each step
TRAINING_BYTES = 9000  # held in a training step for each pixel of the batch; measured at 256×256, batch 1
LONG = 10_000  # steps from which on the paper's own schedule is followed
RATE_SCALE = 15.0  # highest learning rate of a short training over the paper's
STEPS_BETWEEN_LOOKS = 20
HARD_RATIO = 0.001  # the part of the squared differences that the hard feature loss takes (1 − p_hard)
QUANTILES = (0.9, 0.995)  # a and b of the normalisation of the maps
MAX_CHANNELS = 4096
N_PENALTY = 64
LOSS_MEMORY = 0.95


@dataclass(frozen=True)
class EfficientAdConfig(DetectorConfig):
    """Options of EfficientAD."""

    size: str = option("small", "Of the networks: medium is slower and a little more accurate.", choices=tuple(LAYERS))
    teacher: str = option(SHIPPED, "The frozen teacher: shipped, or the path of a teacher's file.", or_path=(SHIPPED,))
    max_steps: int | None = option(
        None, "Training steps; where none are given 70000 on CUDA, elsewhere what max_minutes allow.", minimum=1
    )
    max_minutes: float | None = option(
        None, "Steps are timed first, and only so many made as fit; where none are given 10 without CUDA.", minimum=0.05
    )
    batch_size: int = option(1, "Pictures in each step.", minimum=1, maximum=64)
    learning_rate: float = option(1e-4, "Of Adam.", minimum=1e-7, maximum=1.0)
    penalty_images: str = option(
        "generated",
        "Pictures of anything, where the student must not follow: generated, none, or a folder.",
        or_path=("generated", "none"),
    )


class Networks(NamedTuple):
    """All three, on one device."""

    teacher: Pdn
    student: Pdn
    autoencoder: Autoencoder


class Ready(NamedTuple):
    """A fitted state as `score` wants it."""

    networks: Networks
    mean: Tensor
    std: Tensor
    quantiles: Tensor  # (local and global, a and b)
    weights: Tensor
    rows: Tensor  # (H, h) and (W, w): from a map to the picture
    columns: Tensor


class EfficientAd(Detector):
    """EfficientAD-S and -M."""

    key = "efficientad"
    title = "EfficientAD"
    summary = "A student network learns to imitate a small teacher on good pictures; minutes to fit on a CPU."
    Config = EfficientAdConfig
    folds_by_default = False
    memory_advice = "lower image_size"

    @property
    def network_name(self) -> str:
        """Size of the networks."""
        return f"pdn {self.config.size}"

    def encode(self, batch: Tensor) -> list[Tensor]:
        """The pictures themselves, and the teacher's output for them (B, C, h, w), not normalised."""
        ready: Ready | None = self._ready
        teacher = ready.networks.teacher if ready is not None else self._teacher()
        batch = batch.to(self.device)
        with torch.inference_mode():
            return [batch, self._run(teacher, normalised(batch))]

    def encoded_bytes(self, shape: WorkingShape) -> int:
        """A picture and the teacher's output for it."""
        h, w = output_size(shape.cropped)
        return 3 * shape.cropped[0] * shape.cropped[1] + 4 * self._n_channels() * h * w

    def new_learner(self, shape: WorkingShape, n_images: int) -> Learner:
        _check_shape(shape)
        weights, n = self._teacher_weights(), self._n_channels()
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):  # the learner needs gradients
            torch.manual_seed(0)
            networks = self._new_networks(shape, n)
            _loaded(networks.teacher, weights)
            return EfficientAdLearner(self, networks, shape, None)

    def resumed_learner(self, shape: WorkingShape, state: State, n_images: int) -> Learner:
        with torch.inference_mode(False):
            return EfficientAdLearner(self, self._networks(state, shape), shape, state)

    def score(self, encoded: list[Tensor], ready: Ready) -> tuple[Tensor, Tensor]:
        return self.score_parts(encoded, ready)[:2]

    def score_parts(self, encoded: list[Tensor], ready: Ready) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        low, high = ready.quantiles.unbind(1)
        parts = {
            name: ready.rows @ (0.1 * (m - low[i]) / (high[i] - low[i])) @ ready.columns.T
            for i, (name, m) in enumerate(zip(("local", "global"), self.maps(encoded, ready), strict=True))
        }
        maps = ready.weights[0] * parts["local"] + ready.weights[1] * parts["global"]
        return maps.amax((1, 2)), maps, parts

    def maps(self, encoded: list[Tensor], ready: Ready) -> tuple[Tensor, Tensor]:
        """Local and global map (B, h, w), as the networks give them."""
        return _squared(*self.descriptions(encoded, ready))

    def descriptions(self, encoded: list[Tensor], ready: Ready) -> tuple[Tensor, Tensor, Tensor]:
        """What the teacher (normalised), the student (twice the channels) and the autoencoder say: (B, C, h, w)."""
        pictures, features = encoded
        x = normalised(pictures)
        taught = (features - ready.mean) / ready.std
        return taught, self._run(ready.networks.student, x), self._run(ready.networks.autoencoder, x)

    def ready(self, state: State, shape: WorkingShape) -> Ready:
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
        networks = self._networks(state, shape)
        return Ready(networks, mean, std, quantiles, state["map_weights"].to(self.device), rows, columns)

    def state_layout(self, shape: WorkingShape, n_images: int) -> Layout:
        n = range(1, MAX_CHANNELS + 1)
        with torch.device("meta"):
            networks, wider = (self._new_networks(shape, channels) for channels in (5, 6))
        layout: Layout = {}
        for part, network, other in zip(Networks._fields, networks, wider, strict=True):
            channels = n if part != "student" else range(2, 2 * MAX_CHANNELS + 1, 2)
            for (name, tensor), changed in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
                # What grows with the teacher's channels may be of any size; `ready` sees whether all agree.
                size = tuple(
                    dim if dim == dim_of_wider else channels
                    for dim, dim_of_wider in zip(tensor.shape, changed.shape, strict=True)
                )
                layout[f"{part}.{name}"] = (size, torch.float16)
        layout |= dict.fromkeys(("mean", "std"), ((n,), torch.float32))
        layout |= {"quantiles": ((2, 2), torch.float32), "map_weights": ((2,), torch.float32)}
        return layout | {"n_steps": ((1,), torch.int64)}

    def state_bytes(self, shape: WorkingShape, n_images: int) -> int:
        with torch.device("meta"):
            networks = self._new_networks(shape, self._n_channels())
        return 2 * sum(p.numel() for network in networks for p in network.parameters())

    def learner_bytes(self, shape: WorkingShape, n_images: int) -> int:
        h, w = output_size(shape.cropped)
        area = shape.cropped[0] * shape.cropped[1]
        features = min(2 * n_images * self._n_channels() * h * w, MAX_FEATURE_BYTES)
        pictures = 3 * (n_images + N_PENALTY) * area
        # Weights, gradients and Adam's two moments in float32; the saved state is in float16.
        weights = 4 * 2 * self.state_bytes(shape, n_images)
        return features + pictures + weights + TRAINING_BYTES * area * self.config.batch_size

    def learning_seconds(self, shape: WorkingShape, n_images: int) -> float:
        if self.config.max_steps is None and self.device.type != "cuda":
            _check_shape(shape)
            return 60 * (self.config.max_minutes or CPU_MINUTES)
        learner = self.new_learner(shape, n_images)
        return learner.seconds_per_step() * learner.n_steps()

    def details(self) -> dict[str, str]:
        state = self._fitted_state()
        weights = state["map_weights"].tolist()
        return {
            "training": f"{int(state['n_steps']):,} steps",
            "weights of the maps": f"local {weights[0]:.2f}, global {weights[1]:.2f}",
        }

    def _run(self, network: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return network(x).float()

    def _teacher_weights(self) -> dict[str, Tensor]:
        if self.state_ is not None:  # the file may be gone, or another one by now
            return {k.removeprefix("teacher."): t.float() for k, t in self.state_.items() if k.startswith("teacher.")}
        return teacher_weights(self.config.teacher, self.config.size)

    def _n_channels(self) -> int:
        if self.state_ is not None:
            return len(self.state_["mean"])
        return len(list(self._teacher_weights().values())[-1])

    def _teacher(self) -> Pdn:
        """The teacher of a detector that is not fitted yet; kept until it is."""
        if self._unfitted_teacher is None:
            network = _loaded(Pdn(self.config.size, self._n_channels()), self._teacher_weights())
            self._unfitted_teacher = network.to(self.device, memory_format=torch.channels_last)
        return self._unfitted_teacher

    _unfitted_teacher: Pdn | None = None

    def _new_networks(self, shape: WorkingShape, n: int) -> Networks:
        size = self.config.size
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


_SECONDS_PER_STEP: dict[tuple, float] = {}


class EfficientAdLearner(Learner):
    """Collects pictures and the teacher's output for them; `finish` trains on them."""

    stage = "training"

    def __init__(self, detector: EfficientAd, networks: Networks, shape: WorkingShape, before: State | None) -> None:
        self.detector, self.networks, self.shape, self.before = detector, networks, shape, before
        self.config, self.device = detector.config, detector.device
        self._pictures: list[Tensor] = []
        self._features: list[Tensor] = []
        self._n_bytes = 0
        for network in networks:
            network.to(self.device, memory_format=torch.channels_last)

    def add(self, encoded: list[Tensor]) -> None:
        pictures, features = encoded
        self._pictures.append(pictures.clone())
        self._n_bytes += 2 * features.numel()
        if self._n_bytes <= MAX_FEATURE_BYTES:
            self._features.append(features.half())
        else:
            self._features.clear()

    def finish(self, on_step: OnStep | None = None) -> State:
        with torch.inference_mode(False):
            return self._finish(on_step)

    def _finish(self, on_step: OnStep | None) -> State:
        pictures = torch.cat(self._pictures).clone()
        features = torch.cat(self._features).clone() if self._features else None
        rng = np.random.default_rng(0)
        kept, learned = _kept_apart(len(pictures), rng)
        if self.before is None:
            mean, std = self._statistics(pictures, features, learned)
        else:  # what the student knows is in these units
            mean, std = (self.before[name].to(self.device)[None, :, None, None] for name in ("mean", "std"))
        data = _Data(self, pictures, features, learned, mean, std, rng)
        n_steps = self.n_steps()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(0)  # of the dropout
            n_done = self._train(data, n_steps, on_step)
        before = int(self.before["n_steps"]) if self.before is not None else 0
        for network in self.networks:
            for parameter in network.parameters():  # what is saved is what scores, bit for bit
                parameter.data = parameter.data.half().float()
        state = {
            f"{part}.{name}": tensor.detach().half().to(self.detector.statistics_device)
            for part, network in zip(Networks._fields, self.networks, strict=True)
            for name, tensor in network.state_dict().items()
        }
        state |= {"mean": mean.flatten().cpu(), "std": std.flatten().cpu()}
        quantiles, explained = self._on_kept(pictures[kept], mean, std)
        # The paper takes the mean of both maps. An autoencoder that has not learned yet predicts nothing, and its map
        # would be noise: it counts for as much as it explains.
        share = 0.5 if before + n_done >= LONG else 0.5 * explained
        state |= {"quantiles": quantiles, "map_weights": torch.tensor([1 - share, share])}
        state["n_steps"] = torch.tensor([before + n_done])
        return {name: tensor.to(self.detector.statistics_device) for name, tensor in state.items()}

    def n_steps(self) -> int:
        """How long to train."""
        steps, minutes = self.config.max_steps, self.config.max_minutes
        if steps is None and self.device.type == "cuda":
            steps = CUDA_STEPS
        elif steps is None and minutes is None:
            minutes = CPU_MINUTES
        if minutes is not None:
            in_time = max(1, int(60 * minutes / self.seconds_per_step()))
            steps = in_time if steps is None else min(steps, in_time)
        return steps

    def seconds_per_step(self) -> float:
        """Of one step on this machine, measured once on noise with a copy of the networks."""
        key = (
            self.config.size,
            self.config.teacher,
            self.shape,
            self.config.batch_size,
            str(self.device),
            self.detector.dtype,
        )
        if key not in _SECONDS_PER_STEP:
            _SECONDS_PER_STEP[key] = self._measured_step()
        return _SECONDS_PER_STEP[key]

    def _measured_step(self) -> float:
        learner = self.detector.new_learner(self.shape, 1)
        size = (self.config.batch_size, *self.shape.cropped, 3)
        with torch.inference_mode(False):
            pictures = torch.randint(0, 256, size, dtype=torch.uint8, device=self.device)
            h, w = output_size(self.shape.cropped)
            n = next(reversed(self.networks.teacher.state_dict().values())).numel()
            features = torch.randn(self.config.batch_size, n, h, w, device=self.device)
            optimizer = learner._optimizer()

            def step() -> None:
                learner._step(pictures, features, pictures, optimizer)

            return float(np.median([timed(step, self.device) for _ in range(6)][1:]))

    def _statistics(self, pictures: Tensor, features: Tensor | None, learned: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every channel of the teacher's output, (1, C, 1, 1)."""
        total, squares, count = 0.0, 0.0, 0
        for i in learned:
            f = (features[i : i + 1] if features is not None else self._teacher(pictures[i : i + 1])).double()
            total, squares, count = total + f.sum((0, 2, 3)), squares + (f**2).sum((0, 2, 3)), count + f[0, 0].numel()
        mean = total / count
        std = (squares / count - mean**2).clamp_min(0).sqrt()
        # A channel that never moves on good pictures would blow up the first time it does.
        std = std.clamp_min(max(1e-3 * float(std.max()), 1e-6))
        return mean.float()[None, :, None, None], std.float()[None, :, None, None]

    def _teacher(self, pictures: Tensor) -> Tensor:
        with torch.no_grad():
            return self.detector._run(self.networks.teacher, normalised(pictures))

    def _optimizer(self) -> torch.optim.Optimizer:
        parameters = [p for network in self.networks[1:] for p in network.parameters()]
        return torch.optim.Adam(parameters, lr=self.config.learning_rate, weight_decay=1e-5)

    def _train(self, data: "_Data", n_steps: int, on_step: OnStep | None) -> int:
        """Steps done; fewer than asked for where `on_step` said that it is enough."""
        optimizer = self._optimizer()
        for network in self.networks[1:]:
            network.train()
        smooth = None
        try:
            for step in range(n_steps):
                for group in optimizer.param_groups:
                    group["lr"] = self.config.learning_rate * rate_factor(step, n_steps)
                pictures, features, penalty = data.batch()
                again = data.recoloured(pictures) if n_steps >= LONG else None
                loss = self._step(pictures, features, penalty, optimizer, again)
                # To ask for the loss is to wait for the device, which a GPU would feel in every step.
                if self.device.type == "cpu" or (step + 1) % STEPS_BETWEEN_LOOKS == 0 or step + 1 == n_steps:
                    value = float(loss)
                    if not math.isfinite(value):
                        raise TrainingError(
                            f"the training diverged by step {step + 1} (loss {value}). Lower learning_rate "
                            f"({self.config.learning_rate:g}), or take out pictures that look like nothing else."
                        )
                    smooth = value if smooth is None else LOSS_MEMORY * smooth + (1 - LOSS_MEMORY) * value
                    if on_step is not None:
                        on_step(step + 1, n_steps, smooth)
        except Enough:
            return step + 1
        finally:
            for network in self.networks:
                network.eval()
        return n_steps

    def _step(
        self,
        pictures: Tensor,
        features: Tensor,
        penalty: Tensor | None,
        optimizer: torch.optim.Optimizer,
        recoloured: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """One step (algorithm 1 of the appendix): the loss.

        Args:
            features: the teacher's for the pictures, normalised.
            recoloured: pictures for the autoencoder with changed colours and the teacher's output for them, as in the
                paper. In short trainings it takes the pictures as they are, and the student sees a third less.
        """
        n, n_channels = len(pictures), features.shape[1]
        x = normalised(pictures)
        parts = [x] if penalty is None else [x, normalised(penalty)]
        of_autoencoder, wanted = x, features
        if recoloured is not None:
            of_autoencoder, wanted = normalised(recoloured[0]), recoloured[1]
            parts.append(of_autoencoder)
        student = self.detector._run(self.networks.student, torch.cat(parts)).split(n)
        predicted = self.detector._run(self.networks.autoencoder, of_autoencoder)
        difference = ((features - student[0][:, :n_channels]) ** 2).flatten()
        hard = difference.topk(max(1, round(HARD_RATIO * len(difference)))).values.mean()
        imitated = student[0 if recoloured is None else -1][:, n_channels:]
        loss = hard + F.mse_loss(predicted, wanted) + F.mse_loss(imitated, predicted)
        if penalty is not None:
            loss = loss + (student[1][:, :n_channels] ** 2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def _on_kept(self, pictures: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, float]:
        """What pictures that were not trained on say.

        Returns:
            The quantiles of the local and of the global map, (2, 2); and the part of the teacher's variance that the
            autoencoder explains, from 0 to 1.
        """
        values: list[list[Tensor]] = [[], []]
        errors, variances = 0.0, 0.0
        ready = Ready(self.networks, mean, std, *(torch.empty(0),) * 4)
        with torch.no_grad():
            for i in range(len(pictures)):
                picture = pictures[i : i + 1]
                taught, student, predicted = self.detector.descriptions([picture, self._teacher(picture)], ready)
                for found, m in zip(values, _squared(taught, student, predicted), strict=True):
                    found.append(m.flatten().double().cpu())
                errors += float(F.mse_loss(predicted, taught))
                variances += float((taught**2).mean())
        explained = min(max(1 - errors / max(variances, 1e-12), 0.0), 1.0)
        found = [np.quantile(torch.cat(v).numpy(), QUANTILES) for v in values]  # torch's own takes few values only
        # Equal ones would divide by zero: maps of pictures without any texture.
        apart = [[a, b if b > a * (1 + 1e-6) + 1e-9 else a * (1 + 1e-3) + 1e-6] for a, b in found]
        return torch.tensor(apart, dtype=torch.float32), explained


class _Data:
    """Batches without end: pictures to learn from, the teacher's output, and pictures of anything."""

    def __init__(
        self,
        learner: EfficientAdLearner,
        pictures: Tensor,
        features: Tensor | None,
        learned: np.ndarray,
        mean: Tensor,
        std: Tensor,
        rng: np.random.Generator,
    ) -> None:
        self.learner, self.pictures, self.features, self.learned = learner, pictures, features, learned
        self.mean, self.std, self.rng = mean, std, rng
        self._order: list[int] = []
        source = learner.config.penalty_images
        self.penalty = None
        if source != "none":
            self.penalty = torch.from_numpy(penalty_pictures(source, N_PENALTY, learner.shape.cropped, rng))
            self.penalty = self.penalty.to(pictures.device)

    def batch(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pictures, the teacher's normalised output, pictures of anything."""
        n = self.learner.config.batch_size
        while len(self._order) < n:
            self._order += self.rng.permutation(self.learned).tolist()
        chosen, self._order = self._order[:n], self._order[n:]
        pictures = self.pictures[chosen]
        features = self.features[chosen].float() if self.features is not None else self.learner._teacher(pictures)
        penalty = self.penalty[self.rng.integers(len(self.penalty), size=n)] if self.penalty is not None else None
        return pictures, (features - self.mean) / self.std, penalty

    def recoloured(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The pictures with changed colours, and the teacher's normalised output for them."""
        pictures = recoloured(pictures)
        return pictures, (self.learner._teacher(pictures) - self.mean) / self.std


def _squared(taught: Tensor, student: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Local and global map: where the halves of the student's output disagree with the teacher and the autoencoder."""
    n = taught.shape[1]
    return ((taught - student[:, :n]) ** 2).mean(1), ((predicted - student[:, n:]) ** 2).mean(1)


def rate_factor(step: int, n_steps: int) -> float:
    """Factor of the learning rate: the paper's for long trainings."""
    if n_steps >= LONG:
        return 0.1 if step >= 0.95 * n_steps else 1.0
    return RATE_SCALE * min(1.0, (step + 1) / max(1.0, 0.1 * n_steps)) * 0.5 * (1 + math.cos(math.pi * step / n_steps))


def recoloured(pictures: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) with brightness, contrast or saturation changed by a factor of 0.8 to 1.2, one for all."""
    factor = float(torch.empty(()).uniform_(0.8, 1.2))
    x = pictures.float()
    grey = (x * x.new_tensor([0.299, 0.587, 0.114])).sum(-1, keepdim=True)
    around = (torch.zeros_like(grey), grey.mean((1, 2), keepdim=True), grey)[int(torch.randint(3, ()))]
    return (around + factor * (x - around)).clamp(0, 255).round().to(torch.uint8)


def _kept_apart(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions that only set the quantiles, a tenth but at least 2, and those that are trained on; all where few."""
    if n < 8:
        return np.arange(n), np.arange(n)
    order = rng.permutation(n)
    n_kept = max(2, round(0.1 * n))
    return order[:n_kept], order[n_kept:]


def _check_shape(shape: WorkingShape) -> None:
    if min(shape.cropped) < MIN_SIDE:
        height, width = shape.cropped
        raise OptionError(
            f"pictures would be looked at as {width}×{height} px; EfficientAD needs {MIN_SIDE} on each side. "
            "Raise image_size."
        )


def _loaded(network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    network.load_state_dict(weights)
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

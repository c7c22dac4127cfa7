"""How EfficientAD learns (algorithm 1 of the appendix), and how long trainings and short ones differ.

The paper trains for 70,000 steps. A visitor on a CPU has minutes, that is some hundred: there the learning rate is
raised, warmed up and brought down to nothing, the autoencoder sees the pictures as they are, and its map counts for as
much as it has learned.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from admodels.core.detector import Learner, OnStep, State
from admodels.efficientad.networks import Networks, normalised, output_size, run
from admodels.efficientad.penalty import penalty_pictures
from admodels.errors import Cancelled, Enough, TrainingError
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.quiet import others_fit, quiet_seconds

if TYPE_CHECKING:
    from admodels.efficientad.method import EfficientAd

CUDA_STEPS = 70_000  # the paper's
CPU_MINUTES = 10.0
LONG = 10_000  # steps from which on the paper's own schedule is followed
# More steps of a short training teach the student to imitate the teacher on defects too. On Magnetic Tile image AUROC
# was 0.921 after 1,577, 0.915 after 3,304; on PIPED's hardest kind it falls from 60 steps on.
SHORT_STEPS = 1_500
RATE_SCALE = 10.0  # highest learning rate of a short training over the paper's
WARM_UP = 0.1  # of a short training
MAX_FEATURE_BYTES = 4 * 2**30  # of the teacher's output for the pictures; what is above is computed in each step
STEPS_BETWEEN_LOOKS = 20
HARD_RATIO = 0.001  # the part of the squared differences that the hard feature loss takes (1 − p_hard)
SHORT_HARD_RATIO = 0.01  # the same at the end of a short training, which begins with all of them
QUANTILES = (0.9, 0.995)  # a and b of the normalisation of the maps
N_STATISTICS = 64  # pictures for the teacher's mean and deviation in a short training: 200,000 vectors at 256×256
KEPT_RATIO, MAX_KEPT = 0.1, 32  # pictures that are not trained on and set the quantiles
HELD_OUT_RATIO = 0.25  # of the learned pictures, `fit` holds out by default: their scoring is part of max_minutes
MIN_TRAINING_RATIO = 0.25  # of max_minutes, whatever the rest takes
N_PENALTY = 64
LOSS_MEMORY = 0.95


class Seconds(NamedTuple):
    """What this machine takes, measured on noise."""

    step: float
    teacher: float  # for one picture
    score: float  # for one picture, all networks


_SECONDS: dict[tuple, Seconds] = {}


class EfficientAdLearner(Learner):
    """Collects pictures; `finish` trains on them."""

    stage = "training"

    def __init__(
        self, detector: "EfficientAd", networks: Networks, shape: WorkingShape, n_images: int, before: State | None
    ) -> None:
        self.detector, self.networks, self.shape, self.before = detector, networks, shape, before
        self.config, self.device = detector.config, detector.device
        self._n_images = n_images
        self._pictures: Tensor | None = None  # uint8 (n_images, H, W, 3), of which the first `_n_added` are there
        self._n_added = 0
        self._dropout = torch.Generator(self.device).manual_seed(0)
        for network in networks:
            network.to(self.device, memory_format=torch.channels_last)
        if self.config.compile and self.device.type == "cuda":
            for network in networks[1:]:
                network.compile()  # in place: the names of the weights stay

    def add(self, encoded: list[Tensor]) -> None:
        (new,) = encoded
        if self._pictures is None:
            with torch.inference_mode(False):
                self._pictures = new.new_empty(self._n_images, *new.shape[1:])
        self._pictures[self._n_added : self._n_added + len(new)] = new
        self._n_added += len(new)

    def finish(self, on_step: OnStep | None = None) -> State:
        with torch.inference_mode(False):
            return self._finish(on_step)

    def _finish(self, on_step: OnStep | None) -> State:
        started = time.perf_counter()
        pictures = self._pictures[: self._n_added]
        rng = np.random.default_rng(0)
        kept, learned = _kept_apart(len(pictures), rng)
        taught = _Taught(self, pictures)
        long = self._is_long(len(pictures))
        n_steps = self._steps(len(pictures), long)
        if self.before is None:
            told = None if on_step is None else lambda: on_step(0, n_steps)
            try:
                mean, std = taught.statistics(learned if long else learned[:N_STATISTICS], told)
            except Enough as error:
                raise Cancelled("stopped before the first step: nothing was learned yet") from error
        else:  # what the student knows is in these units
            mean, std = (self.before[name].to(self.device)[None, :, None, None] for name in ("mean", "std"))
        data = _Data(self, taught, learned, mean, std, rng, self._penalty_source(long))
        n_done = self._train(data, self._end(started, len(pictures)), long, on_step)
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
        quantiles, explained = self._on_kept([pictures[i] for i in kept], mean, std)
        # The paper takes the mean of both maps. An autoencoder that has not learned yet predicts nothing, and its map
        # would be noise: it counts for as much as it explains.
        share = 0.5 if long and before + n_done >= LONG else 0.5 * explained
        state |= {"quantiles": quantiles, "map_weights": torch.tensor([1 - share, share])}
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
            raise self._diverged(n_done, math.nan)
        state["n_steps"] = torch.tensor([before + n_done])
        return {name: tensor.to(self.detector.statistics_device) for name, tensor in state.items()}

    def n_steps(self, n_images: int) -> int:
        """How long to train on so many pictures: as asked for, or what there will about be time for and helps."""
        return self._steps(n_images, self._is_long(n_images))

    def _is_long(self, n_images: int) -> bool:
        """There is time for LONG steps, and for as many of the paper's, which cost more."""
        asked = self._asked_steps()
        return all(self._steps_in_time(n_images, long, asked) >= LONG for long in (False, True))

    def _steps(self, n_images: int, long: bool) -> int:
        return self._steps_in_time(n_images, long, self._max_steps(long))

    def _steps_in_time(self, n_images: int, long: bool, steps: int | None) -> int:
        """As many as `steps`, where given, and as there will about be time for."""
        left = self._training_seconds(n_images)
        if left is None:
            return steps
        seconds, batch = self._seconds(long), self.config.batch_size
        in_time = int(left / (seconds.step + batch * seconds.teacher))
        if in_time * batch > n_images:  # every picture is described once, however long the training
            in_time = int((left - n_images * seconds.teacher) / seconds.step)
        return max(1, in_time if steps is None else min(steps, in_time))

    def learning_seconds(self, n_images: int) -> float:
        """Time of a fit on so many pictures, the threshold included."""
        long = self._is_long(n_images)
        seconds, n_steps = self._seconds(long), self._steps(n_images, long)
        n_described = min(n_images, n_steps * self.config.batch_size)
        return self._seconds_around(n_images) + n_steps * seconds.step + n_described * seconds.teacher

    def _seconds(self, long: bool = False) -> Seconds:
        """Of this machine, measured once for each kind of network and of training; kept where no other fit ran."""
        config, detector = self.config, self.detector
        network = config.size, config.teacher, config.compile, detector.dtype
        training = long, self._penalty_source(long), config.batch_size
        key = network, training, self.shape, str(self.device)
        if key in _SECONDS:
            return _SECONDS[key]
        disturbed = others_fit()
        seconds = self._measured(long)
        if not (disturbed or others_fit()):
            _SECONDS[key] = seconds
        return seconds

    def _penalty_source(self, long: bool) -> str:
        """In a short training the penalty costs the student half its steps and keeps it from learning good pictures."""
        source = self.config.penalty_images
        return ("generated" if long else "none") if source == "auto" else source

    def _asked_steps(self) -> int | None:
        return self.config.max_steps or (CUDA_STEPS if self.device.type == "cuda" else None)

    def _max_steps(self, long: bool) -> int | None:
        """What was asked for is done, however short; without it a short training ends where more does harm."""
        return self.config.max_steps or (self._asked_steps() if long else SHORT_STEPS)

    def _max_minutes(self) -> float | None:
        """The part of the fit's minutes that is this model's."""
        minutes = self.config.max_minutes or (CPU_MINUTES if self._asked_steps() is None else None)
        return None if minutes is None else minutes * self.detector.time_share

    def _seconds_around(self, n_images: int) -> float:
        """Beside the training: statistics, quantiles, threshold."""
        return min(n_images, N_STATISTICS) * self._seconds().teacher + self._seconds_after(n_images)

    def _seconds_after(self, n_images: int) -> float:
        return (_n_kept(n_images) + HELD_OUT_RATIO * n_images) * self._seconds().score

    def _training_seconds(self, n_images: int) -> float | None:
        """What max_minutes leave for the training; None where there is no limit."""
        minutes = self._max_minutes()
        if minutes is None:
            return None
        return max(60 * minutes - self._seconds_around(n_images), 60 * minutes * MIN_TRAINING_RATIO)

    def _end(self, started: float, n_images: int) -> float | None:
        """When the training that begins now has to end, by `time.perf_counter`; None where there is no limit."""
        minutes = self._max_minutes()
        if minutes is None:
            return None
        end = started + 60 * minutes - self._seconds_after(n_images)
        return max(end, time.perf_counter() + 60 * minutes * MIN_TRAINING_RATIO)

    def _measured(self, long: bool) -> Seconds:
        learner = self.detector.new_learner(self.shape, 1)
        size = (self.config.batch_size, *self.shape.cropped, 3)
        with torch.inference_mode(False):
            generator = torch.Generator(self.device).manual_seed(0)
            pictures = torch.randint(0, 256, size, dtype=torch.uint8, device=self.device, generator=generator)
            h, w = output_size(self.shape.cropped)
            n = next(reversed(self.networks.teacher.state_dict().values())).numel()
            features = torch.randn(self.config.batch_size, n, h, w, device=self.device, generator=generator)
            mean, std = torch.zeros(1, n, 1, 1, device=self.device), torch.ones(1, n, 1, 1, device=self.device)
            optimizer = learner._optimizer()
            penalty = pictures if self._penalty_source(long) != "none" else None
            rng = np.random.default_rng(0)

            def step() -> None:
                again = (recoloured(pictures, rng), learner._teacher(pictures)) if long else None
                learner._step(pictures, features, penalty, optimizer, again)

            def score() -> None:
                with torch.no_grad():
                    learner.networks.descriptions(pictures[:1], mean, std, self.detector.dtype)

            runs = (
                step,
                lambda: learner._teacher(pictures[:1]),
                score,
            )
            return Seconds(*(quiet_seconds(r, self.device, budget=1.0) for r in runs))

    def _teacher(self, pictures: Tensor) -> Tensor:
        with torch.no_grad():
            return run(self.networks.teacher, normalised(pictures), self.detector.dtype)

    def _optimizer(self) -> torch.optim.Optimizer:
        parameters = [p for network in self.networks[1:] for p in network.parameters()]
        return torch.optim.Adam(parameters, lr=self.config.learning_rate, weight_decay=1e-5)

    def _train(self, data: "_Data", end: float | None, long: bool, on_step: OnStep | None) -> int:
        """Steps done: until `end` or max_steps, or fewer where `on_step` said that it is enough."""
        optimizer, max_steps = self._optimizer(), self._max_steps(long)
        smooth, step, began = None, 0, time.perf_counter()

        def part_done() -> float:
            now = time.perf_counter()
            # Where the time was over before the first step, one step is what there is.
            of_time = 0.0 if end is None else 1.0 if now >= end else (now - began) / (end - began)
            return max(of_time, step / max_steps if max_steps is not None else 0.0)

        done = 0.0
        try:
            while done < 1:
                for group in optimizer.param_groups:
                    group["lr"] = self.config.learning_rate * rate_factor(done, long)
                pictures, features, penalty = data.batch()
                again = data.recoloured(pictures) if long else None
                loss = self._step(pictures, features, penalty, optimizer, again, hard_ratio(done, long))
                step += 1
                done = part_done()
                # To ask for the loss is to wait for the device, which a GPU would feel in every step.
                if self.device.type == "cpu" or step % STEPS_BETWEEN_LOOKS == 0 or done >= 1:
                    value = float(loss)
                    if not math.isfinite(value):
                        raise self._diverged(step, value)
                    smooth = value if smooth is None else LOSS_MEMORY * smooth + (1 - LOSS_MEMORY) * value
                    if on_step is not None:
                        on_step(step, max(step, round(step / done)), smooth)
        except Enough:
            pass
        return step

    def _diverged(self, step: int, loss: float) -> TrainingError:
        return TrainingError(
            f"the training diverged by step {step} (loss {loss}). Lower learning_rate "
            f"({self.config.learning_rate:g}), or take out pictures that look like nothing else."
        )

    def _step(
        self,
        pictures: Tensor,
        features: Tensor,
        penalty: Tensor | None,
        optimizer: torch.optim.Optimizer,
        recoloured: tuple[Tensor, Tensor] | None = None,
        hard: float = HARD_RATIO,
    ) -> Tensor:
        """One step (algorithm 1 of the appendix): the loss.

        Args:
            features: the teacher's for the pictures, normalised.
            hard: the part of the squared differences that the hard feature loss takes.
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
        student = run(self.networks.student, torch.cat(parts), self.detector.dtype).split(n)
        masks = self.networks.autoencoder.dropout_masks(n, self._dropout)
        predicted = run(self.networks.autoencoder, of_autoencoder, self.detector.dtype, masks)
        difference = ((features - student[0][:, :n_channels]) ** 2).flatten()
        if hard < 1:
            difference = difference.topk(max(1, round(hard * len(difference)))).values
        imitated = student[0 if recoloured is None else -1][:, n_channels:]
        # In the little time of a short training the autoencoder learns from the teacher alone.
        imitable = predicted.detach() if recoloured is None else predicted
        loss = difference.mean() + F.mse_loss(predicted, wanted) + F.mse_loss(imitated, imitable)
        if penalty is not None:
            loss = loss + (student[1][:, :n_channels] ** 2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def _on_kept(self, pictures: Sequence[Tensor], mean: Tensor, std: Tensor) -> tuple[Tensor, float]:
        """What pictures (H, W, 3) that were not trained on say.

        Returns:
            The quantiles of the local and of the global map, (2, 2); and the part of the teacher's variance that the
            autoencoder explains, from 0 to 1.
        """
        values: list[list[Tensor]] = [[], []]
        errors, variances = 0.0, 0.0
        with torch.no_grad():
            for picture in pictures:
                said = self.networks.descriptions(picture[None], mean, std, self.detector.dtype)
                for found, m in zip(values, squared_differences(*said), strict=True):
                    found.append(m.flatten().cpu().double())
                taught, _, predicted = said
                errors += float(F.mse_loss(predicted, taught))
                variances += float((taught**2).mean())
        explained = min(max(1 - errors / max(variances, 1e-12), 0.0), 1.0)
        found = [np.quantile(torch.cat(v).numpy(), QUANTILES) for v in values]  # torch's own takes few values only
        # Equal ones would divide by zero: maps of pictures without any texture.
        apart = [[a, b if b > a * (1 + 1e-6) + 1e-9 else a * (1 + 1e-3) + 1e-6] for a, b in found]
        return torch.tensor(apart, dtype=torch.float32), explained


class _Taught:
    """The teacher's output for the pictures: computed when it is first asked for, then kept in float16."""

    def __init__(self, learner: EfficientAdLearner, pictures: Tensor) -> None:
        self.learner, self.pictures = learner, pictures
        self._kept: dict[int, Tensor] = {}
        self._n_bytes = 0

    def __call__(self, chosen: Sequence[int]) -> Tensor:
        """Float32 (B, C, h, w), not normalised."""
        found = {i: self._kept[i] for i in chosen if i in self._kept}
        missing = [i for i in dict.fromkeys(chosen) if i not in found]
        if missing:
            for i, features in zip(missing, self.learner._teacher(self.pictures[missing]).half(), strict=True):
                found[i] = features
                if self._n_bytes + features.nbytes <= MAX_FEATURE_BYTES:
                    self._kept[i] = features
                    self._n_bytes += features.nbytes
        return torch.stack([found[i] for i in chosen]).float()

    def statistics(self, chosen: np.ndarray, on_picture: Callable[[], None] | None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every channel over the chosen pictures, (1, C, 1, 1)."""
        total, squares, count = 0.0, 0.0, 0
        for i in chosen.tolist():
            features = self([i]).to(self.learner.detector.statistics_device).double()
            total, squares = total + features.sum((0, 2, 3)), squares + (features**2).sum((0, 2, 3))
            count += features[0, 0].numel()
            if on_picture is not None:
                on_picture()
        mean = total / count
        std = (squares / count - mean**2).clamp_min(0).sqrt()
        # A channel that never moves on good pictures would blow up the first time it does.
        std = std.clamp_min(max(1e-3 * float(std.max()), 1e-6))
        return tuple(t.float().to(self.learner.device)[None, :, None, None] for t in (mean, std))


class _Data:
    """Batches without end: pictures to learn from, the teacher's output, and pictures of anything."""

    def __init__(
        self,
        learner: EfficientAdLearner,
        taught: _Taught,
        learned: np.ndarray,
        mean: Tensor,
        std: Tensor,
        rng: np.random.Generator,
        penalty_source: str,
    ) -> None:
        self.learner, self.taught, self.learned = learner, taught, learned
        self.mean, self.std, self.rng = mean, std, rng
        # Those first whose features the statistics needed.
        self._order: list[int] = learned.tolist()
        self.penalty = None
        if penalty_source != "none":
            self.penalty = torch.from_numpy(penalty_pictures(penalty_source, N_PENALTY, learner.shape.cropped, rng))
            self.penalty = self.penalty.to(taught.pictures.device)

    def batch(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pictures, the teacher's normalised output, pictures of anything."""
        n = self.learner.config.batch_size
        while len(self._order) < n:
            self._order += self.rng.permutation(self.learned).tolist()
        chosen, self._order = self._order[:n], self._order[n:]
        features = (self.taught(chosen) - self.mean) / self.std
        penalty = self.penalty[self.rng.integers(len(self.penalty), size=n)] if self.penalty is not None else None
        return self.taught.pictures[chosen], features, penalty

    def recoloured(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The pictures with changed colours, and the teacher's normalised output for them."""
        pictures = recoloured(pictures, self.rng)
        return pictures, (self.learner._teacher(pictures) - self.mean) / self.std


def squared_differences(taught: Tensor, student: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Local and global map (B, h, w): where the halves of the student's output disagree with the two others."""
    n = taught.shape[1]
    return ((taught - student[:, :n]) ** 2).mean(1), ((predicted - student[:, n:]) ** 2).mean(1)


def hard_ratio(done: float, long: bool) -> float:
    """The part of the squared differences that the hard feature loss takes when a part `done` of the training is over.

    A student that knows nothing yet differs everywhere: the few largest differences alone would teach it too little.
    """
    return HARD_RATIO if long else SHORT_HARD_RATIO**done


def rate_factor(done: float, long: bool) -> float:
    """Factor of the learning rate when a part `done`, from 0 to 1, of the training is over."""
    if long:
        return 0.1 if done >= 0.95 else 1.0
    return RATE_SCALE * min(1.0, 0.1 + done / WARM_UP) * 0.5 * (1 + math.cos(math.pi * done))


def recoloured(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """uint8 (B, H, W, 3) with brightness, contrast or saturation changed by a factor of 0.8 to 1.2, one for all."""
    factor = rng.uniform(0.8, 1.2)
    x = pictures.float()
    grey = (x * x.new_tensor([0.299, 0.587, 0.114])).sum(-1, keepdim=True)
    around = (torch.zeros_like(grey), grey.mean((1, 2), keepdim=True), grey)[rng.integers(3)]
    return (around + factor * (x - around)).clamp(0, 255).round().to(torch.uint8)


def _n_kept(n: int) -> int:
    return min(max(2, round(KEPT_RATIO * n)), MAX_KEPT)


def _kept_apart(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions that only set the quantiles, and those that are trained on; all are both where they are few."""
    if n < 8:
        return np.arange(n), np.arange(n)
    order = rng.permutation(n)
    return order[: _n_kept(n)], order[_n_kept(n) :]

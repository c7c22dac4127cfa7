"""How EfficientAD learns: pictures are collected, then trained on, and some that were not set the quantiles."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from admodels.core.method import Checkpoint, Learner, OnStep, State
from admodels.efficientad.networks import Networks
from admodels.efficientad.penalty import PenaltyPictures
from admodels.efficientad.schedule import MAX_WHITENED, N_STATISTICS, n_kept
from admodels.efficientad.step import Trainer, hard_ratio, rate_factor, recoloured
from admodels.errors import ImageError, Pause
from admodels.runtime.device import sent
from admodels.runtime.memory import keepable_bytes
from admodels.training.budget import Budget, End
from admodels.training.loop import Position, batches_without_end, before_the_first_step, diverged, rows, train

QUANTILES = (0.9, 0.995)  # a and b of the normalisation of the maps
TOP_RATIO = 0.01  # of the map, whose mean is the score of a whitened model; published is the largest value
N_PENALTY = 64  # unrelated pictures that are there at a time
# In a long training a new picture then takes an old one's place: in the paper's 70,000 steps more than 1,000 do. One of
# 256×256 takes about 20 ms to generate (measured, 2 cores).
STEPS_BETWEEN_PENALTIES = 64


class EfficientAdLearner(Learner):
    """Collects pictures; `finish` trains on them.

    Args:
        n_images: how many pictures will come.
        scoring: auto, whitened or published.
        before: the state whose networks the trainer goes on with; None where they know nothing yet.
    """

    stage = "training"

    def __init__(
        self, trainer: Trainer, budget: Budget, n_images: int, scoring: str, before: State | None = None
    ) -> None:
        self.trainer, self.budget, self.scoring, self.before = trainer, budget, scoring, before
        self.networks, self.options = trainer.networks, trainer.options
        self._n_images = n_images
        self._pictures: Tensor | None = None  # uint8 (n_images, H, W, 3), of which the first `_n_added` are there
        self._n_added = 0
        self._checkpoint: Checkpoint | None = None

    def resume(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

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
        n, options = len(pictures), self.options
        rng = np.random.default_rng(0)
        kept, learned = _kept_apart(n, rng)
        taught, paused = _Taught(self.trainer, pictures), self._checkpoint
        # Another device, or a busier one, would have time for another schedule.
        long = self.budget.is_long(n) if paused is None else paused["long"]
        if paused is not None:
            mean, std = (paused[name].to(options.device) for name in ("mean", "std"))
        elif self.before is None:
            n_steps = self.budget.n_steps(n)
            told = None if on_step is None else lambda: on_step(0, n_steps)
            with before_the_first_step():
                mean, std = taught.statistics(learned if long else learned[:N_STATISTICS], told)
        else:  # what the student knows is in these units
            mean, std = (self.before[name].to(options.device)[None, :, None, None] for name in ("mean", "std"))
        data = _Data(taught, learned, mean, std, rng, long, paused)
        n_done = self._train(data, started, long, on_step)
        before = int(self.before["n_steps"]) if self.before is not None else 0
        for network in self.networks:
            for parameter in network.parameters():  # what is saved is what scores, bit for bit
                parameter.data = parameter.data.half().float()
        state = {
            f"{part}.{name}": tensor.detach().half().to(options.statistics_device)
            for part, network in zip(Networks._fields, self.networks, strict=True)
            for name, tensor in network.state_dict().items()
        }
        state |= {"mean": mean.flatten().cpu(), "std": std.flatten().cpu()}
        unseen, whitening = [pictures[i] for i in kept], None
        as_long = long and before + n_done >= self.budget.schedule.long
        if self.scoring == "whitened" or (self.scoring == "auto" and not as_long):
            groups = unseen, [pictures[i] for i in learned[:MAX_WHITENED]]
            whitening = whitening_of(self.trainer, groups, mean, std)
        if self.scoring != "published":
            state["whitening"] = torch.eye(mean.numel()) if whitening is None else whitening
            state["top_ratio"] = torch.tensor([0.0 if whitening is None else TOP_RATIO])
        quantiles, explained = on_kept(self.trainer, unseen, mean, std, whitening)
        # The paper takes the mean of both maps. An autoencoder that has not learned yet predicts nothing, and its map
        # would be noise: it counts for as much as it explains.
        share = 0.5 if as_long else 0.5 * explained
        state |= {"quantiles": quantiles, "map_weights": torch.tensor([1 - share, share])}
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
            raise diverged(n_done, math.nan, options.learning_rate)
        state["n_steps"] = torch.tensor([before + n_done])
        return {name: tensor.to(options.statistics_device) for name, tensor in state.items()}

    def _train(self, data: "_Data", started: float, long: bool, on_step: OnStep | None) -> int:
        """Steps done: until the budget's time or steps are over, or fewer where `on_step` said that it is enough."""
        optimizer, position, paused = self.trainer.optimizer(), Position(), self._checkpoint
        if paused is None:
            max_steps = self.budget.steps_limit(long, self._n_added)
            end = self.budget.end(started, self._n_added, long=long)
            seconds = None if end is None else end.at - time.perf_counter()
        else:
            max_steps, seconds = paused["max_steps"], paused["max_seconds"]
            position = Position(paused["n_done"], paused["seconds"], paused["loss"])
            end = None if seconds is None else End(time.perf_counter() + seconds - position.seconds)
            self.trainer.restore(paused, optimizer)

        def step(done: float) -> Tensor:
            for group in optimizer.param_groups:
                group["lr"] = self.options.learning_rate * rate_factor(done, long)
            pictures, features, penalty = data.batch()
            again = data.recoloured(pictures) if long else None
            return self.trainer.step(pictures, features, penalty, optimizer, again, hard_ratio(done, long))

        try:
            return train(
                step,
                end=end,
                max_steps=max_steps,
                device=self.options.device,
                on_step=on_step,
                learning_rate=self.options.learning_rate,
                position=position,
            )
        except Pause as pause:
            schedule = {"long": long, "max_steps": max_steps, "max_seconds": seconds}
            pause.checkpoint = schedule | asdict(position) | data.checkpoint() | self.trainer.checkpoint(optimizer)
            raise


def whitening_of(trainer: Trainer, groups: Sequence[Sequence[Tensor]], mean: Tensor, std: Tensor) -> Tensor:
    """What turns differences of student and teacher into ones that are more alike in all directions on good pictures.

    The student fails at some channels, and at some of their combinations, on every picture. With M the mean of d·dᵀ
    over the differences d of good pictures and r the mean of its diagonal, the squared length of W·d is
    dᵀ·(M + r·I)⁻¹·d: what is unusual for them. Without r, directions that hardly vary would decide.

    Args:
        groups: good pictures (H, W, 3). Each group counts alike, however many it has: on pictures that were trained on
            the student errs less.

    Returns:
        W, float32 (C, C).
    """
    device, moments = trainer.options.statistics_device, 0.0
    with torch.no_grad():
        for pictures in groups:
            total, count = 0.0, 0
            for picture in pictures:
                taught, student, _ = trainer.networks.descriptions(picture[None], mean, std, trainer.options.dtype)
                apart = (taught - student[:, : taught.shape[1]])[0].flatten(1).to(device)  # (C, h·w)
                total, count = total + (apart @ apart.T).double(), count + apart.shape[1]
            moments = moments + total / count / len(groups)
        if not bool(moments.isfinite().all()):  # who called says so, of the networks
            return moments.float()
        moments.diagonal().add_(moments.diagonal().mean() + 1e-12)
        return torch.linalg.cholesky(torch.linalg.inv(moments)).mT.float().contiguous().to(trainer.options.device)


def on_kept(
    trainer: Trainer, pictures: Sequence[Tensor], mean: Tensor, std: Tensor, whitening: Tensor | None
) -> tuple[Tensor, float]:
    """What pictures (H, W, 3) that were not trained on say.

    Returns:
        The quantiles of the local and of the global map, (2, 2); and the part of the teacher's variance that the
        autoencoder explains, from 0 to 1.
    """
    values: list[list[Tensor]] = [[], []]
    errors, variances = 0.0, 0.0
    with torch.no_grad():
        for picture in pictures:
            said = trainer.networks.descriptions(picture[None], mean, std, trainer.options.dtype)
            for found, m in zip(values, squared_differences(*said, whitening), strict=True):
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
    """The teacher's output for the pictures: computed when it is first asked for, then kept in float16.

    What the memory does not hold is computed in each step.
    """

    def __init__(self, trainer: Trainer, pictures: Tensor) -> None:
        self.trainer, self.pictures = trainer, pictures
        self._kept: dict[int, Tensor] = {}
        self._n_bytes, self._max_bytes = 0, keepable_bytes(pictures.device)

    def __call__(self, chosen: Sequence[int]) -> Tensor:
        """Float32 (B, C, h, w), not normalised."""
        found = {i: self._kept[i] for i in chosen if i in self._kept}
        missing = [i for i in dict.fromkeys(chosen) if i not in found]
        if missing:
            for i, features in zip(missing, self.trainer.teacher(rows(self.pictures, missing)).half(), strict=True):
                found[i] = features
                if self._n_bytes + features.nbytes <= self._max_bytes:
                    self._kept[i] = features
                    self._n_bytes += features.nbytes
        return torch.stack([found[i] for i in chosen]).float()

    def statistics(self, chosen: np.ndarray, on_picture: Callable[[], None] | None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every channel over the chosen pictures, (1, C, 1, 1)."""
        options, total, squares, count = self.trainer.options, 0.0, 0.0, 0
        for i in chosen.tolist():
            features = self([i]).to(options.statistics_device).double()
            total, squares = total + features.sum((0, 2, 3)), squares + (features**2).sum((0, 2, 3))
            count += features[0, 0].numel()
            if on_picture is not None:
                on_picture()
        mean = total / count
        std = (squares / count - mean**2).clamp_min(0).sqrt()
        # A channel that never moves on good pictures would blow up the first time it does.
        std = std.clamp_min(max(1e-3 * float(std.max()), 1e-6))
        return tuple(t.float().to(options.device)[None, :, None, None] for t in (mean, std))


class _Data:
    """Batches without end: pictures to learn from, the teacher's output, and unrelated pictures."""

    def __init__(
        self,
        taught: _Taught,
        learned: np.ndarray,
        mean: Tensor,
        std: Tensor,
        rng: np.random.Generator,
        long: bool,
        paused: Checkpoint | None = None,
    ) -> None:
        self.taught, self.mean, self.std, self.rng, self.long = taught, mean, std, rng, long
        options = taught.trainer.options
        # Those first whose features the statistics needed.
        self._order = learned.tolist()
        self._chosen = batches_without_end(rng, learned, options.batch_size, self._order)
        self.penalty, self._n_batches, source = None, 0, options.penalty_source(long)
        if source != "none":
            self._unrelated = PenaltyPictures(source, options.size, rng)
            drawn = torch.from_numpy(self._unrelated.draw(N_PENALTY)) if paused is None else paused["penalty"]
            self.penalty = drawn.to(taught.pictures.device)
        if paused is not None:
            self.rng.bit_generator.state, self._order[:] = paused["random"], paused["order"]
            self._n_batches = paused["n_done"]

    def checkpoint(self) -> Checkpoint:
        """Which pictures come next, and the units of the teacher's output."""
        penalty = self.penalty.cpu() if self.penalty is not None else None
        drawing = {"random": self.rng.bit_generator.state, "order": list(self._order), "penalty": penalty}
        return drawing | {"mean": self.mean.cpu(), "std": self.std.cpu()}

    def batch(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pictures, the teacher's normalised output, unrelated pictures."""
        chosen, penalty = next(self._chosen), None
        features = (self.taught(chosen) - self.mean) / self.std
        self._n_batches += 1
        if self.penalty is not None:
            if self.long and self._n_batches % STEPS_BETWEEN_PENALTIES == 0:
                self._replace(self._n_batches // STEPS_BETWEEN_PENALTIES % N_PENALTY)
            penalty = rows(self.penalty, self.rng.integers(N_PENALTY, size=len(chosen)).tolist())
        return rows(self.taught.pictures, chosen), features, penalty

    def recoloured(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The pictures with changed colours, and the teacher's normalised output for them."""
        pictures = recoloured(pictures, self.rng)
        return pictures, (self.taught.trainer.teacher(pictures) - self.mean) / self.std

    def _replace(self, i: int) -> None:
        with suppress(ImageError):  # a file that cannot be read should not end a training of hours
            self.penalty[i] = sent(torch.from_numpy(self._unrelated.draw(1)[0]), self.penalty.device)


def squared_differences(
    taught: Tensor, student: Tensor, predicted: Tensor, whitening: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Local and global map (B, h, w): where the halves of the student's output disagree with the two others.

    Args:
        whitening: (C, C), from `whitening_of`; None takes the differences from the teacher as they are, as published.
    """
    n = taught.shape[1]
    apart = taught - student[:, :n]
    if whitening is not None:
        apart = F.conv2d(apart, whitening[:, :, None, None])
    return (apart**2).mean(1), ((predicted - student[:, n:]) ** 2).mean(1)


def _kept_apart(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions that only set the quantiles, and those that are trained on; all are both where they are few."""
    if n < 8:
        return np.arange(n), np.arange(n)
    order = rng.permutation(n)
    return order[: n_kept(n)], order[n_kept(n) :]

"""One training step of EfficientAD (algorithm 1 of the appendix), and how its rates change in the course of a training.

In a short training the learning rate is raised, warmed up and brought down to nothing, the autoencoder sees the
pictures as they are, and the student no unrelated pictures.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from admodels.core.method import Checkpoint
from admodels.efficientad.networks import Networks, normalised, output_size, run
from admodels.runtime.quiet import quiet_seconds
from admodels.training.budget import Seconds
from admodels.training.loop import warmed_up_and_decayed

RATE_SCALE = 10.0  # highest learning rate of a short training over the paper's
HARD_RATIO = 0.001  # the part of the squared differences that the hard feature loss takes (1 − p_hard)
SHORT_HARD_RATIO = 0.01  # the same at the end of a short training, which begins with all of them


@dataclass(frozen=True)
class TrainingOptions:
    """What of a method's options, device and pictures a training needs to know.

    Attributes:
        size: (height, width) of the pictures.
        penalty_images: where unrelated pictures come from: auto, generated, none, or a folder.
        dtype: the networks compute in it.
    """

    size: tuple[int, int]
    batch_size: int
    learning_rate: float
    penalty_images: str
    device: torch.device
    statistics_device: torch.device
    dtype: torch.dtype
    compile: bool = False

    def penalty_source(self, long: bool) -> str:
        """In a short training the penalty costs the student half its steps and keeps it from learning good pictures."""
        if self.penalty_images != "auto":
            return self.penalty_images
        return "generated" if long else "none"


class Trainer:
    """Networks that learn, step by step.

    Args:
        networks: on any device; they are moved to that of the options.
    """

    def __init__(self, networks: Networks, options: TrainingOptions) -> None:
        self.networks, self.options = networks, options
        self._dropout = torch.Generator(options.device).manual_seed(0)
        for network in networks:
            network.to(options.device, memory_format=torch.channels_last)
        if options.compile and options.device.type == "cuda":
            for network in networks[1:]:
                network.compile()  # in place: the names of the weights stay

    def teacher(self, pictures: Tensor) -> Tensor:
        """The teacher's output for uint8 (B, H, W, 3): float32 (B, C, h, w), not normalised."""
        with torch.no_grad():
            return run(self.networks.teacher, normalised(pictures), self.options.dtype)

    def checkpoint(self, optimizer: torch.optim.Optimizer) -> Checkpoint:
        """All that a step changes, on the CPU."""
        learning = zip(Networks._fields[1:], self.networks[1:], strict=True)
        adam = optimizer.state_dict()["state"]
        return {
            "networks": {name: _on_cpu(network.state_dict()) for name, network in learning},
            "adam": {parameter: _on_cpu(moments) for parameter, moments in adam.items()},
            "dropout": (self.options.device.type, self._dropout.get_state()),
        }

    def restore(self, checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
        """Take on what `checkpoint` gave."""
        for name, weights in checkpoint["networks"].items():
            getattr(self.networks, name).load_state_dict(weights)
        optimizer.load_state_dict(optimizer.state_dict() | {"state": deepcopy(checkpoint["adam"])})  # steps write to it
        device, drawn = checkpoint["dropout"]
        if device == self.options.device.type:  # another kind of device draws other numbers
            self._dropout.set_state(drawn)

    def optimizer(self) -> torch.optim.Optimizer:
        """For all networks but the teacher."""
        parameters = [p for network in self.networks[1:] for p in network.parameters()]
        return torch.optim.Adam(parameters, lr=self.options.learning_rate, weight_decay=1e-5)

    def step(
        self,
        pictures: Tensor,
        features: Tensor,
        penalty: Tensor | None,
        optimizer: torch.optim.Optimizer,
        recoloured: tuple[Tensor, Tensor] | None = None,
        hard: float = HARD_RATIO,
    ) -> Tensor:
        """One step: the loss.

        Args:
            features: the teacher's for the pictures, normalised.
            penalty: unrelated pictures, where the student must not follow; None leaves that loss out.
            hard: the part of the squared differences that the hard feature loss takes.
            recoloured: pictures for the autoencoder with changed colours and the teacher's output for them, as in the
                paper. In short trainings it takes the pictures as they are, and the student sees a third less.
        """
        n, n_channels, dtype = len(pictures), features.shape[1], self.options.dtype
        x = normalised(pictures)
        parts = [x] if penalty is None else [x, normalised(penalty)]
        of_autoencoder, wanted = x, features
        if recoloured is not None:
            of_autoencoder, wanted = normalised(recoloured[0]), recoloured[1]
            parts.append(of_autoencoder)
        student = run(self.networks.student, torch.cat(parts), dtype).split(n)
        masks = self.networks.autoencoder.dropout_masks(n, self._dropout)
        predicted = run(self.networks.autoencoder, of_autoencoder, dtype, masks)
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


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def measured_seconds(trainer: Trainer, long: bool) -> Seconds:
    """What steps, teacher and scoring take on this machine, on noise.

    Args:
        trainer: with networks that nobody needs afterwards.
    """
    options, device = trainer.options, trainer.options.device
    size = (options.batch_size, *options.size, 3)
    generator = torch.Generator(device).manual_seed(0)
    pictures = torch.randint(0, 256, size, dtype=torch.uint8, device=device, generator=generator)
    h, w = output_size(options.size)
    n = next(reversed(trainer.networks.teacher.state_dict().values())).numel()
    features = torch.randn(options.batch_size, n, h, w, device=device, generator=generator)
    mean, std = torch.zeros(1, n, 1, 1, device=device), torch.ones(1, n, 1, 1, device=device)
    optimizer = trainer.optimizer()
    penalty = pictures if options.penalty_source(long) != "none" else None
    rng = np.random.default_rng(0)

    def step() -> None:
        again = (recoloured(pictures, rng), trainer.teacher(pictures)) if long else None
        trainer.step(pictures, features, penalty, optimizer, again)

    def score() -> None:
        with torch.no_grad():
            trainer.networks.descriptions(pictures[:1], mean, std, options.dtype)

    runs = (step, lambda: trainer.teacher(pictures[:1]), score)
    return Seconds(*(quiet_seconds(r, device, budget=1.0) for r in runs))


def hard_ratio(done: float, long: bool) -> float:
    """The part of the squared differences that the hard feature loss takes when a part `done` of the training is over.

    A student that knows nothing yet differs everywhere: the few largest differences alone would teach it too little.
    """
    return HARD_RATIO if long else SHORT_HARD_RATIO**done


def rate_factor(done: float, long: bool) -> float:
    """Factor of the learning rate when a part `done`, from 0 to 1, of the training is over."""
    if long:
        return 0.1 if done >= 0.95 else 1.0
    return RATE_SCALE * warmed_up_and_decayed(done)


def recoloured(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """uint8 (B, H, W, 3) with brightness, contrast or saturation changed by a factor of 0.8 to 1.2, one for all."""
    factor = rng.uniform(0.8, 1.2)
    x = pictures.float()
    red, green, blue = x.split(1, -1)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    around = (torch.zeros_like(grey), grey.mean((1, 2), keepdim=True), grey)[rng.integers(3)]
    return (around + factor * (x - around)).clamp(0, 255).round().to(torch.uint8)

"""EfficientAD as it runs here against its textbook form: float32, NCHW, batch 1, nothing kept between steps.

The textbook form is algorithm 1 of the paper's appendix in plain PyTorch, with the same networks at the same size: it
computes the teacher's output anew in every step, and the student's for the picture, the penalty picture and the
augmented picture one after the other.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from admodels.core.detector import Detector
from admodels.efficientad.method import EfficientAd
from admodels.efficientad.networks import Autoencoder, Conv, Networks, Pdn, normalised, output_size
from admodels.efficientad.step import HARD_RATIO
from admodels.evaluation.timing import conditions, median_seconds
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.exact import exact_products

N_ROUNDS = 5
SIDE = 256  # the paper's


@dataclass(frozen=True)
class Compared:
    """Milliseconds, medians of interleaved runs, ours and the textbook's."""

    conditions: str
    predict_ms: float
    textbook_predict_ms: float
    step_ms: float
    textbook_step_ms: float

    @property
    def predict_ratio(self) -> float:
        """How many times as fast a prediction is."""
        return self.textbook_predict_ms / self.predict_ms

    @property
    def step_ratio(self) -> float:
        """How many times as fast a training step is."""
        return self.textbook_step_ms / self.step_ms


def compare_with_textbook(method: EfficientAd) -> Compared:
    """Time both forms on noise of the paper's size, with the options of a method."""
    side = SIDE
    shape, device = WorkingShape((side, side), (side, side)), method.device
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(6)]
    config = replace(method.config, max_steps=1, image_size=side, crop=None)
    fitted = Detector(EfficientAd(config, device=device)).fit(pictures)
    batch = torch.from_numpy(pictures[0])[None]
    plain = _Textbook(fitted.fitted_.scorer.networks, shape, device)
    trainer = fitted.method.learner(shape, 1).trainer
    h, w = output_size((side, side))
    generator = torch.Generator(device).manual_seed(0)
    features = torch.randn(1, fitted.state_["mean"].numel(), h, w, device=device, generator=generator)
    on_device, optimizer = batch.to(device), trainer.optimizer()
    runs = {
        "predict_ms": lambda: fitted.score_batch(batch),
        "textbook_predict_ms": lambda: plain.predict(batch),
        "step_ms": lambda: trainer.step(on_device, features, on_device, optimizer),
        "textbook_step_ms": lambda: plain.step(on_device, on_device),
    }
    with exact_products(device):  # float32 is the same to all of them
        seconds = median_seconds(runs, device, N_ROUNDS)
    return Compared(conditions(fitted, shape, 1), **{name: 1e3 * value for name, value in seconds.items()})


class _Textbook:
    """Plain modules with the weights of a fitted detector."""

    def __init__(self, networks: Networks, shape: WorkingShape, device: torch.device) -> None:
        self.device, self.size = device, shape.cropped
        self.teacher, self.student, self.autoencoder = (_plain(network, shape).to(device) for network in networks)
        parameters = [*self.student.parameters(), *self.autoencoder.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-4, weight_decay=1e-5)

    def predict(self, batch: Tensor) -> Tensor:
        with torch.no_grad():
            x = normalised(batch.to(self.device)).contiguous()
            t, s, a = self.teacher(x), self.student(x), self.autoencoder(x)
            n = t.shape[1]
            local, whole = ((t - s[:, :n]) ** 2).mean(1, keepdim=True), ((a - s[:, n:]) ** 2).mean(1, keepdim=True)
            maps = [F.interpolate(m, self.size, mode="bilinear") for m in (local, whole)]
            return (0.5 * maps[0] + 0.5 * maps[1]).cpu()

    def step(self, picture: Tensor, penalty: Tensor) -> float:
        x, p = (normalised(batch).contiguous() for batch in (picture, penalty))
        augmented = x * 1.1
        with torch.no_grad():
            t, t_augmented = self.teacher(x), self.teacher(augmented)
        n = t.shape[1]
        difference = (t - self.student(x)[:, :n]) ** 2
        hard = torch.quantile(difference.flatten()[: 2**24], 1 - HARD_RATIO)
        loss = difference[difference >= hard].mean() + (self.student(p)[:, :n] ** 2).mean()
        a, s = self.autoencoder(augmented), self.student(augmented)
        loss = loss + F.mse_loss(a, t_augmented) + F.mse_loss(s[:, n:], a)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def _plain(network: nn.Module, shape: WorkingShape) -> nn.Module:
    """A copy whose convolutions are PyTorch's own, NCHW."""
    if isinstance(network, Autoencoder):
        copy: nn.Module = Autoencoder(shape.cropped, network.last[1].out_channels)
    else:
        size = "small" if len(list(network.children())) == 4 else "medium"
        copy = Pdn(size, list(network.children())[-1].out_channels)
    copy.load_state_dict({name: t.detach().contiguous() for name, t in network.state_dict().items()})
    for module in list(copy.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv):
                module.register_module(name, _plain_convolution(child))
    return copy


def _plain_convolution(conv: Conv) -> nn.Conv2d:
    plain = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    plain.load_state_dict(conv.state_dict())
    return plain

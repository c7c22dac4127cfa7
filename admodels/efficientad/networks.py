"""The networks of EfficientAD: patch description networks and the autoencoder (tables 6 to 8 of the paper's appendix).

Without padding a patch description network (PDN) sees, for each vector that it gives, a patch of 33×33 pixels and
nothing beside it; vectors lie 4 pixels apart. Input is RGB, normalised with ImageNet's mean and standard deviation.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from admodels.efficientad.winograd import convolve, convolve_transformed, transformed_weight
from admodels.runtime.backbone_specs import IMAGENET_MEAN, IMAGENET_STD
from admodels.runtime.device import computing_in
from admodels.runtime.normalising import Normalisation
from admodels.runtime.tracing import is_traced

OUT_CHANNELS = 384
STRIDE = 4  # between the vectors of a PDN, in pixels
MIN_SIDE = 64
FIRST_MIDDLE = 16.5  # of the first vector's patch of 33 pixels, from the edge

# For each convolution: kernel, channels (None: as many as the network gives), padding where there is padding at all.
LAYERS: dict[str, tuple[tuple[int, int | None, int], ...]] = {
    "small": ((4, 128, 3), (4, 256, 3), (3, 256, 1), (4, None, 0)),
    "medium": ((4, 256, 3), (4, 512, 3), (1, 512, 0), (3, 512, 1), (4, None, 0), (1, None, 0)),
}
DROPOUT_RATIO = 0.2
N_POOLED = 2  # the first convolutions are followed by an average over 2×2


class Conv(nn.Conv2d):
    """A convolution that takes the shortest way on its device; weights and results are those of `nn.Conv2d`."""

    _kept: tuple[tuple[int, int], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, H, W) to (B, C', H', W')."""
        direct = x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
        direct = direct or is_traced()  # for another engine, which has its own ways
        if direct or self.kernel_size not in ((3, 3), (4, 4)) or self.stride != (1, 1) or self.in_channels < 32:
            return super().forward(x)
        pad = self.padding[0]
        x = F.pad(x, (pad,) * 4) if pad else x
        if torch.is_grad_enabled():
            y = convolve(x, self.weight)
        else:
            y = convolve_transformed(x, self._transformed(), self.kernel_size[0])
        return y + self.bias[:, None, None]

    def _transformed(self) -> Tensor:
        """The transformed weight; kept as long as the weight stays as it is."""
        version = 0 if self.weight.is_inference() else self.weight._version  # those cannot change
        key = self.weight.data_ptr(), version
        if self._kept is None or self._kept[0] != key:
            self._kept = key, transformed_weight(self.weight.detach())
        return self._kept[1]


class Pdn(nn.Module):
    """A patch description network.

    Args:
        size: "small" or "medium".
        n_out: channels of the result.
        padding: as in distillation (256 → 64); without, as in detection (256 → 56).
    """

    def __init__(self, size: str = "small", n_out: int = OUT_CHANNELS, *, padding: bool = False) -> None:
        super().__init__()
        self.padding = padding
        n_in = 3
        for i, (kernel, channels, pad) in enumerate(LAYERS[size]):
            layer = Conv(n_in, channels or n_out, kernel, padding=pad if padding else 0)
            self.add_module(f"conv{i + 1}", layer)
            n_in = layer.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, n_out, H', W'), see `output_size`."""
        *hidden, last = self.children()
        for i, layer in enumerate(hidden):
            x = F.relu_(layer(x))
            if i < N_POOLED:
                x = F.avg_pool2d(x, 2, 2, padding=1 if self.padding else 0)
        return last(x)


NORMALISATION = Normalisation(IMAGENET_MEAN, IMAGENET_STD)


def normalised(batch: Tensor) -> Tensor:
    """uint8 RGB (B, H, W, 3) to what these networks take: float32 (B, 3, H, W), channels last."""
    return NORMALISATION(batch)


def output_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of what a PDN without padding gives for an input of `size`; the same for both networks."""

    def side(n: int) -> int:
        n = (n - 3) // 2
        n = (n - 3) // 2
        return n - 2 - 3

    return side(size[0]), side(size[1])


class Autoencoder(nn.Module):
    """Squeezes a picture through one vector of 64 numbers and predicts the teacher's output from it.

    Faithful at 256×256. Elsewhere the last convolution of the encoder stays as large as what it sees, but at most 8×8,
    and the decoder's sizes grow in proportion.
    """

    def __init__(self, size: tuple[int, int], n_out: int = OUT_CHANNELS) -> None:
        super().__init__()
        self.size = size
        channels = (3, 32, 32, 64, 64, 64)
        self.encoder = nn.ModuleList(Conv(a, b, 4, stride=2, padding=1) for a, b in pairwise(channels))
        self.latent = Conv(64, 64, tuple(min(8, side // 32) for side in size))
        self.decoder = nn.ModuleList(Conv(64, 64, 4, padding=2) for _ in range(6))
        self.last = nn.ModuleList((Conv(64, 64, 3, padding=1), Conv(64, n_out, 3, padding=1)))

    def forward(self, x: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """(B, 3, H, W) to (B, n_out, H', W'), the size of a PDN's output.

        Args:
            masks: of the dropout, from `dropout_masks`; without them nothing is dropped.
        """
        for layer in self.encoder:
            x = F.relu_(layer(x))
        x = self.latent(x)
        for i, (layer, size) in enumerate(zip(self.decoder, self._decoder_sizes(), strict=True)):
            x = F.relu_(layer(F.interpolate(x, size, mode="bilinear")))
            if masks is not None:
                x = x * masks[i].to(x.dtype)
        x = F.interpolate(x, output_size(self.size), mode="bilinear")
        return self.last[1](F.relu_(self.last[0](x)))

    def dropout_masks(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """For n pictures and each layer of the decoder, what its numbers (n, 64, h, w) are multiplied by.

        PyTorch's own dropout draws from the process's random state, which belongs to other threads too.
        """
        kept = 1 - DROPOUT_RATIO
        masks = []
        for layer, (height, width) in zip(self.decoder, self._decoder_sizes(), strict=True):
            grown = 2 * layer.padding[0] - layer.kernel_size[0] + 1
            size = n, layer.out_channels, height + grown, width + grown
            mask = torch.empty(size, device=generator.device, memory_format=torch.channels_last)
            masks.append(mask.bernoulli_(kept, generator=generator).div_(kept))
        return masks

    def _decoder_sizes(self) -> list[list[int]]:
        return [
            [max(1, side // d - s) for side in self.size]
            for d, s in ((64, 1), (32, 0), (16, 1), (8, 0), (4, 1), (2, 1))
        ]


class Networks(NamedTuple):
    """All three of EfficientAD, on one device."""

    teacher: Pdn
    student: Pdn
    autoencoder: Autoencoder

    def descriptions(self, pictures: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """What the teacher (normalised), the student (twice the channels) and the autoencoder say: (B, C, h, w)."""
        x = normalised(pictures)
        taught, student, predicted = (run(network, x, dtype) for network in self)
        return (taught - mean) / std, student, predicted


def initialise_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Draw initial weights (He et al., 2015), so that every layer passes on what it sees.

    With PyTorch's own, signals shrink from layer to layer, and a short training is over before they have grown again.
    """
    for module in network.modules():
        if isinstance(module, Conv):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(module.bias)


def run(network: nn.Module, x: Tensor, dtype: torch.dtype, *more: Any) -> Tensor:
    """The float32 output of a network that computes in `dtype`: by autocast, or because its weights are of it."""
    if next(network.parameters()).dtype == dtype:
        return network(x.to(dtype), *more).float()
    with computing_in(dtype, x.device):
        return network(x, *more).float()

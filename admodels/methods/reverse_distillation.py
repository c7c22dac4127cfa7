"""Reverse Distillation: a decoder learns to reproduce the maps of a frozen backbone from a narrow summary of them.

Deng and Li, "Anomaly detection via reverse distillation from one-class embedding", 2022. What the decoder cannot
reproduce, since it only ever saw good pictures, is unusual. Maps are B×C×H×W, from fine to coarse, each half as large
as the one before.

In training, parts of some pictures' maps are overlaid by parts of others', and the decoder has to reproduce what was
there before. The paper has nothing of the kind; without it a decoder that saw a few dozen pictures reproduces defects
too. Students that are shown disturbed pictures are taught in this way by Zhang et al., "DeSTSeg", 2023.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from admodels.errors import OptionError
from admodels.methods.feature_maps import parse_layers
from admodels.methods.trained import TrainedConfig, TrainedMethod, TrainedNetwork
from admodels.options import option
from admodels.runtime.backbone_specs import backbone_spec
from admodels.runtime.device import sent
from admodels.training.budget import Schedule

OVERLAY_CELLS = 4  # the parts that are overlaid are about as large as a quarter of a side, or smaller
MAX_OVERLAID = 0.5  # of the area of a step's overlaid pictures; how much is drawn for each step


@dataclass(frozen=True)
class ReverseDistillationConfig(TrainedConfig):
    """Options of Reverse Distillation."""

    learning_rate: float = option(5e-3, "Adam's highest learning rate.", minimum=1e-7, maximum=1.0)
    top_ratio: float = option(
        0.01,
        "Part of the map whose largest values are averaged to the image score; 0 takes the largest, as in the paper.",
        minimum=0,
        maximum=1,
    )
    blocks: int = option(2, "Residual blocks of each stage of the decoder.", minimum=1, maximum=8)
    overlaid: float = option(
        0.5,
        "Share of the pictures in a step of which parts are overlaid by others', to be reproduced as they were; in "
        "the paper 0.",
        minimum=0,
        maximum=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        strides = [backbone_spec(self.backbone).strides[i] for i in parse_layers(self.layers, self.backbone)]
        if any(b != 2 * a for a, b in pairwise(strides)):
            raise OptionError(
                f"layers is {self.layers!r}; Reverse Distillation needs strides of which each is twice the one before, "
                "such as 4,8,16 or 8,16."
            )


class ReverseDistillation(TrainedMethod):
    """A bottleneck over all maps, and a decoder."""

    key = "reverse_distillation"
    title = "Reverse Distillation"
    summary = (
        "A decoder learns to rebuild what the network sees in good parts from a narrow summary. Minutes to fit on a "
        "CPU; the model's size does not depend on the number of pictures."
    )
    Config = ReverseDistillationConfig
    config: ReverseDistillationConfig
    # The paper trains for 200 epochs: of MVTec AD's 242 pictures on average, in batches of 16, about 3,000 steps.
    schedule = Schedule(
        cuda_steps=3_000, cpu_minutes=5.0, long=3_000, short_steps=200, short_epochs=50, long_costs_more=False
    )
    numbers_held = 30.0

    def network(self, sizes: list[tuple[int, int, int]]) -> "Decoder":
        return Decoder([n_channels for n_channels, _, _ in sizes], self.config.blocks, self.config.overlaid)

    def optimizer(self, network: TrainedNetwork) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=self.config.learning_rate, betas=(0.5, 0.999))


class Decoder(TrainedNetwork):
    """All maps are brought to the size of the coarsest, joined and summed up at half that size, and built up again."""

    def __init__(self, channels: list[int], n_blocks: int, overlaid: float) -> None:
        super().__init__()
        self._overlaid, self._rng = overlaid, np.random.default_rng(0)
        narrow = channels[-1]
        self.fusion = nn.ModuleList(
            nn.Sequential(*(_conv_bn_relu(a, b) for a, b in pairwise(channels[i:]))) for i in range(len(channels))
        )
        self.bottleneck = nn.Sequential(
            Block(len(channels) * channels[-1], narrow, "down"), *(Block(narrow, narrow) for _ in range(n_blocks - 1))
        )
        widths = [narrow, *reversed(channels)]
        self.stages = nn.ModuleList(_stage(a, b, n_blocks) for a, b in pairwise(widths))

    def initialise(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps as the decoder reproduces them."""
        # Sizes that two does not divide are rounded up on the way down.
        fused = [_cut(fuse(m), maps[-1]) for fuse, m in zip(self.fusion, maps, strict=True)]
        x, found = self.bottleneck(torch.cat(fused, 1)), []
        for stage, m in zip(self.stages, reversed(maps), strict=True):
            # Without the last activation, which the published decoder has: many networks' maps have negative values.
            found.append(_cut(stage(x), m))
            x = F.relu(found[-1])
        return found[::-1]

    def loss(self, maps: list[Tensor]) -> Tensor:
        """Sum over the maps of the mean over the pictures of 1 − cosine, each map taken as one vector."""
        seen = overlaid(maps, self._overlaid, self._rng) if self.training and self._overlaid else maps
        pairs = zip(maps, self(seen), strict=True)
        return sum((1 - F.cosine_similarity(m.flatten(1), x.float().flatten(1))).mean() for m, x in pairs)

    def anomaly_maps(self, maps: list[Tensor]) -> list[Tensor]:
        """1 − cosine of the vectors at each position."""
        return [1 - F.cosine_similarity(m, x.float(), dim=1) for m, x in zip(maps, self(maps), strict=True)]


def overlaid(maps: list[Tensor], share: float, rng: np.random.Generator) -> list[Tensor]:
    """Maps of which some have parts of another picture's, from another place, the same part in every layer.

    Args:
        share: of the pictures.
    """
    n, device = len(maps[0]), maps[0].device
    coarse = rng.standard_normal((n, 1, OVERLAY_CELLS, OVERLAY_CELLS), dtype=np.float32)
    from_here = np.quantile(coarse, 1 - MAX_OVERLAID * rng.random(), axis=(1, 2, 3), keepdims=True)
    from_here[rng.random(n) >= share] = np.inf
    coarse, from_here = (sent(torch.from_numpy(x.astype(np.float32)), device) for x in (coarse, from_here))
    others, moved = sent(torch.from_numpy(rng.permutation(n)), device), rng.random(2)
    found = []
    for m in maps:
        size = m.shape[2:]
        is_overlaid = F.interpolate(coarse, size, mode="bilinear") > from_here
        by = tuple(int(part * side) for part, side in zip(moved, size, strict=True))
        found.append(torch.where(is_overlaid, m[others].roll(by, (2, 3)), m))
    return found


class Block(nn.Module):
    """Two convolutions and what goes past them; "down" halves the size, "up" doubles it."""

    def __init__(self, n_in: int, n_out: int, way: str = "", *, is_last: bool = False) -> None:
        super().__init__()
        if way == "up":
            first = nn.ConvTranspose2d(n_in, n_out, 2, stride=2, bias=False)
            past = nn.ConvTranspose2d(n_in, n_out, 2, stride=2, bias=False)
        elif way == "down":
            first = nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False)
            past = nn.Conv2d(n_in, n_out, 1, stride=2, bias=False)
        else:
            first, past = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), None
        self.body = nn.Sequential(
            first,
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        self.activation = nn.Identity() if is_last else nn.ReLU()
        self.past = nn.Identity() if past is None else nn.Sequential(past, nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W to B×C'×H'×W'."""
        return self.activation(self.body(x) + self.past(x))


def _stage(n_in: int, n_out: int, n_blocks: int) -> nn.Sequential:
    """Blocks of which the first doubles the size and the last has no activation."""
    ways = ["up", *[""] * (n_blocks - 1)]
    widths = [n_in, *[n_out] * n_blocks]
    return nn.Sequential(*(Block(*widths[i : i + 2], way, is_last=i == n_blocks - 1) for i, way in enumerate(ways)))


def _conv_bn_relu(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())


def _cut(x: Tensor, to: Tensor) -> Tensor:
    """As high and as wide as another map."""
    return x[:, :, : to.shape[2], : to.shape[3]]

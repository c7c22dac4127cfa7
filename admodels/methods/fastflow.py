"""FastFlow: a normalising flow over the maps of a frozen backbone.

Yu et al., "FastFlow: unsupervised anomaly detection and localization via 2D normalizing flows", 2021. Each map, brought
to zero mean and unit deviation, goes through steps that can be inverted; it is trained so that good pictures come out
as independent standard normal numbers. Where they are large, a picture is unusual. B×C×H×W is a map, z what comes out.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from admodels.methods.trained import MapMoments, TrainedConfig, TrainedMethod, TrainedNetwork
from admodels.options import option
from admodels.training.budget import Schedule
from admodels.training.weights import draw_as_pytorch_does

KERNELS = (3, 1)  # of one step after the other
AS_MANY = 8  # pictures, as which a channel's own mean and deviation count beside those of a position
SMALLEST_RATIO, SMALLEST = 1e-4, 1e-12  # deviation over the largest of all channels; variance


@dataclass(frozen=True)
class FastFlowConfig(TrainedConfig):
    """Options of FastFlow."""

    top_ratio: float = option(
        0.01,
        "Part of the map whose largest values are averaged to the image score; 0 takes the largest.",
        minimum=0,
        maximum=1,
    )
    flow_steps: int = option(8, "Steps of the flow of each map.", minimum=1, maximum=32)


class FastFlow(TrainedMethod):
    """One flow for each map."""

    key = "fastflow"
    title = "FastFlow"
    summary = (
        "A small flow network learns how likely each patch is. Minutes to fit on a CPU; the model's size does not "
        "depend on the number of pictures."
    )
    Config = FastFlowConfig
    config: FastFlowConfig
    # The paper trains for 500 epochs: of MVTec AD's 242 pictures on average, in batches of 32, about 4,000 steps.
    schedule = Schedule(cuda_steps=4_000, cpu_minutes=5.0, long=4_000, short_steps=300, long_costs_more=False)
    numbers_held = 50.0

    def network(self, sizes: list[tuple[int, int, int]]) -> "Flows":
        return Flows(sizes, self.config.flow_steps)

    def optimizer(self, network: TrainedNetwork) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=self.config.learning_rate, weight_decay=1e-5)


class Flows(TrainedNetwork):
    """A flow for each map."""

    def __init__(self, sizes: list[tuple[int, int, int]], n_steps: int) -> None:
        super().__init__()
        self.flows = nn.ModuleList(Flow(size, n_steps) for size in sizes)

    def initialise(self, generator: torch.Generator) -> None:
        for flow in self.flows:
            flow.initialise()
            for step in flow.steps:
                step.initialise(generator)

    def look_at(self, moments: list[MapMoments]) -> None:
        for flow, of_map in zip(self.flows, moments, strict=True):
            flow.look_at(of_map)

    def loss(self, maps: list[Tensor]) -> Tensor:
        """Mean over the pictures of ½ Σz² − log |det|, which is their negative log-likelihood but for a constant."""
        total = 0
        for flow, m in zip(self.flows, maps, strict=True):
            z, log_det = flow(m)
            total = total + (0.5 * z.square().sum((1, 2, 3)) - log_det).mean()
        return total

    def anomaly_maps(self, maps: list[Tensor]) -> list[Tensor]:
        """Mean of z² over the channels."""
        return [flow(m)[0].square().mean(1) for flow, m in zip(self.flows, maps, strict=True)]

    def check(self) -> None:
        for module in self.modules():
            if isinstance(module, FlowStep):
                module.check()


class Flow(nn.Module):
    """From a map to z, of the same size, and the logarithm of the Jacobian's determinant, (B,).

    What goes in is brought to zero mean and unit deviation at each position and channel. Else borders, where the
    backbone pads with zeros, would be unusual, and so would places where good pictures vary a lot.
    """

    def __init__(self, size: tuple[int, int, int], n_steps: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(size))
        self.register_buffer("std", torch.empty(size))
        self.steps = nn.ModuleList(FlowStep(size[0], KERNELS[i % len(KERNELS)]) for i in range(n_steps))

    def initialise(self) -> None:
        """As if maps had zero mean and unit deviation already."""
        self.mean.zero_()
        self.std.fill_(1)

    def look_at(self, moments: MapMoments) -> None:
        """Set mean and deviation of each position and channel, drawn to the channel's own where pictures are few."""
        n, mean, variance = moments
        share = n / (n + AS_MANY)
        of_channel = mean.mean((1, 2), keepdim=True)
        spread = (variance + (mean - of_channel).square()).mean((1, 2), keepdim=True)
        self.mean.copy_(share * mean + (1 - share) * of_channel)
        # A channel that never moves on good pictures would blow up the first time it does.
        smallest = max(SMALLEST_RATIO**2 * float(spread.max()), SMALLEST)
        self.std.copy_((share * variance + (1 - share) * spread).clamp_min(smallest).sqrt())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = (x - self.mean) / self.std
        log_det = x.new_zeros(len(x))
        for step in self.steps:
            z, more = step(z)
            log_det = log_det + more
        return z, log_det


class FlowStep(nn.Module):
    """An affine coupling, a scale and an offset for each channel, and the channels in another order."""

    def __init__(self, n_channels: int, kernel: int) -> None:
        super().__init__()
        n_second = n_channels // 2
        self.sizes = n_channels - n_second, n_second
        self.subnet = nn.Sequential(
            nn.Conv2d(self.sizes[0], self.sizes[0], kernel, padding="same"),
            nn.ReLU(),
            nn.Conv2d(self.sizes[0], 2 * n_second, kernel, padding="same"),
        )
        self.scale = nn.Parameter(torch.empty(n_channels))
        self.offset = nn.Parameter(torch.empty(n_channels))
        self.register_buffer("order", torch.empty(n_channels, dtype=torch.long))

    def initialise(self, generator: torch.Generator) -> None:
        """So that what comes out at first is what goes in, but for a little."""
        for conv in (self.subnet[0], self.subnet[2]):
            draw_as_pytorch_does(conv, generator)
        self.scale.fill_(2 * math.log(math.expm1(5)))  # `_scales` of it is 1
        self.offset.zero_()
        self.order.copy_(torch.randperm(len(self.order), generator=generator))

    def check(self) -> None:
        n = len(self.order)
        if not torch.equal(self.order.sort().values.cpu(), torch.arange(n)):
            raise ValueError(f"order does not name each of {n} channels once")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map after this step, and the logarithm of the Jacobian's determinant, (B,)."""
        first, second = x.split(self.sizes, 1)
        log_scale, shift = self._coupling(first)
        y = torch.cat([first, second * log_scale.exp() + shift], 1)
        scales = self._scales()
        y = y * scales[:, None, None] + self.offset[:, None, None]
        log_det = log_scale.sum((1, 2, 3)) + x[0, 0].numel() * scales.log().sum()
        return y[:, self.order], log_det

    def inverse(self, y: Tensor) -> Tensor:
        """The map before this step."""
        x = y[:, self.order.argsort()]
        x = (x - self.offset[:, None, None]) / self._scales()[:, None, None]
        first, second = x.split(self.sizes, 1)
        log_scale, shift = self._coupling(first)
        return torch.cat([first, (second - shift) * (-log_scale).exp()], 1)

    def _coupling(self, first: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = (0.1 * self.subnet(first).float()).chunk(2, 1)
        return 2 * log_scale.tanh(), shift

    def _scales(self) -> Tensor:
        return 0.1 * F.softplus(self.scale, beta=0.5)

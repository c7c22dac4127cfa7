"""Initial weights, drawn by a generator of ours and not from the process's random state."""

import math

import torch
from torch import nn


def draw_as_pytorch_does(layer: nn.Conv2d, generator: torch.Generator) -> None:
    """Draw the weights and the bias that PyTorch would give to a convolution."""
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    bound = layer.weight[0].numel() ** -0.5
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)

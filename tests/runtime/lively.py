"""Networks of random weights whose batch norms do something: a new one changes nothing, and would hide a mistake."""

import torch
from torch import nn


def with_lively_norms(network: nn.Module) -> nn.Module:
    """The network itself, in evaluation, with every floating-point tensor changed a little; always in the same way."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.eval().state_dict().items():
        if tensor.is_floating_point():
            tensor.mul_(torch.empty_like(tensor).uniform_(0.9, 1.1, generator=generator))
            if "running_mean" in name:
                tensor.add_(torch.empty_like(tensor).uniform_(-0.1, 0.1, generator=generator))
    return network

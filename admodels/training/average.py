"""The mean of a network's weights over steps of its training."""

import torch
from torch import nn


class Average:
    """Begins with the weights as they are.

    PyTorch's `AveragedModel` keeps its count in a tensor and waits for a GPU in every step to read it there.
    """

    def __init__(self, network: nn.Module) -> None:
        self._weights = [parameter.detach() for parameter in network.parameters()]
        self._mean = [weight.clone() for weight in self._weights]
        self._n = 1

    def add(self) -> None:
        """Take in the weights as they are now."""
        self._n += 1
        apart = torch._foreach_sub(self._weights, self._mean)
        torch._foreach_div_(apart, self._n)
        torch._foreach_add_(self._mean, apart)

    def write(self) -> None:
        """Give the network the mean as its weights."""
        torch._foreach_copy_(self._weights, self._mean)

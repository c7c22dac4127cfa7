"""Whether numbers are finite, without waking PyTorch's threads on a CPU.

Once they have worked, those wait in a busy loop for more to do, and take the cores from whatever comes next: looking at
three maps in PyTorch took 0.05 ms, and the following pass of OpenVINO 3 ms longer.
"""

import numpy as np
import torch
from torch import Tensor


def are_finite(*tensors: Tensor) -> bool:
    """Whether no value of these tensors, of floating point, is NaN or infinite."""
    # A sum is not finite where one of its numbers is not, and takes no memory; it may overflow besides.
    if all(tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64) for tensor in tensors):
        with np.errstate(all="ignore"):
            sums_are = all(bool(np.isfinite(_in_memory_order(tensor).sum())) for tensor in tensors)
    else:
        sums_are = bool(torch.stack([tensor.sum().float() for tensor in tensors]).isfinite().all())
    return sums_are or all(bool(tensor.isfinite().all()) for tensor in tensors)


def _in_memory_order(tensor: Tensor) -> np.ndarray:
    """The tensor's numbers, neighbours in memory last: a sum is fast that way only."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.detach().permute(order).numpy()

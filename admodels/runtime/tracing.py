"""Whether a computation is being written down for another runtime, rather than carried out."""

import torch


def is_traced() -> bool:
    """Whether PyTorch is tracing or exporting: short cuts of its own would only hinder the other runtime."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting() or torch.compiler.is_compiling()

"""Products in float32 keep their digits on a GPU, whatever the host program has set.

PyTorch lets convolutions round their float32 input to TF32 (10 bits) unless told otherwise, and a host program may have
allowed it for matrix products too. A distance as ‖q‖² − 2·q·k + ‖k‖² would lose the digits that it consists of, and a
model would score differently from one program to another. The settings are the process's, so they are changed for as
long as one of our passes runs, and are then as they were.

With `ADMODELS_DETERMINISTIC=1` kernels that give the same result in every run are taken too, where PyTorch has them:
the others add up in the order in which their threads end. They are slower.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch


class _Settings(NamedTuple):
    """Of the process: whether products and convolutions may round to TF32, and what is asked of kernels."""

    products: bool
    convolutions: bool
    cudnn_deterministic: bool
    deterministic: bool
    warns_only: bool


_lock = threading.Lock()
_n_inside = 0
_before: _Settings | None = None


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Within it, products in float32 on this device are of float32; on other devices than CUDA they always are."""
    if device.type != "cuda":
        yield
        return
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _n_inside, _before
    with _lock:
        if _n_inside == 0:
            _before = _now()
            inside = _before._replace(products=False, convolutions=False)
            if os.environ.get("ADMODELS_DETERMINISTIC", "") not in ("", "0"):
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
                warns_only = _before.warns_only or not _before.deterministic  # some kernels come in one kind alone
                inside = inside._replace(cudnn_deterministic=True, deterministic=True, warns_only=warns_only)
            _set(inside)
        _n_inside += 1


def _leave() -> None:
    global _n_inside
    with _lock:
        _n_inside -= 1
        if _n_inside == 0:
            _set(_before)


def _now() -> _Settings:
    return _Settings(
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _set(settings: _Settings) -> None:
    torch.backends.cuda.matmul.allow_tf32 = settings.products
    torch.backends.cudnn.allow_tf32 = settings.convolutions
    torch.backends.cudnn.deterministic = settings.cudnn_deterministic
    torch.use_deterministic_algorithms(settings.deterministic, warn_only=settings.warns_only)

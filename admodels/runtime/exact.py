"""Products in float32 keep their digits on a GPU, whatever the host program has set.

PyTorch lets convolutions round their float32 input to TF32 (10 bits) unless told otherwise, and a host program may have
allowed it for matrix products too. A distance as ‖q‖² − 2·q·k + ‖k‖² would lose the digits that it consists of, and a
model would score differently from one program to another. The settings are the process's, so they are changed for as
long as one of our passes runs, and are then as they were.

PyTorch keeps each setting twice, as `allow_tf32` and as `fp32_precision`. It refuses to read the first where a host
program has set the second alone, and a precision that is not set is that of all of PyTorch.

With `ADMODELS_DETERMINISTIC=1` kernels that give the same result in every run are taken too, where PyTorch has them:
the others add up in the order in which their threads end. They are slower.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

EXACT = "ieee"


class Settings(NamedTuple):
    """Of products and of cuDNN's convolutions and recurrent layers; and what is asked of kernels."""

    products_may: bool
    cudnn_may: bool
    products: str
    convolutions: str
    recurrent: str
    cudnn_deterministic: bool
    deterministic: bool
    warns_only: bool


_lock = threading.Lock()
_n_inside = 0
_before: Settings | None = None


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
            _before = _read()
            _write(_inside(_before))
        _n_inside += 1


def _leave() -> None:
    global _n_inside
    with _lock:
        _n_inside -= 1
        if _n_inside == 0:
            _write(_before)


def _inside(host: Settings) -> Settings:
    exact = host._replace(products_may=False, cudnn_may=False, products=EXACT, convolutions=EXACT, recurrent=EXACT)
    if os.environ.get("ADMODELS_DETERMINISTIC", "") in ("", "0"):
        return exact
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    warns_only = host.warns_only or not host.deterministic  # some kernels come in one kind alone
    return exact._replace(cudnn_deterministic=True, deterministic=True, warns_only=warns_only)


def _read() -> Settings:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    products, convolutions, recurrent = matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
    try:
        products_may = matmul.allow_tf32
    except RuntimeError:  # the two contradict each other
        products_may = products != "tf32"
    try:
        cudnn_may = cudnn.allow_tf32
    except RuntimeError:
        cudnn_may = convolutions != "tf32" or recurrent != "tf32"
    asked = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return Settings(products_may, cudnn_may, products, convolutions, recurrent, cudnn.deterministic, *asked)


def _write(settings: Settings) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    matmul.allow_tf32, cudnn.allow_tf32 = settings.products_may, settings.cudnn_may  # changes the precisions too
    matmul.fp32_precision = settings.products
    cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = settings.convolutions, settings.recurrent
    cudnn.deterministic = settings.cudnn_deterministic
    torch.use_deterministic_algorithms(settings.deterministic, warn_only=settings.warns_only)

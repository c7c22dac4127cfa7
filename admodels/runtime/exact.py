"""Products in float32 keep their digits on a GPU, whatever the host program has set.

PyTorch lets convolutions round their float32 input to TF32 (10 bits) unless told otherwise, and a host program may have
allowed it for matrix products too. A distance as ‖q‖² − 2·q·k + ‖k‖² would lose the digits that it consists of, and a
model would score differently from one program to another. The settings are the process's, so they are changed for as
long as one of our passes runs, and are then as they were.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_n_inside = 0
_before: tuple[bool, bool] = (False, True)


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
            _before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
            _allow(False, False)
        _n_inside += 1


def _leave() -> None:
    global _n_inside
    with _lock:
        _n_inside -= 1
        if _n_inside == 0:
            _allow(*_before)


def _allow(products: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions

"""Memory of this process or of its GPU: its peak over a stretch of code, what may be used, and how glibc keeps it."""

import ctypes
import sys
import threading
from pathlib import Path
from typing import Self

import psutil
import torch

CPU = torch.device("cpu")
KEPT_BYTES = 4 * 2**30  # of a machine's memory
GPU_SHARE = 0.5  # of what is free on a GPU; a training's steps take from the rest
BLOCK_SHARE, MAX_BLOCK_BYTES = 1 / 8, 2**30  # of what a GPU has free, for the rows that are computed at once


class PeakMemory:
    """Context manager; `mib` is the most memory that was used within it.

    On CUDA that is what PyTorch's allocator says of tensors, the most since the context began (its own peak starts anew
    there). Elsewhere it is looked at every few milliseconds: the process's resident memory, or the GPU's on MPS.
    """

    def __init__(self, device: torch.device = CPU, interval_seconds: float = 0.01) -> None:
        self.mib = 0.0
        self._device, self._interval = device, interval_seconds
        self._stop = threading.Event()
        self._process = psutil.Process()

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._sample()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        self.mib = max(self.mib, self._used() / 2**20)

    def _used(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if self._device.type == "mps":
            return torch.mps.driver_allocated_memory()
        return self._process.memory_info().rss


def available_mib(device: torch.device = CPU) -> float:
    """What this process may use of a device's memory, its present use included; the CPU's is the container's share."""
    if device.type == "cuda":
        return (free_bytes(device) + torch.cuda.memory_allocated(device)) / 2**20
    if device.type == "mps":
        return torch.mps.recommended_max_memory() / 2**20
    process = psutil.Process().memory_info().rss
    total = psutil.virtual_memory().available + process
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text(encoding="utf-8")))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total / 2**20


def free_bytes(device: torch.device) -> int:
    """What is left of a GPU's memory for this process, what its allocator keeps for later included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()


def keepable_bytes(device: torch.device) -> int:
    """How much of what a training learns from may be kept on its device, where the training begins now."""
    if device.type == "cpu":
        return KEPT_BYTES
    share = max(0, int(free_bytes(device) * GPU_SHARE))
    return share if device.type == "cuda" else min(share, KEPT_BYTES)  # MPS has the machine's memory


def rows_at_once(n: int, row_bytes: int, device: torch.device, on_cpu: int, most_bytes: int = MAX_BLOCK_BYTES) -> int:
    """How many of n rows are computed at a time.

    On a CPU the cache decides, and it is `on_cpu`. A GPU takes as many as `most_bytes` and a part of its free memory
    hold, and as few as a CPU where that is nearly full: it is tried all the same.

    Args:
        row_bytes: of all that computing one row takes.
    """
    if device.type == "cpu" or n <= on_cpu:  # the driver need not be asked in every batch of a prediction
        return on_cpu
    return max(on_cpu, min(most_bytes, int(free_bytes(device) * BLOCK_SHARE)) // row_bytes)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed between batches, for programs that run networks on a CPU; elsewhere it does nothing.

    By default large buffers go back to the system after every layer and are mapped, zeroed and faulted in again for the
    next. Keeping them makes a batch of 8 at 224² up to 1.6 times as fast (8.4 against 13.5 ms per picture, one run).
    It is the program's choice, not the library's: the command line and the app call it, an import does not.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # malloc.h
    mallopt(mmap_threshold, 32 * 2**20)  # the most it takes
    mallopt(trim_threshold, 2**30)
    # Each thread that predicts would keep its own, eight for each core; a server's threads come and go.
    mallopt(arena_max, 2)

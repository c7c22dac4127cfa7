"""Where the networks run and at what precision."""

import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from admodels.errors import OptionError

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device to use: "auto" takes CUDA where there is one, else MPS, else the CPU.

    Raises:
        OptionError: the name is unknown, or this machine has no such device.
    """
    asked, expected = device, f"expected one of {', '.join(DEVICES)} (or cuda:1 and so on)"
    if isinstance(device, torch.device):
        device = str(device)
    if not isinstance(device, str):
        raise OptionError(f"device is {asked!r}; {expected}.")
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    match = re.fullmatch(r"(cpu|cuda|mps)(?::(\d{1,3}))?", device, re.ASCII)
    if match is None:
        raise OptionError(f"device is {asked!r}; {expected}.")
    kind, index = match[1], int(match[2] or 0)
    if kind == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"device is {device!r}, but PyTorch finds no CUDA GPU here. Use device='auto' or 'cpu'.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise OptionError(f"device is {device!r}, but PyTorch finds no Apple GPU here. Use device='auto' or 'cpu'.")
    n = torch.cuda.device_count() if kind == "cuda" else 1
    if index >= n:
        there = kind if n == 1 else f"{kind}:0 to {kind}:{n - 1}"
        raise OptionError(f"device is {device!r}, but there is only {there} here. Use device={kind!r}.")
    return torch.device(device)


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype that the backbone computes in.

    "auto" takes bfloat16 only where the hardware multiplies it natively; with `ADMODELS_BFLOAT16=0` on no CPU. One
    without AVX512-BF16 or AMX emulates it: measured on an AVX2 EPYC, a 2048² product runs at 0.3 GFLOP/s instead of 79.
    A GPU that multiplies float16 alone (V100, T4) computes in that.
    """
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        return _fastest_on_cuda(device)
    if device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def trainable(dtype: torch.dtype) -> torch.dtype:
    """What a network is trained in where it predicts in `dtype`: in float16 small gradients would become 0."""
    return torch.float32 if dtype == torch.float16 else dtype


def computing_in(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Where networks with weights in float32 compute in `dtype`."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def describe_device(device: torch.device) -> str:
    """A name to print beside every measured number, for example "CUDA (NVIDIA L4)" or "CPU (AMD EPYC, 2 threads)"."""
    if device.type == "cuda":
        return f"CUDA ({torch.cuda.get_device_name(device)})"
    if device.type == "mps":
        return f"MPS ({platform.processor() or 'Apple GPU'})"
    threads = torch.get_num_threads()
    return f"CPU ({_cpu_name()}, {threads} thread{'s' if threads > 1 else ''})"


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished, so that a clock read next to it tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor from the CPU on a device; a copy to CUDA does not wait until what runs there has finished."""
    if device.type == "cuda":  # pinned memory alone is copied in that way
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def usable_cores() -> int:
    """How many threads to compute with: PyTorch's own number, or this process's share of the CPU if that is less.

    PyTorch sees the cores of the whole machine; in a container, more threads than its share (rounded up) would wait for
    each other.
    """
    from joblib import cpu_count  # here, since it takes a while that only servers need

    return min(torch.get_num_threads(), cpu_count())


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the device waited for before and after."""
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


def statistics_device(device: torch.device) -> torch.device:
    """Where the linear algebra runs: with the network, except on MPS, which lacks the decompositions and float64."""
    return torch.device("cpu") if device.type == "mps" else device


def _fastest_on_cuda(device: torch.device) -> torch.dtype:
    if torch.version.hip:  # AMD's numbers mean something else; all that PyTorch runs on have it
        return torch.bfloat16
    capability = torch.cuda.get_device_capability(device)  # of the device that is used, which need not be the first
    if capability >= (8, 0):
        return torch.bfloat16
    return torch.float16 if capability >= (7, 0) else torch.float32


def _cpu_has_bfloat16() -> bool:
    if os.environ.get("ADMODELS_BFLOAT16") == "0":
        return False
    # Older releases do not tell; float32 is then the safe choice.
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

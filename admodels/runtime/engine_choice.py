"""Which engine runs a network: OpenVINO on a CPU where it is installed, else PyTorch.

`ADMODELS_ENGINE` chooses: auto (the default), torch or openvino.
"""

import os

import torch
from torch import nn

from admodels.errors import OptionError
from admodels.runtime import openvino_engine
from admodels.runtime.engines import TORCH_TITLE, Engine, TorchEngine
from admodels.runtime.normalising import Normalisation
from admodels.runtime.openvino_engine import OpenVinoEngine

ENGINES = ("auto", "torch", "openvino")


def asked_engine() -> str:
    """The engine that is asked for, one of `ENGINES`.

    Raises:
        OptionError: `ADMODELS_ENGINE` is something else, or the engine is not installed.
    """
    asked = os.environ.get("ADMODELS_ENGINE") or "auto"
    if asked not in ENGINES:
        raise OptionError(f"ADMODELS_ENGINE is {asked!r}; expected one of {', '.join(ENGINES)}. Set it, or unset it.")
    if asked == "openvino" and not openvino_engine.is_installed():
        raise OptionError("ADMODELS_ENGINE is 'openvino', which is not installed. Run: pip install openvino")
    return asked


def engine_for(
    network: nn.Module,
    normalisation: Normalisation,
    device: torch.device,
    dtype: torch.dtype,
    *,
    asked: str,
    takes_any_size: bool,
    is_kept: bool,
) -> Engine:
    """An engine for a network in float32 on the CPU; other devices have PyTorch's, whatever is asked for.

    Arguments are the engines' own, and `asked` one of `ENGINES`.
    """
    if has_openvino(device, dtype, asked):
        return OpenVinoEngine(network, normalisation, dtype, takes_any_size=takes_any_size, is_kept=is_kept)
    return TorchEngine(network, normalisation, device, dtype)


def engine_title(device: torch.device, dtype: torch.dtype) -> str:
    """Name and version of the engine that networks have on this device, without one being built.

    Raises:
        OptionError: as `asked_engine`.
    """
    return openvino_engine.title() if has_openvino(device, dtype, asked_engine()) else TORCH_TITLE


def has_openvino(device: torch.device, dtype: torch.dtype, asked: str) -> bool:
    """Whether OpenVINO runs networks in this precision on this device, unless another engine is asked for."""
    if asked == "torch" or device.type != "cpu" or not openvino_engine.is_installed():
        return False
    return dtype != torch.bfloat16 or openvino_engine.multiplies_bfloat16()

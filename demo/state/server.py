"""What kind of server this is: shared or not, and which device it computes on."""

import os

from admodels.runtime import describe_device, engine_title, resolve_device, resolve_precision
from demo.state import zero_gpu


def is_shared() -> bool:
    """Whether visitors who do not know each other use this server, by `ADMODELS_SHARED`; where unset, on a Space."""
    said = os.environ.get("ADMODELS_SHARED", "")
    return said != "0" if said else on_space()


def on_space() -> bool:
    """Whether this is a Hugging Face Space."""
    return bool(os.environ.get("SPACE_ID"))


def own_tab() -> str:
    """The address of a Space without the Hub's page around it; empty where it is not known."""
    host = os.environ.get("SPACE_HOST", "").partition(",")[0].strip()  # a domain of its own comes second
    return f"https://{host}" if host else ""


def device_name() -> str:
    """The device that the app runs on: `ADMODELS_DEVICE`, by default the best there is for longer than one call."""
    return os.environ.get("ADMODELS_DEVICE") or ("cpu" if zero_gpu.is_there() else "auto")


def device_line() -> str:
    """Device, precision and engine for the header."""
    device = resolve_device(device_name())
    dtype = resolve_precision("auto", device)
    fits = " · fits on ZeroGPU" if zero_gpu.is_there() else ""
    return f"{describe_device(device)} · {str(dtype).removeprefix('torch.')} · {engine_title(device, dtype)}{fits}"

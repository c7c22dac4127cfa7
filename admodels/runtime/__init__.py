"""Networks, devices, memory and clusters."""

from admodels.runtime.device import describe_device, resolve_device, resolve_precision, usable_cores
from admodels.runtime.engine_choice import engine_title
from admodels.runtime.memory import keep_freed_memory
from admodels.runtime.shared import Shared

__all__ = [
    "Shared",
    "describe_device",
    "engine_title",
    "keep_freed_memory",
    "resolve_device",
    "resolve_precision",
    "usable_cores",
]

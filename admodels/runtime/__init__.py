"""Networks, devices, memory and clusters."""

from admodels.runtime.device import describe_device, resolve_device, resolve_precision, usable_cores
from admodels.runtime.memory import keep_freed_memory
from admodels.runtime.shared import Shared

__all__ = ["Shared", "describe_device", "keep_freed_memory", "resolve_device", "resolve_precision", "usable_cores"]

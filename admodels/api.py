"""What programs call: detectors of any method by name, the models of this machine, and those on the Hub.

The rooms below know no list of methods; they are given `DETECTORS` from here.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from admodels.core.detector import Detector
from admodels.core.method import Method
from admodels.errors import OptionError
from admodels.methods.registry import METHODS
from admodels.models.hub import Hub
from admodels.models.store import Store
from admodels.options import make_options
from admodels.tiling.method import TiledEnsemble

DETECTORS: Mapping[str, type[Method]] = {**METHODS, "tiled": TiledEnsemble}  # an ensemble of any of the methods

LOCAL = Store(DETECTORS)
save, load, list_models, delete, rename = LOCAL.save, LOCAL.load, LOCAL.list_models, LOCAL.delete, LOCAL.rename
HUB = Hub(LOCAL)
push, pull_verified, verify, search = HUB.push, HUB.pull_verified, HUB.verify, HUB.search


def create(method: str, /, *, device: str = "auto", **options: Any) -> Detector:
    """Build an unfitted detector.

    Args:
        method: a key of `DETECTORS`.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        options: the method's options; every name is checked.

    Raises:
        OptionError: unknown method, unknown option, or a value outside its range.
    """
    if method not in DETECTORS:
        raise OptionError(f"unknown method {method!r}; expected one of {', '.join(DETECTORS)}.")
    cls = DETECTORS[method]
    return Detector(cls(make_options(cls.Config, options), device=device))


def pull(reference: str, *, device: str = "auto", token: str | bool | None = None) -> Detector:
    """Get a model from the Hub, checked and verified; a warning where it does not score here as its maker saw it.

    `pull_verified` gives the commit and the verification as well.

    Raises:
        HubError: there is no such repository, it is not one of ours, or it holds what a model does not.
        StoreError: its files are not as they should be.
    """
    pulled = pull_verified(reference, device=device, token=token)
    if not pulled.verification.is_close:
        warnings.warn(f"{pulled.reference}: {pulled.verification.statement}", stacklevel=2)
    return pulled.detector

"""Industrial visual anomaly detection: fit on good pictures, predict with calibrated scores, save and share."""

from typing import Any

from admodels.core.calibration import Calibration
from admodels.core.detector import Detector, DetectorConfig
from admodels.core.results import Estimate, FitReport, Prediction, Progress
from admodels.efficientad.method import EfficientAd
from admodels.errors import (
    AdmodelsError,
    Cancelled,
    DataError,
    Enough,
    HubError,
    ImageError,
    ImageSetError,
    NotFittedError,
    OptionError,
    OutputError,
    ScoreError,
    StoreError,
    TrainingError,
    WeightsError,
)
from admodels.methods.fapm import Fapm
from admodels.methods.padim import Padim
from admodels.methods.padim_isvd import PadimIsvd
from admodels.methods.patchcore import PatchCore
from admodels.models.hub import HubModel, Pushed, Verification, pull, push, search, verify
from admodels.models.store import delete, list_models, load, rename, save
from admodels.options import make_options
from admodels.tiling.method import TiledEnsemble

METHODS: dict[str, type[Detector]] = {
    "fapm": Fapm,
    "padim_isvd": PadimIsvd,
    "padim": Padim,
    "patchcore": PatchCore,
    "efficientad": EfficientAd,
}
DETECTORS: dict[str, type[Detector]] = {**METHODS, "tiled": TiledEnsemble}  # of any of these methods


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
    return cls(make_options(cls.Config, options), device=device)


__all__ = [
    "DETECTORS",
    "METHODS",
    "AdmodelsError",
    "Calibration",
    "Cancelled",
    "DataError",
    "Detector",
    "DetectorConfig",
    "Enough",
    "Estimate",
    "FitReport",
    "HubError",
    "HubModel",
    "ImageError",
    "ImageSetError",
    "NotFittedError",
    "OptionError",
    "OutputError",
    "Prediction",
    "Progress",
    "Pushed",
    "ScoreError",
    "StoreError",
    "TrainingError",
    "Verification",
    "WeightsError",
    "create",
    "delete",
    "list_models",
    "load",
    "pull",
    "push",
    "rename",
    "save",
    "search",
    "verify",
]

"""Industrial visual anomaly detection: fit on good pictures, predict with calibrated scores, save and share."""

import os

# Threads of PyTorch wait for each other in a busy loop of this many turns, by default for so long that with another
# program on the same cores, a browser say, most time goes into waiting: two cores, one more program, predictions of
# 8 ms took 130 on average and up to 1100; so it is 31, and 5 % more where nothing else runs. OpenVINO's threads gain
# too. It is read when PyTorch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from admodels.api import (
    DETECTORS,
    HUB,
    LOCAL,
    METHODS,
    catalogue,
    create,
    delete,
    export,
    list_models,
    load,
    pull,
    pull_verified,
    push,
    rename,
    save,
    search,
    verify,
)
from admodels.core.calibration import Calibration
from admodels.core.detector import Detector
from admodels.core.method import DetectorConfig
from admodels.core.results import Estimate, FitReport, Prediction, Progress, Region, Verdict
from admodels.deploy.exporting import Exported
from admodels.errors import (
    AdmodelsError,
    Cancelled,
    DataError,
    Enough,
    ExportError,
    HubError,
    ImageError,
    ImageSetError,
    ModelNotFoundError,
    NotAPictureError,
    NotFittedError,
    OptionError,
    OutputError,
    Pause,
    ScoreError,
    StoreError,
    TrainingError,
    WeightsError,
)
from admodels.models.hub import HubModel, Pulled, Pushed
from admodels.models.verification import Verification

__all__ = [
    "DETECTORS",
    "HUB",
    "LOCAL",
    "METHODS",
    "AdmodelsError",
    "Calibration",
    "Cancelled",
    "DataError",
    "Detector",
    "DetectorConfig",
    "Enough",
    "Estimate",
    "ExportError",
    "Exported",
    "FitReport",
    "HubError",
    "HubModel",
    "ImageError",
    "ImageSetError",
    "ModelNotFoundError",
    "NotAPictureError",
    "NotFittedError",
    "OptionError",
    "OutputError",
    "Pause",
    "Prediction",
    "Progress",
    "Pulled",
    "Pushed",
    "Region",
    "ScoreError",
    "StoreError",
    "TrainingError",
    "Verdict",
    "Verification",
    "WeightsError",
    "catalogue",
    "create",
    "delete",
    "export",
    "list_models",
    "load",
    "pull",
    "pull_verified",
    "push",
    "rename",
    "save",
    "search",
    "verify",
]

"""What is the same for every method: the contract, fitting, calibration, planning, results."""

from admodels.core.calibration import DEFAULT_RATE, Calibration, n_apart
from admodels.core.detector import Detector
from admodels.core.drift import MIN_GROUP, Drift, drift_of
from admodels.core.fitting import Fitted
from admodels.core.method import (
    BATCH_SIZE,
    Cost,
    DetectorConfig,
    Layout,
    Learner,
    Method,
    Scored,
    Scorer,
    State,
    layout_bytes,
)
from admodels.core.results import (
    Estimate,
    FitReport,
    OnProgress,
    Prediction,
    Progress,
    Region,
    Verdict,
    size_text,
    verdict_of,
)

__all__ = [
    "BATCH_SIZE",
    "DEFAULT_RATE",
    "MIN_GROUP",
    "Calibration",
    "Cost",
    "Detector",
    "DetectorConfig",
    "Drift",
    "Estimate",
    "FitReport",
    "Fitted",
    "Layout",
    "Learner",
    "Method",
    "OnProgress",
    "Prediction",
    "Progress",
    "Region",
    "Scored",
    "Scorer",
    "State",
    "Verdict",
    "drift_of",
    "layout_bytes",
    "n_apart",
    "size_text",
    "verdict_of",
]

"""What is the same for every method: the contract, fitting, calibration, planning, results."""

from admodels.core.calibration import DEFAULT_RATE, Calibration, n_apart
from admodels.core.detector import Detector
from admodels.core.drift import MIN_GROUP, Drift, drift_of
from admodels.core.fitting import Fitted
from admodels.core.method import (
    BATCH_SIZE,
    Checkpoint,
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
from admodels.core.product import Product
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
from admodels.core.routing import Routed, route, route_all, routed

__all__ = [
    "BATCH_SIZE",
    "DEFAULT_RATE",
    "MIN_GROUP",
    "Calibration",
    "Checkpoint",
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
    "Product",
    "Progress",
    "Region",
    "Routed",
    "Scored",
    "Scorer",
    "State",
    "Verdict",
    "drift_of",
    "layout_bytes",
    "n_apart",
    "route",
    "route_all",
    "routed",
    "size_text",
    "verdict_of",
]

"""The stored picture of a model: scoring it again tells whether the model that arrives is the one that was sent."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from admodels.core.detector import Detector
from admodels.core.results import Prediction
from admodels.errors import StoreError
from admodels.models.format import CONFIG_FILE
from admodels.pictures.images import decode

PROBE_FILE = "probe.png"
# Relative to the score: sums in another order, or another device, and half as many digits.
TOLERANCES = {"float32": 1e-3, "bfloat16": 3e-2}


@dataclass(frozen=True)
class Verification:
    """What scoring the stored picture again gave.

    Attributes:
        is_same: score and map are those that were stored, bit for bit.
        is_close: the score is within the tolerance of this precision, as it is where all is the same.
    """

    expected_score: float
    score: float
    is_same: bool
    is_close: bool
    tolerance: float
    made_on: str

    @property
    def statement(self) -> str:
        """For people."""
        if self.is_same:
            return f"Verified: the stored picture scores {self.score:.6g} again, and its map is the same bit for bit."
        values = f"{self.score:.6g}, where it scored {self.expected_score:.6g} on {self.made_on}"
        if self.is_close:
            return f"Verified within {self.tolerance:.1%}: the stored picture scores {values}."
        return (
            f"Not verified: the stored picture scores {values}. Scores here differ from those its maker saw, so do "
            "not rely on its threshold."
        )


def verify_folder(folder: Path, detector: Detector) -> Verification:
    """Score a folder's stored picture again with the model that was read from it.

    Raises:
        StoreError: the picture, or what is stored about it, is damaged.
    """
    where = f"{folder.name}/{CONFIG_FILE}"
    try:
        expected = json.loads((folder / CONFIG_FILE).read_bytes())["probe"]
        score, digest, made_on = float(expected["score"]), str(expected["map_sha256"]), str(expected["made_on"])
        precision = str(expected["precision"])
        if not np.isfinite(score):
            raise ValueError("score is not finite")
        probe = decode(folder / PROBE_FILE).pixels
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise StoreError(f"{where}: what is stored about the probe picture is damaged ({error}).") from error
    found = probe_record(detector, detector.predict(probe))
    tolerance = max(TOLERANCES[str(found["precision"])], TOLERANCES.get(precision, 0.0))
    scale = max(abs(score), abs(detector.calibration_.threshold), 1e-12)
    return Verification(
        expected_score=score,
        score=float(found["score"]),
        is_same=found["score"] == score and found["map_sha256"] == digest,
        is_close=abs(float(found["score"]) - score) <= tolerance * scale,
        tolerance=tolerance,
        made_on=made_on[:200],
    )


def probe_record(detector: Detector, prediction: Prediction) -> dict[str, Any]:
    """What is stored about a picture, to be compared after a pull."""
    return {
        "score": prediction.score,
        "map_sha256": hashlib.sha256(np.ascontiguousarray(prediction.anomaly_map).tobytes()).hexdigest(),
        "made_on": detector.device.type,
        "precision": str(detector.dtype).removeprefix("torch."),
    }

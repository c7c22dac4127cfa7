"""What programs are told: of a picture, of a model. The same for HTTP and for a folder that is watched."""

import base64
import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from admodels.core.results import Prediction
from admodels.models.store import ModelInfo, Unreadable
from admodels.pictures.images import DecodedImage
from admodels.pictures.render import overlay
from admodels.serving.models import Served

MAX_REGIONS = 50  # of a picture


def of_model(served: Served) -> dict[str, Any]:
    """Which model said it."""
    return {"reference": served.reference, "version": served.version, "method": served.detector.key}


def of_picture(name: str, prediction: Prediction, *, regions: bool) -> dict[str, Any]:
    """What was found in a picture."""
    said: dict[str, Any] = {"picture": name, **prediction.as_dict()}
    if regions:
        found = prediction.regions if prediction.is_anomalous else ()
        said["n_regions"] = len(found)
        said["regions"] = [dataclasses.asdict(region) for region in found[:MAX_REGIONS]]
    return said


def of_scored(
    served: Served,
    name: str,
    prediction: Prediction,
    *,
    regions: bool,
    seconds: Mapping[str, float],
    n_batch: int,
) -> dict[str, Any]:
    """What a model found in a picture, which model that is, and how long it took.

    Args:
        seconds: by step.
        n_batch: pictures that were scored together.
    """
    return of_picture(name, prediction, regions=regions) | {
        "milliseconds": {step: round(1000 * each, 2) for step, each in seconds.items()},
        "n_batch": n_batch,
        "model": of_model(served),
    }


def map_as_png(decoded: DecodedImage, prediction: Prediction) -> dict[str, Any]:
    """The heatmap over the picture, of at most 1,024 pixels a side, for people."""
    return _file("png", Image.fromarray(overlay(decoded.pixels, prediction)))


def map_as_npy(prediction: Prediction) -> dict[str, Any]:
    """The map's values, float32 and of the picture's size, NaN where a crop left the border unscored; for programs."""
    return _file("npy", prediction.anomaly_map) | {
        "low": prediction.scale[0],
        "high": prediction.scale[1],
        "threshold": prediction.map_threshold,
    }


def _file(kind: str, content: Image.Image | np.ndarray) -> dict[str, Any]:
    buffer = io.BytesIO()
    if isinstance(content, Image.Image):
        content.save(buffer, kind)
    else:
        np.save(buffer, content, allow_pickle=False)
    return {"format": kind, "data": base64.b64encode(buffer.getvalue()).decode()}


def of_saved(info: ModelInfo) -> dict[str, Any]:
    """A saved model in a list."""
    return {"reference": info.reference} | dataclasses.asdict(info)


def of_unreadable(folder: Unreadable) -> dict[str, Any]:
    """A folder among the models that is none."""
    return dataclasses.asdict(folder)

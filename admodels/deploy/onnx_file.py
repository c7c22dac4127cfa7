"""An exported file, read: one ONNX graph that scores as the detector does, with what is needed to judge by it.

The graph takes `image`, uint8 RGB (H, W, 3) of any size, upright, and gives `score`, float32 (1,), raw, and `map`,
float32 (H, W), NaN where a crop left the border unscored; where a method has parts, `map_NAME` for each, and for a
tiled ensemble `tile_scores`, float32 (rows, columns). A picture is anomalous where its score exceeds the metadata's
`threshold`, a pixel where the map exceeds `map_threshold`. How a picture comes to be uint8 RGB is all that is left to
the program that runs it.
"""

import base64
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from admodels.core.calibration import Calibration
from admodels.errors import ExportError
from admodels.models.format import read_calibration
from admodels.pictures.decoding import opened_picture, rgb_pixels
from admodels.pictures.working_shape import WorkingShape

FORMAT_VERSION = 1
INPUT, SCORE, MAP = "image", "score", "map"
PRECISIONS = ("float32", "int8")
INSTALL = "Run: pip install onnx onnxscript onnxruntime"


@dataclass(frozen=True)
class OnnxFile:
    """An exported file, without its graph.

    Attributes:
        title: the method's, for people.
        config: as a saved model has it.
        calibration: held-out scores, and the threshold that follows from them.
        shape: how the graph sees pictures.
        probe: uint8 (H, W, 3).
        probe_score, probe_map_max: what PyTorch said of it, in float32; of int8 what ONNX Runtime said.
        precision: float32 or int8.
        metadata: all of it, as text.
    """

    path: Path
    title: str
    config: Mapping[str, Any]
    calibration: Calibration
    shape: WorkingShape
    probe: np.ndarray
    probe_score: float
    probe_map_max: float
    precision: str
    metadata: Mapping[str, str]


def read(path: str | Path) -> OnnxFile:
    """What an exported file says of itself.

    Raises:
        ExportError: it is no such file, or its metadata are damaged; or onnx is not installed.
    """
    path = Path(path)
    needed("onnx")
    import onnx

    try:
        model = onnx.load(path)
    except FileNotFoundError as error:
        raise ExportError(f"{path} does not exist. Check the path.") from error
    except Exception as error:  # of the disk, or of protobuf
        raise ExportError(f"{path} is not an ONNX file that can be read ({error}).") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    version = metadata.get("admodels_format")
    if version is None:
        raise ExportError(f"{path} was not exported by this program: its metadata have no admodels_format.")
    if version != str(FORMAT_VERSION):
        raise ExportError(f"{path} has format {version}; this program reads {FORMAT_VERSION}. Export it again.")
    try:
        config = json.loads(metadata["model"])
        for name in ("threshold", "map_threshold", "scale_bottom", "scale_top"):
            float(metadata[name])
        if metadata["precision"] not in PRECISIONS:
            raise ValueError(f"precision is {metadata['precision']!r}")
        png = base64.b64decode(metadata["probe_png"], validate=True)
        with opened_picture(png, "the probe") as opened:
            probe, _ = rgb_pixels(opened, "the probe", None)
        return OnnxFile(
            path,
            metadata["title"],
            config,
            read_calibration(config["calibration"]),
            WorkingShape(*(tuple(config["working_shape"][name]) for name in ("resized", "cropped"))),
            probe,
            float(metadata["probe_score"]),
            float(metadata["probe_map_max"]),
            metadata["precision"],
            metadata,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{path}: its metadata are damaged ({error}). Export it again.") from error


def missing_packages(packages: Sequence[str] = ("onnx", "onnxscript")) -> list[str]:
    """Those of these packages that are not here; nothing else requires them."""
    return [package for package in packages if importlib.util.find_spec(package) is None]


def needed(*packages: str) -> None:
    """See that packages which are not required otherwise are here.

    Raises:
        ExportError: they are not; it says what to run.
    """
    if missing := missing_packages(packages):
        raise ExportError(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed. {INSTALL}")

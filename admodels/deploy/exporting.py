"""A fitted detector, written as one ONNX file that scores as it does wherever it is run.

The graph computes in float32, and nothing is clipped, scaled or rounded on its way out, so that a threshold holds in
every runtime.
"""

import base64
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from admodels.core.detector import Detector
from admodels.deploy.int8 import quantised
from admodels.deploy.nodes import map_nodes, resize_nodes
from admodels.deploy.onnx_file import FORMAT_VERSION, INPUT, MAP, PRECISIONS, SCORE, needed, read
from admodels.deploy.runtimes import OnnxRuntime, check_probe, difference, runtimes_here
from admodels.deploy.whole import Whole, in_float32, whole_detector
from admodels.errors import ExportError, OptionError
from admodels.files import check_file, write_bytes
from admodels.models.format import configuration
from admodels.pictures.generated import generate
from admodels.pictures.images import ImageLike
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.tracing import tracing

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18  # ReduceMax and Resize as they are since; every runtime of the last two years has it
MAX_BYTES = 2**31 - 2**20  # what protobuf can hold
WIDER, LOWER = 1.37, 0.81  # the probe than the working shape: the graph has to shrink the one and stretch the other


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        size_mib: of the file.
        probe_score: what its stored picture scores.
        notices: what the user should know.
    """

    path: Path
    size_mib: float
    probe_score: float
    notices: tuple[str, ...] = ()


def write_onnx(
    detector: Detector,
    path: str | Path,
    *,
    precision: str = "float32",
    good: Sequence[ImageLike] = (),
    source: str = "",
    licence: str = "",
    data_terms: str = "",
) -> Exported:
    """Write a fitted detector as one ONNX file; onnx_file.py says what is in it.

    Before it is put in place, each runtime that is here scores its stored picture.

    Args:
        precision: float32, or int8 for the network's products, kept only where verdicts and order stay (int8.py).
        good: for int8, at least 10 pictures of good parts, best ones that were held out.
        source: where the model comes from, such as hf-hub:owner/name@commit or local:name.
        licence: of the model, as far as it is known.
        data_terms: of the pictures that it learned from.

    Raises:
        NotFittedError: nothing was learned yet.
        OptionError: an unknown precision.
        ImageError: a good picture cannot be used.
        ExportError: packages for it are not installed, the file would be larger than the format can hold, int8
            changes the model too much, or a runtime scores the stored picture otherwise.
        OutputError: it cannot be written there.
    """
    path = Path(path)
    if precision not in PRECISIONS:
        raise OptionError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}.")
    check_file(path, "the file")
    _check_size(detector, sum(tensor.nbytes for tensor in detector.fitted_.state.values()))  # before it is copied
    needed("onnx", "onnxscript")
    shape, calibration = detector.fitted_.shape, detector.fitted_.calibration
    whole = whole_detector(in_float32(detector))
    probe = _probe(shape)
    pixels = torch.from_numpy(np.stack([shape.prepare(probe)]))
    with torch.no_grad():
        found = whole(pixels)
    model = _model(detector, whole, pixels, found)
    score = float(found[SCORE])
    notices = _notices(detector, probe, score)
    metadata = _metadata(detector, probe, found, source, licence, data_terms)
    if precision == "int8":
        kept = quantised(model, [detector.read(picture).pixels for picture in good], calibration.threshold)
        model = kept.model
        notices += (kept.statement,)
        metadata |= {"precision": "int8", "precision_statement": kept.statement}
        metadata |= _said_of_probe(model, probe)
        score = float(metadata["probe_score"])
    for name, text in metadata.items():
        model.metadata_props.add(key=name, value=text)
    content = model.SerializeToString()
    _check(content)
    write_bytes(path, content)
    return Exported(path, len(content) / 2**20, score, notices)


def _check(content: bytes) -> None:
    """See that every runtime here scores the stored picture as the file says."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_bytes(path, content)
        file = read(path)
        for check in check_probe(file, runtimes_here(path)):
            if not check.is_close:
                raise ExportError(
                    f"{check.title} gives the stored picture {check.score:.6g} ({file.probe_score:.6g} was expected) "
                    "or another map: the file would not score as the model does, and was not written. Please report it."
                )


def _said_of_probe(model: "ModelProto", probe: np.ndarray) -> dict[str, str]:
    found = OnnxRuntime(model.SerializeToString())([probe])[0]
    return {"probe_score": repr(found.score), "probe_map_max": repr(float(np.nanmax(found.outputs[MAP])))}


def _model(detector: Detector, whole: Whole, pixels: torch.Tensor, found: Mapping[str, torch.Tensor]) -> "ModelProto":
    """The graph of a detector, from pixels of any size to maps of the same.

    Args:
        pixels: prepared ones, to trace it with.
        found: what it makes of them.
    """
    from onnx import TensorProto, helper

    shape = detector.fitted_.shape
    core = _core(whole, pixels, list(found))
    _check_size(detector, sum(len(tensor.raw_data) for tensor in core.graph.initializer))
    graph = helper.make_graph([], "admodels", [], [])
    graph.initializer.extend(core.graph.initializer)
    resize_nodes(graph, INPUT, shape, "pixels")
    graph.node.extend(core.graph.node)
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["H", "W", 3]))
    for name, value in found.items():
        size: list[str | int] = list(value.shape)
        if name == MAP or name.startswith(f"{MAP}_"):
            map_nodes(graph, f"small_{name}", INPUT, shape, name)
            size = ["H", "W"]
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, size))
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=core.ir_version,
        producer_name="admodels",
        doc_string=f"{detector.title}: score and anomaly map of a picture of any size.",
    )


def _core(whole: Whole, pixels: torch.Tensor, names: list[str]) -> "ModelProto":
    """The graph for pixels as the method sees them; maps are `small_map…`."""
    inner = [f"small_{name}" if name.startswith(MAP) else name for name in names]
    with tracing():
        logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # of what its own parts hand each other
        try:
            program = torch.onnx.export(
                whole,
                (pixels,),
                input_names=["pixels"],
                output_names=inner,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # a network of timm may do what it has no words for
            reason = str(error).strip().splitlines()[-1][:300] if str(error).strip() else repr(error)
            raise ExportError(
                f"this model cannot be written as ONNX ({reason}). Use another backbone, such as efficientnet_lite0."
            ) from error
    core = program.model_proto
    for part in (*core.graph.node, *core.graph.initializer, *core.graph.value_info):
        del part.metadata_props[:]  # it says in which files of this machine each node was written
    for node in core.graph.node:
        node.doc_string = ""
    return core


def _check_size(detector: Detector, n_bytes: int) -> None:
    if n_bytes > MAX_BYTES:
        raise ExportError(
            f"this model has {n_bytes / 2**20:,.0f} MiB, and an ONNX file can hold 2,047. Fit a smaller one: "
            f"{detector.method.memory_advice}."
        )


def _probe(shape: WorkingShape) -> np.ndarray:
    """A picture of no product, whose width the graph has to shrink and whose height it has to stretch."""
    height, width = shape.resized
    size = max(16, round(LOWER * height)), round(WIDER * width)
    return generate(size, np.random.default_rng(0))


def _metadata(
    detector: Detector,
    probe: np.ndarray,
    found: Mapping[str, torch.Tensor],
    source: str,
    licence: str,
    data_terms: str,
) -> dict[str, str]:
    calibration, shape, png = detector.fitted_.calibration, detector.fitted_.shape, io.BytesIO()
    Image.fromarray(probe).save(png, "PNG")
    licences = {
        "network": detector.method.network_licence,
        "model": licence or "not stated",
        "data": data_terms or "not stated",
        "program": "MIT",
    }
    return {
        "admodels_format": str(FORMAT_VERSION),
        "title": detector.title,
        "method": detector.key,
        "network": detector.network_name,
        "precision": "float32",
        "threshold": repr(calibration.threshold),
        "map_threshold": repr(calibration.map_threshold),
        "scale_bottom": repr(calibration.scale[0]),
        "scale_top": repr(calibration.scale[1]),
        "threshold_statement": calibration.statement,
        # Black and white of pictures of more than 8 bits; empty where the model knows of none.
        "value_range": ":".join(map(repr, shape.value_range)) if shape.value_range else "",
        "model": json.dumps(configuration(detector)),
        "licences": json.dumps({name: text for name, text in licences.items() if text}),
        "source": source,
        "probe_png": base64.b64encode(png.getvalue()).decode(),
        "probe_score": repr(float(found[SCORE])),
        "probe_map_max": repr(float(np.nanmax(shape.to_original(found[MAP][0], probe.shape[:2])))),
    }


def _notices(detector: Detector, probe: np.ndarray, score: float) -> tuple[str, ...]:
    if detector.dtype == torch.float32:
        return ()
    apart = difference(detector.predict(probe).score, score, detector.fitted_.calibration.threshold)
    return (
        f"This model scores in {str(detector.dtype).removeprefix('torch.')} here, and the file in float32: the stored "
        f"picture's score differs by {apart:.2%}. For a threshold from the same arithmetic, fit with "
        "precision=float32.",
    )

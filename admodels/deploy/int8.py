"""Fewer bits for the network's products, kept only where scores keep their order and verdicts stay.

What is quantised is chosen by trying: first all convolutions, then fewer. Depth-wise convolutions and the first one
lose most; the score's own products, whose small differences are the score, stay in float32.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from admodels.deploy.onnx_file import INPUT, needed
from admodels.deploy.runtimes import OnnxRuntime
from admodels.errors import ExportError
from admodels.pictures.defects import lay_over, scratch, spot

if TYPE_CHECKING:
    from onnx import ModelProto

MIN_PICTURES, MAX_PICTURES = 10, 100
MIN_SPEARMAN = 0.99
N_TIMED = 10


@dataclass(frozen=True)
class Quantised:
    """What was kept, and what it costs.

    Attributes:
        model: the graph.
        n_convolutions, n_all: how many convolutions compute in int8, and how many there are.
        spearman: rank correlation of its scores with those in float32, over good pictures and drawn defects.
        largest: the largest change of a score, as a part of the score.
        seconds, seconds_before: a picture, median, by ONNX Runtime on this machine, in int8 and in float32.
    """

    model: "ModelProto"
    n_convolutions: int
    n_all: int
    spearman: float
    largest: float
    seconds: float
    seconds_before: float

    @property
    def statement(self) -> str:
        """For people."""
        return (
            f"{self.n_convolutions} of {self.n_all} convolutions compute in int8. Verdicts on the good pictures given "
            f"stay; scores change by up to {self.largest:.1%}, and their order by little (Spearman "
            f"{self.spearman:.4f}). A picture takes {1e3 * self.seconds:.1f} ms, and {1e3 * self.seconds_before:.1f} "
            "ms in float32 (ONNX Runtime on this machine)."
        )


def quantised(model: "ModelProto", good: Sequence[np.ndarray], threshold: float) -> Quantised:
    """The same graph with as many convolutions in int8 as its scores allow.

    Args:
        good: pictures of good parts, at least 10, best ones that were held out; uint8 (H, W, 3).
        threshold: that of the model.

    Raises:
        ExportError: too few pictures, or no choice keeps verdicts and order; it says how far the best one is off.
    """
    needed("onnxruntime")
    from scipy.stats import spearmanr  # here, since it takes a while

    good = good[:MAX_PICTURES]
    if len(good) < MIN_PICTURES:
        raise ExportError(
            f"int8 needs at least {MIN_PICTURES} good pictures to choose its scales by; {len(good)} came. Give more."
        )
    shown = [*good, *_with_defects(good)]
    before, seconds_before = _scored(model, shown)
    n_all, best = len(_convolutions(model)), -1.0
    for names in _choices(model):
        tried = _quantise(model, good, names)
        after, seconds = _scored(tried, shown)
        spearman = float(spearmanr(before, after).statistic)
        stays = bool(((before > threshold) == (after > threshold))[: len(good)].all())
        if stays and spearman >= MIN_SPEARMAN:
            largest = float(np.abs(after / before - 1).max())
            return Quantised(tried, len(names), n_all, spearman, largest, seconds, seconds_before)
        best = max(best, spearman)
    raise ExportError(
        f"int8 changes this model too much: scores keep their order by {best:.3f} at best (Spearman; {MIN_SPEARMAN} is "
        "asked for), or verdicts on good pictures change. Export it in float32."
    )


def _choices(model: "ModelProto") -> Iterator[list[str]]:
    """Names of the convolutions to try: all of them first, then fewer."""
    convolutions = _convolutions(model)
    dense = [name for name, is_dense in convolutions if is_dense]
    yield [name for name, _ in convolutions]
    for part in (1, 2 / 3, 1 / 3):
        if chosen := dense[len(dense) - round(part * len(dense)) :]:
            yield chosen


def _convolutions(model: "ModelProto") -> list[tuple[str, bool]]:
    """Name of each, in order, and whether it only mixes channels, which bears most."""
    sizes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    found = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in sizes]
    return [(node.name, sizes[node.input[1]][2:] == [1, 1]) for node in found]


def _quantise(model: "ModelProto", good: Sequence[np.ndarray], names: list[str]) -> "ModelProto":
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(good)

        def get_next(self) -> dict[str, np.ndarray] | None:
            pixels = next(self._left, None)
            return None if pixels is None else {INPUT: pixels}

    with TemporaryDirectory() as folder, _without_advice():
        given, out = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, given)  # what is in memory it would change
        quantize_static(
            given,
            out,
            Pictures(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            nodes_to_quantize=names,
            op_types_to_quantize=["Conv"],
            activation_type=QuantType.QInt8,  # unsigned ones overflow on processors without the newer instructions
            weight_type=QuantType.QInt8,
        )
        return onnx.load(out)


@contextmanager
def _without_advice() -> Iterator[None]:
    """ONNX Runtime's own, to process a graph that it would leave as it is."""
    root = logging.getLogger()

    def wanted(record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()

    root.addFilter(wanted)
    try:
        yield
    finally:
        root.removeFilter(wanted)


def _scored(model: "ModelProto", pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """Scores, and the median seconds of a picture."""
    runtime = OnnxRuntime(model.SerializeToString())
    scores, seconds = [], []
    for pixels in pictures:  # one at a time, since their maps need not be held together
        found = runtime([pixels])[0]
        scores.append(found.score)
        seconds.append(found.seconds)
    return np.array(scores), float(np.median(seconds[-N_TIMED:]))


def _with_defects(good: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each picture with a drawn scratch or spot."""
    rng = np.random.default_rng(0)
    return [lay_over(pixels, (scratch, spot)[i % 2](pixels.shape[:2], rng, on=pixels)) for i, pixels in enumerate(good)]

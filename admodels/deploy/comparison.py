"""Whether every runtime scores as PyTorch does, on pictures of all kinds."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from admodels.core.detector import Detector
from admodels.deploy.onnx_file import read
from admodels.deploy.runtimes import TOLERANCES, Runtime, difference, map_difference
from admodels.deploy.whole import in_float32
from admodels.pictures.generated import generate
from admodels.pictures.images import ImageLike

MEGAPIXELS_20 = (3648, 5472)


@dataclass(frozen=True)
class Compared:
    """One picture in one runtime.

    Attributes:
        score_difference: from PyTorch's, as a part of the score or of the threshold, whichever is larger.
        map_difference: the largest, as a part of the map's largest value.
        seconds: of the run, without decoding.
    """

    picture: str
    runtime: str
    score: float
    expected: float
    score_difference: float
    map_difference: float
    is_same_verdict: bool
    seconds: float

    @property
    def is_equal(self) -> bool:
        """Score and map within 1e-3, and the same verdict."""
        return max(self.score_difference, self.map_difference) <= TOLERANCES["float32"] and self.is_same_verdict


def compare(
    detector: Detector, path: Path, runtimes: Sequence[Runtime], named: Sequence[tuple[str, ImageLike]]
) -> list[Compared]:
    """Score pictures with a detector, in float32, and with each runtime of its exported file.

    Args:
        path: of the file that was made of this detector.
        named: pictures with their names, such as `pictures_of_all_kinds`.

    Raises:
        ImageError: a picture cannot be used.
        ExportError: a runtime fails.
    """
    detector, threshold = in_float32(detector), read(path).calibration.threshold
    pixels = [detector.read(picture).pixels for _, picture in named]
    expected = detector.predict_batch(pixels)
    rows = []
    for runtime in runtimes:
        for (name, _), found, wanted in zip(named, runtime(pixels), expected, strict=True):
            row = Compared(
                picture=name,
                runtime=runtime.title,
                score=found.score,
                expected=wanted.score,
                score_difference=difference(found.score, wanted.score, threshold),
                map_difference=map_difference(found, wanted.anomaly_map),
                is_same_verdict=(found.score > threshold) == wanted.is_anomalous,
                seconds=found.seconds,
            )
            rows.append(row)
    return rows


def pictures_of_all_kinds(large: tuple[int, int] = MEGAPIXELS_20) -> list[tuple[str, ImageLike]]:
    """Generated pictures with their names: wide and tall, grey, of 16 bits, tiny, and as large as a camera's."""
    rng = np.random.default_rng(1)

    def png(image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    larger = np.ones((4, 4, 1), np.uint8)  # drawn at a quarter of its size, since that takes a while
    grey = generate((240, 320), rng).mean(2)
    return [
        ("wide, 640×360", generate((360, 640), rng)),
        ("tall, 300×900", generate((900, 300), rng)),
        ("grey, 320×240", png(Image.fromarray(grey.astype(np.uint8)))),
        ("16 bits, 320×240", png(Image.fromarray((grey * 257).astype(np.uint16)))),
        ("tiny, 40×16", generate((16, 40), rng)),
        (f"large, {large[1]}×{large[0]}", np.kron(generate((large[0] // 4, large[1] // 4), rng), larger)),
    ]

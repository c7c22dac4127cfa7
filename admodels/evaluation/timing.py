"""Speed, measured honestly: warm, synchronised, with what was timed named beside the number."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from admodels.core.detector import Detector
from admodels.core.method import BATCH_SIZE
from admodels.pictures.images import ImageLike, inspect_set, read_batches
from admodels.pictures.render import overlay
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.device import describe_device, synchronize, timed
from admodels.runtime.engines import TORCH_TITLE, TorchEngine
from admodels.runtime.exact import exact_products
from admodels.runtime.networks import build_network

MIN_SECONDS, MIN_REPEATS, MAX_REPEATS = 1.0, 10, 50


@dataclass(frozen=True)
class Quantiles:
    """Seconds for one batch over all repetitions."""

    mean: float
    p50: float
    p95: float


@dataclass(frozen=True)
class Speed:
    """How fast a fitted detector is, in the two ways that people quote.

    Attributes:
        network: the protocol of the EfficientAD paper: transfer, forward pass, score and map, copied back. Decoding
            and resizing are left out.
        end_to_end: from the encoded bytes to the finished overlay, in one go.
        stages: what the way from bytes to overlay consists of, each timed by itself: decode, preprocess (resize),
            forward (transfer included), post-process (score, map, original size), render.
        batch_size: pictures in each repetition.
        n_repeats: repetitions of each mode, after warm-up.
        conditions: device, precision, batch, input size and library versions; to be printed with every figure.
    """

    network: Quantiles
    end_to_end: Quantiles
    stages: dict[str, Quantiles]
    batch_size: int
    n_repeats: int
    conditions: str

    def fps(self, quantiles: Quantiles) -> float:
        """Pictures per second at the median."""
        return self.batch_size / quantiles.p50


def conditions(detector: Detector, shape: WorkingShape, batch_size: int) -> str:
    """What must be printed next to every speed: device, precision, batch, input size, engine and versions."""
    height, width = shape.cropped
    precision = str(detector.dtype).removeprefix("torch.")
    # Where PyTorch is the engine too, it is named once.
    versions = dict.fromkeys((detector.network_name, detector.engine_title, TORCH_TITLE, f"numpy {np.__version__}"))
    on = f"{describe_device(detector.device)}, {precision}, batch {batch_size}, {width}×{height} px"
    return f"{on}, {', '.join(versions)}"


def measure_speed(detector: Detector, images: Sequence[ImageLike]) -> Speed:
    """Time a fitted detector on one batch of pictures, given as bytes, paths or arrays.

    Everything is run twice to warm up, then repeated for a second, but at least 10 and at most 50 times. The device is
    waited for around every clock.

    Raises:
        ImageError: a picture cannot be used.
    """
    device, shape = detector.device, detector.working_shape_
    network = _network_seconds(detector, images, MIN_SECONDS)

    def whole() -> None:
        decoded = [detector.read(image) for image in images]
        for item, prediction in zip(decoded, detector.predict_decoded(decoded), strict=True):
            overlay(item.pixels, prediction)

    end_to_end = _repeat(lambda: [timed(whole, device)], MIN_SECONDS)
    stages = _repeat(lambda: _stage_seconds(detector, images), MIN_SECONDS)
    names = ("decode", "preprocess", "forward", "post-process", "render")
    return Speed(
        _quantiles(network),
        _quantiles(end_to_end[:, 0]),
        {name: _quantiles(column) for name, column in zip(names, stages.T, strict=True)},
        len(images),
        min(len(network), len(end_to_end), len(stages)),
        conditions(detector, shape, len(images)),
    )


def measure_network(
    detector: Detector, images: Sequence[ImageLike], min_seconds: float, min_repeats: int = MIN_REPEATS
) -> tuple[Quantiles, int]:
    """Only `Speed.network`, for so long and at least so often, and how many repetitions that were."""
    seconds = _network_seconds(detector, images, min_seconds, min_repeats)
    return _quantiles(seconds), len(seconds)


def _network_seconds(
    detector: Detector, images: Sequence[ImageLike], min_seconds: float, min_repeats: int = MIN_REPEATS
) -> np.ndarray:
    shape = detector.working_shape_
    batch = torch.from_numpy(np.stack([shape.prepare(detector.read(image).pixels) for image in images]))

    def once() -> list[float]:
        return [timed(lambda: detector.score_batch(batch), detector.device)]

    return _repeat(once, min_seconds, min_repeats)[:, 0]


def _stage_seconds(detector: Detector, images: Sequence[ImageLike]) -> list[float]:
    """Seconds of decode, preprocess, forward, post-process and render, one after the other."""
    device, shape = detector.device, detector.working_shape_
    marks = [time.perf_counter()]

    def mark() -> None:
        synchronize(device)
        marks.append(time.perf_counter())

    decoded = [detector.read(image) for image in images]
    mark()
    batch = torch.from_numpy(np.stack([shape.prepare(item.pixels) for item in decoded]))
    mark()
    with torch.inference_mode(), exact_products(device):
        encoded = detector.method.encode(batch)
    mark()
    predictions = detector.predict_encoded(encoded, decoded)
    mark()
    for item, prediction in zip(decoded, predictions, strict=True):
        overlay(item.pixels, prediction)
    mark()
    return np.diff(marks).tolist()


def _repeat(measure_once: Callable[[], list[float]], min_seconds: float, min_repeats: int = MIN_REPEATS) -> np.ndarray:
    """Seconds (repetitions, columns)."""
    for _ in range(2):
        measure_once()
    rows, started = [], time.perf_counter()
    while len(rows) < min_repeats or (len(rows) < MAX_REPEATS and time.perf_counter() - started < min_seconds):
        rows.append(measure_once())
    return np.array(rows)


def _quantiles(seconds: np.ndarray) -> Quantiles:
    p50, p95 = np.percentile(seconds, [50, 95])
    return Quantiles(float(seconds.mean()), float(p50), float(p95))


def time_feature_pass(detector: Detector, images: Sequence[ImageLike]) -> float:
    """Seconds to look at, read and resize the pictures and run the network over them: the floor of a fit."""
    started = time.perf_counter()
    looked_at = inspect_set(images)
    shape = detector.shape_for(looked_at)
    for batch in read_batches(looked_at.images, shape.prepare, BATCH_SIZE, shape.value_range):
        detector.method.encode(torch.from_numpy(batch))
    synchronize(detector.device)
    return time.perf_counter() - started


def measure(run: Callable[[], object], device: torch.device, n_repeats: int) -> list[float]:
    """Seconds of each of `n_repeats` synchronised calls, after one that warms up."""
    return [timed(run, device) for _ in range(n_repeats + 1)][1:]


@dataclass(frozen=True)
class Benchmark:
    """Fit and predict against the backbone's own forward pass, all in milliseconds per picture, medians.

    The pictures are decoded and resized beforehand; every figure is from the same batches, interleaved in one run.

    Attributes:
        eager_ms: the same network, unfused, float32, NCHW, as a textbook would run it.
        torch_ms: our network, in the detector's precision, by PyTorch.
        backbone_ms: the same by the detector's engine, from the uint8 batch: the limit.
        predict_ms: from the uint8 batch to scores and maps back on the CPU.
        fit_ms: features and statistics of the whole fit, per learned picture.
        features_ms: the feature pass of the same pictures alone, from the same uint8 batches.
    """

    method: str
    engine: str
    conditions: str
    n_images: int
    eager_ms: float
    torch_ms: float
    backbone_ms: float
    predict_ms: float
    features_ms: float
    fit_ms: float

    @property
    def predict_ratio(self) -> float:
        """Predict over the backbone's forward pass."""
        return self.predict_ms / self.backbone_ms

    @property
    def fit_ratio(self) -> float:
        """Fit over the feature pass alone."""
        return self.fit_ms / self.features_ms

    @property
    def torch_ratio(self) -> float:
        """How many times faster the engine is than PyTorch."""
        return self.torch_ms / self.backbone_ms

    @property
    def eager_ratio(self) -> float:
        """How many times faster the backbone is than the eager network."""
        return self.eager_ms / self.backbone_ms


def benchmark(detector: Detector, images: Sequence[ImageLike], n_rounds: int = 5) -> Benchmark:
    """Measure an unfitted detector on good pictures; it is fitted on the way.

    Args:
        images: at least 4 good pictures; they are held in memory at the working shape.
        n_rounds: how often each figure is taken; the median is given.
    """
    detector.fit(images)
    shape = detector.working_shape_
    batches = [torch.from_numpy(b) for b in read_batches(images, shape.prepare, BATCH_SIZE, shape.value_range)]
    n, device, method = sum(len(b) for b in batches), detector.device, detector.method
    backbone, config = method.backbone, detector.config
    eager = plain_network(config.backbone, config.weights).to(device)
    few = [b for b in batches[:8] if len(b) == BATCH_SIZE] or batches[:1]
    n_few = sum(len(b) for b in few)
    network = build_network(config.backbone, weights=config.weights)
    by_torch = TorchEngine(network, backbone.normalisation, device, detector.dtype)
    nchw = [backbone.normalisation(b.to(device)).contiguous() for b in few]

    def run_eager() -> None:
        with torch.inference_mode():
            for x in nchw:
                eager(x)

    def run_fit() -> None:
        learner = method.learner(shape, n)
        for b in batches:
            learner.add(method.encode(b))
        with torch.inference_mode():
            learner.finish()

    runs = {
        "eager_ms": (run_eager, n_few),
        "torch_ms": (lambda: [by_torch(b) for b in few], n_few),
        "backbone_ms": (lambda: [backbone.features(b) for b in few], n_few),
        "predict_ms": (lambda: [detector.score_batch(b) for b in few], n_few),
        "features_ms": (lambda: [method.encode(b) for b in batches], n),
        "fit_ms": (run_fit, n),
    }
    with exact_products(device):  # float32 is the same to all of them
        seconds = median_seconds({name: run for name, (run, _) in runs.items()}, device, n_rounds)
    figures = {name: seconds[name] / runs[name][1] * 1e3 for name in runs}
    return Benchmark(detector.key, detector.engine_title, conditions(detector, shape, BATCH_SIZE), n, **figures)


def median_seconds(runs: dict[str, Callable[[], object]], device: torch.device, n_rounds: int) -> dict[str, float]:
    """Median seconds of each of several calls, warm, synchronised.

    They are interleaved, so that a slow moment of the machine touches all alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(n_rounds):
        for name, run in runs.items():
            seconds[name] += measure(run, device, 1) if round_number == 0 else [timed(run, device)]
    return {name: float(np.median(values)) for name, values in seconds.items()}


def noise_pictures(n: int, side: int = 256) -> list[np.ndarray]:
    """n pictures of noise, uint8 side×side×3, always the same: what is in a picture makes no difference to a speed."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(n)]


def plain_network(name: str, weights: str) -> nn.Module:
    """The same network without any of our changes: batch norm separate, float32, NCHW."""
    return build_network(name, weights=weights, folded=False).eval()

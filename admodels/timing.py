"""Speed, measured honestly: warm, synchronised, with what was timed named beside the number."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from admodels.backbones import build_network
from admodels.base import BATCH_SIZE, Detector
from admodels.device import describe_device, synchronize
from admodels.images import ImageLike, decode, inspect_set, read_batches
from admodels.working_shape import WorkingShape, choose_working_shape


@dataclass(frozen=True)
class PredictTiming:
    """Seconds for one picture, batch 1, after warm-up.

    Attributes:
        network_p50, network_p95: transfer, forward pass, score and map, copied back; decoding and resizing excluded
            (the protocol of the EfficientAD paper).
        end_to_end_p50: from the picture as given to the full-size anomaly map.
        n_repeats: how many times each was measured.
        conditions: device, precision and input size.
    """

    network_p50: float
    network_p95: float
    end_to_end_p50: float
    n_repeats: int
    conditions: str


def conditions(detector: Detector, shape: WorkingShape, batch_size: int) -> str:
    """What must be printed next to every speed: device, precision, batch and input size."""
    height, width = shape.cropped
    precision = str(detector.backbone.dtype).removeprefix("torch.")
    return f"{describe_device(detector.device)}, {precision}, batch {batch_size}, {width}×{height} px"


def time_predict(detector: Detector, image: ImageLike, n_repeats: int = 5) -> PredictTiming:
    """Time a fitted detector on one picture."""
    shape = detector.working_shape_
    batch = torch.from_numpy(np.stack([shape.prepare(decode(image).pixels)]))
    network = measure(lambda: detector.score_batch(batch), detector.device, n_repeats)
    whole = measure(lambda: detector.predict(image), detector.device, n_repeats)
    p50, p95 = np.percentile(network, [50, 95])
    return PredictTiming(float(p50), float(p95), float(np.median(whole)), n_repeats, conditions(detector, shape, 1))


def time_feature_pass(detector: Detector, images: Sequence[ImageLike]) -> float:
    """Seconds to look at, read and resize the pictures and run the network over them: the floor of a fit."""
    started = time.perf_counter()
    looked_at = inspect_set(images)
    config = detector.config
    shape = choose_working_shape(config.image_size, config.crop, config.keep_aspect, looked_at.sizes)
    for batch in read_batches(looked_at.images, shape.prepare, BATCH_SIZE):
        detector.encode(torch.from_numpy(batch))
    synchronize(detector.device)
    return time.perf_counter() - started


def measure(run: Callable[[], object], device: torch.device, n_repeats: int) -> list[float]:
    """Seconds of each of `n_repeats` synchronised calls, after one that warms up."""
    seconds = []
    for _ in range(n_repeats + 1):
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


@dataclass(frozen=True)
class Benchmark:
    """Fit and predict against the backbone's own forward pass, all in milliseconds per picture, medians.

    The pictures are decoded and resized beforehand; every figure is from the same batches, interleaved in one run.

    Attributes:
        eager_ms: the same network, unfused, float32, NCHW, as a textbook would run it.
        backbone_ms: our backbone's forward pass on normalised input: the limit.
        predict_ms: from the uint8 batch to scores and maps back on the CPU.
        fit_ms: features and statistics of the whole fit, per learned picture.
        features_ms: the feature pass of the same pictures alone, from the same uint8 batches.
    """

    method: str
    conditions: str
    n_images: int
    eager_ms: float
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
    batches = [torch.from_numpy(b) for b in read_batches(images, shape.prepare, BATCH_SIZE)]
    n, device, backbone = sum(len(b) for b in batches), detector.device, detector.backbone
    eager = plain_network(detector.config.backbone).to(device)
    few = [b for b in batches[:8] if len(b) == BATCH_SIZE] or batches[:1]
    n_few = sum(len(b) for b in few)
    normalised = [backbone.normalise(b.to(device)) for b in few]
    nchw = [x.contiguous() for x in normalised]

    def run_eager() -> None:
        with torch.inference_mode():
            for x in nchw:
                eager(x)

    def run_fit() -> None:
        learner = detector.new_learner(shape, n)
        for b in batches:
            learner.add(detector.encode(b))
        with torch.inference_mode():
            learner.finish()

    runs = {
        "eager_ms": (run_eager, n_few),
        "backbone_ms": (lambda: [backbone.forward(x) for x in normalised], n_few),
        "predict_ms": (lambda: [detector.score_batch(b) for b in few], n_few),
        "features_ms": (lambda: [detector.encode(b) for b in batches], n),
        "fit_ms": (run_fit, n),
    }
    seconds = {name: [] for name in runs}
    for round_number in range(n_rounds):  # interleaved, so that a slow moment of the machine touches all alike
        for name, (run, _) in runs.items():
            if round_number == 0:
                seconds[name] += measure(run, device, 1)
            else:
                synchronize(device)
                started = time.perf_counter()
                run()
                synchronize(device)
                seconds[name].append(time.perf_counter() - started)
    figures = {name: float(np.median(seconds[name])) / runs[name][1] * 1e3 for name in runs}
    return Benchmark(detector.key, conditions(detector, shape, BATCH_SIZE), n, **figures)


def plain_network(name: str) -> nn.Module:
    """The same network without any of our changes: batch norm separate, float32, NCHW."""
    return build_network(name, folded=False).eval()

"""The contract that every detector keeps, and everything that is the same for all of them.

A method implements a learner and a score over encoded batches; decoding, checks, resizing, holding out, calibration
and the way back to the original size happen here, once.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from admodels.backbones import BACKBONES, Backbone, get_backbone
from admodels.calibration import Calibration, check_rate, split_held_out
from admodels.device import PRECISIONS, resolve_device, statistics_device
from admodels.errors import ImageSetError, NotFittedError, OptionError
from admodels.images import DecodedImage, ImageLike, ImageSet, decode, inspect_set, read_batches
from admodels.memory import PeakMemory
from admodels.options import Options, option
from admodels.working_shape import WorkingShape, choose_working_shape

BATCH_SIZE = 8


@dataclass(frozen=True)
class DetectorConfig(Options):
    """The options that every method has."""

    backbone: str = option("efficientnet_lite0", "The frozen network that sees the picture.", choices=tuple(BACKBONES))
    image_size: int = option(256, "Side in pixels at which pictures are looked at.", minimum=64, maximum=2048)
    crop: int | None = option(
        None, "Cut this centre square out of image_size (papers: 224); the border stays unscored.", minimum=32
    )
    keep_aspect: bool = option(True, "Keep the pictures' median aspect ratio; off squeezes them into a square.")
    precision: str = option(
        "auto", "Arithmetic of the network: auto takes bfloat16 where the hardware gains from it.", choices=PRECISIONS
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop is not None and self.crop > self.image_size:
            raise OptionError(f"crop is {self.crop}, larger than image_size {self.image_size}; make it smaller.")


@dataclass(frozen=True)
class Progress:
    """Where a fit stands: `done` of `total` pictures in this `stage`, after `seconds`."""

    stage: str
    done: int
    total: int
    seconds: float

    @property
    def fraction(self) -> float:
        """Done, from 0 to 1."""
        return self.done / max(self.total, 1)


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class FitReport:
    """What a fit did.

    Attributes:
        n_learned, n_held_out: pictures learned from and pictures only used to set the threshold.
        n_duplicates: pictures that are exact copies of another one in the set.
        seconds: wall time of the whole fit, reading included.
        peak_memory_mib: highest resident memory of the process during the fit.
    """

    n_learned: int
    n_held_out: int
    n_duplicates: int
    seconds: float
    peak_memory_mib: float

    @property
    def images_per_second(self) -> float:
        """Pictures, learned and held out, per second of wall time."""
        return (self.n_learned + self.n_held_out) / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class Estimate:
    """What a fit will take, said before it starts."""

    n_learned: int
    n_held_out: int
    seconds: float
    peak_memory_mib: float
    model_mib: float


@dataclass(frozen=True)
class Prediction:
    """The verdict on one picture. Higher is always more anomalous.

    Attributes:
        score: raw image score.
        anomaly_map: float32 H×W at the original picture's size; NaN where a crop left the border unscored.
        threshold: raw score above which a picture counts as anomalous.
        map_threshold: value above which a pixel counts as anomalous.
        p_value: how usual this score is among held-out normals, in [1 / (n + 1), 1].
        rarer_than: fraction of held-out normals with a lower score, in [0, 1].
        scale: bottom and top of the heatmap's colours, fixed per model.
        notices: what the user should know about how the picture was read.
    """

    score: float
    anomaly_map: np.ndarray = field(repr=False)
    threshold: float
    map_threshold: float
    p_value: float
    rarer_than: float
    scale: tuple[float, float]
    notices: tuple[str, ...] = ()

    @property
    def is_anomalous(self) -> bool:
        """Whether the score exceeds the threshold."""
        return self.score > self.threshold

    @property
    def mask(self) -> np.ndarray:
        """bool H×W: the pixels above the pixel threshold; an unscored border is never part of it."""
        return np.nan_to_num(self.anomaly_map, nan=-np.inf) > self.map_threshold


class Learner(ABC):
    """Learns from a stream of encoded batches; the batches may be cut anywhere."""

    @abstractmethod
    def add(self, encoded: list[Tensor]) -> None:
        """Take in one encoded batch."""

    @abstractmethod
    def finish(self) -> dict[str, Tensor]:
        """The learned state."""


class Detector(ABC):
    """Base of all methods. Learned attributes end in `_`; `predict` never writes to `self`.

    Args:
        config: the method's options; its defaults where none are given.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
    """

    key: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    Config: ClassVar[type[DetectorConfig]]
    # Variants that the paper compares, name to options; `benchmark` prints them side by side.
    comparison: ClassVar[dict[str, dict[str, object]]] = {}

    def __init__(self, config: DetectorConfig | None = None, *, device: str | torch.device = "auto") -> None:
        self.config = config if config is not None else self.Config()
        if not isinstance(self.config, self.Config):
            raise OptionError(
                f"config is a {type(config).__name__}; {type(self).__name__} expects a {self.Config.__name__}."
            )
        self.device = resolve_device(device)
        self.state_: dict[str, Tensor] | None = None
        self.working_shape_: WorkingShape | None = None
        self.calibration_: Calibration | None = None
        self.fit_report_: FitReport | None = None

    # --- what a method implements --------------------

    @abstractmethod
    def new_learner(self, shape: WorkingShape, n_images: int) -> Learner:
        """A learner that has seen nothing; `n_images` is how many pictures will come."""

    @abstractmethod
    def resumed_learner(self, shape: WorkingShape, state: dict[str, Tensor], n_images: int) -> Learner:
        """A learner that goes on from a learned state with `n_images` more pictures."""

    @abstractmethod
    def score(self, encoded: list[Tensor], state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Image scores (B,) and anomaly maps (B, h, w), float32, of one encoded batch."""

    @abstractmethod
    def state_layout(self, shape: WorkingShape) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every tensor of the state: what a saved model must hold, and how large it will be."""

    @abstractmethod
    def learner_bytes(self, shape: WorkingShape, n_images: int) -> int:
        """Most memory that learning holds beside the network."""

    @abstractmethod
    def learning_seconds(self, shape: WorkingShape, n_images: int) -> float:
        """Time that learning takes beside the network, from a short measurement on this machine."""

    def encode(self, batch: Tensor) -> list[Tensor]:
        """Turn uint8 B×h×w×3 into what the learner and the score take: here the backbone's feature maps."""
        return self.backbone.features(batch)

    # --- the same for all --------------------

    @property
    def backbone(self) -> Backbone:
        """The frozen network, shared with other detectors."""
        return get_backbone(self.config.backbone, self.device, self.config.precision)

    @property
    def statistics_device(self) -> torch.device:
        """Where the learned state lives."""
        return statistics_device(self.device)

    @property
    def is_fitted(self) -> bool:
        """Whether there is something to predict with."""
        return self.state_ is not None

    @property
    def model_mib(self) -> float:
        """Size of the learned state in MiB."""
        return sum(t.nbytes for t in self._fitted_state().values()) / 2**20

    def fit(
        self,
        images: Sequence[ImageLike] | ImageSet,
        *,
        false_alarm_rate: float = 0.01,
        held_out_ratio: float = 0.2,
        seed: int = 0,
        on_progress: OnProgress | None = None,
    ) -> Self:
        """Learn what good pictures look like, and set the threshold from those held out.

        Args:
            images: good pictures: paths, bytes, PIL images, H×W×3 uint8 RGB arrays; at least 4 different ones.
            false_alarm_rate: the fraction of good pictures that may alarm.
            held_out_ratio: the fraction of pictures that is never learned from (at least 5 where possible).
            seed: of the choice of those pictures.
            on_progress: called with a `Progress` after every batch; raise `Cancelled` in it to stop.

        Returns:
            self. An error or a cancellation leaves the detector as it was.

        Raises:
            ImageSetError: pictures cannot be read; all of them are named.
            OptionError: too few pictures, or a parameter out of range.
        """
        started = time.perf_counter()
        rate = check_rate(false_alarm_rate)
        looked_at = _readable(images)
        config = self.config
        shape = choose_working_shape(config.image_size, config.crop, config.keep_aspect, looked_at.sizes)
        learned, held_out = split_held_out(_groups(looked_at), held_out_ratio, seed)
        with PeakMemory() as peak:
            learner = self.new_learner(shape, len(learned))
            state = self._learn(learner, shape, [looked_at.images[i] for i in learned], on_progress)
            calibration = self._calibrate(state, shape, [looked_at.images[i] for i in held_out], rate, on_progress)
        self.state_, self.working_shape_, self.calibration_ = state, shape, calibration
        self.fit_report_ = FitReport(
            len(learned), len(held_out), looked_at.n_duplicates, time.perf_counter() - started, peak.mib
        )
        return self

    def update(
        self,
        images: Sequence[ImageLike] | ImageSet,
        *,
        held_out_ratio: float = 0.2,
        seed: int = 0,
        on_progress: OnProgress | None = None,
    ) -> Self:
        """Learn from more good pictures without starting again.

        A part of the new pictures is held out too and its scores join the calibration. The earlier held-out pictures
        are no longer here, so their scores stay as measured before; `calibration_.n_before_update` counts them.

        Raises:
            NotFittedError: nothing was learned yet.
            ImageSetError, OptionError: as `fit`.
        """
        started = time.perf_counter()
        before, shape, report = self._fitted_state(), self.working_shape_, self.fit_report_
        looked_at = _readable(images)
        learned, held_out = split_held_out(_groups(looked_at), held_out_ratio, seed)
        with PeakMemory() as peak:
            learner = self.resumed_learner(shape, before, len(learned))
            state = self._learn(learner, shape, [looked_at.images[i] for i in learned], on_progress)
            old = self.calibration_
            new = self._calibrate(
                state, shape, [looked_at.images[i] for i in held_out], old.false_alarm_rate, on_progress
            )
        n_old, n_new = len(old.scores), len(new.scores)
        calibration = Calibration(
            scores=tuple(sorted(old.scores + new.scores)),
            map_maxima=tuple(sorted(old.map_maxima + new.map_maxima)),
            map_median=(n_old * old.map_median + n_new * new.map_median) / (n_old + n_new),
            false_alarm_rate=old.false_alarm_rate,
            n_before_update=n_old,
        )
        self.state_, self.calibration_ = state, calibration
        self.fit_report_ = FitReport(
            report.n_learned + len(learned),
            report.n_held_out + len(held_out),
            report.n_duplicates + looked_at.n_duplicates,
            report.seconds + time.perf_counter() - started,
            max(report.peak_memory_mib, peak.mib),
        )
        return self

    def predict(self, image: ImageLike) -> Prediction:
        """Score one picture; safe to call from several threads at once.

        Raises:
            NotFittedError: nothing was learned yet.
            ImageError: the picture cannot be used.
        """
        self._fitted_state()
        return self._predict_decoded([decode(image)])[0]

    def predict_batch(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """Score several pictures, `BATCH_SIZE` at a time; scores equal `predict`'s up to rounding.

        Raises:
            NotFittedError: nothing was learned yet.
            ImageSetError: pictures cannot be used; all of them are named.
        """
        self._fitted_state()
        decoded, errors = [], []
        for position, image in enumerate(images):
            try:
                decoded.append(decode(image, position=position))
            except ValueError as error:
                errors.append(error)
        if errors:
            raise ImageSetError(errors, len(images))
        predictions = []
        for i in range(0, len(decoded), BATCH_SIZE):
            predictions += self._predict_decoded(decoded[i : i + BATCH_SIZE])
        return predictions

    def score_batch(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,) and maps (B, h, w) on the CPU for prepared uint8 pictures B×h×w×3 of the working shape."""
        state = self._fitted_state()
        with torch.inference_mode():
            scores, maps = self.score(self.encode(batch), state)
        return scores.cpu(), maps.cpu()

    def estimate(self, images: ImageSet) -> Estimate:
        """What a fit on these pictures will take, from short measurements on this machine (under a second or two)."""
        config = self.config
        shape = choose_working_shape(config.image_size, config.crop, config.keep_aspect, images.sizes)
        learned, held_out = split_held_out(_groups(images), 0.2, 0)
        n_probe = min(BATCH_SIZE, len(images.images))
        probe = [images.images[i] for i in np.linspace(0, len(images.images) - 1, n_probe).astype(int)]
        batch = torch.from_numpy(np.stack([shape.prepare(decode(image).pixels) for image in probe]))
        with PeakMemory() as peak:
            self.encode(batch)  # the first pass loads the network and its kernels
            started = time.perf_counter()
            for prepared in read_batches(probe, shape.prepare, BATCH_SIZE):
                _ = [m[0, 0, 0, 0].item() for m in self.encode(torch.from_numpy(prepared))]
            seconds = (time.perf_counter() - started) / n_probe * len(images.images)
        layout = self.state_layout(shape)
        model_bytes = sum(int(np.prod(size)) * dtype.itemsize for size, dtype in layout.values())
        return Estimate(
            len(learned),
            len(held_out),
            seconds + self.learning_seconds(shape, len(learned)),
            peak.mib + (self.learner_bytes(shape, len(learned)) + model_bytes) / 2**20,
            model_bytes / 2**20,
        )

    def _learn(
        self, learner: Learner, shape: WorkingShape, images: list[ImageLike], on_progress: OnProgress | None
    ) -> dict[str, Tensor]:
        with torch.inference_mode():
            for encoded in self._encoded_batches(shape, images, "learning", on_progress):
                learner.add(encoded)
            return learner.finish()

    def _calibrate(
        self,
        state: dict[str, Tensor],
        shape: WorkingShape,
        images: list[ImageLike],
        rate: float,
        on_progress: OnProgress | None,
    ) -> Calibration:
        scores, maxima, medians = [], [], []
        with torch.inference_mode():
            for encoded in self._encoded_batches(shape, images, "setting the threshold", on_progress):
                batch_scores, batch_maps = self.score(encoded, state)
                scores += batch_scores.tolist()
                maxima += batch_maps.flatten(1).amax(1).tolist()
                medians += batch_maps.flatten(1).median(1).values.tolist()
        return Calibration(tuple(sorted(scores)), tuple(sorted(maxima)), float(np.median(medians)), rate)

    def _encoded_batches(
        self, shape: WorkingShape, images: list[ImageLike], stage: str, on_progress: OnProgress | None
    ) -> Iterator[list[Tensor]]:
        started, done = time.perf_counter(), 0
        for prepared in read_batches(images, shape.prepare, BATCH_SIZE):
            yield self.encode(torch.from_numpy(prepared))
            done += len(prepared)
            if on_progress is not None:
                on_progress(Progress(stage, done, len(images), time.perf_counter() - started))

    def _predict_decoded(self, decoded: list[DecodedImage]) -> list[Prediction]:
        batch = torch.from_numpy(np.stack([self.working_shape_.prepare(d.pixels) for d in decoded]))
        scores, maps = self.score_batch(batch)
        return [self._prediction(*item) for item in zip(decoded, scores, maps, strict=True)]

    def _prediction(self, decoded: DecodedImage, score: Tensor, patch_map: Tensor) -> Prediction:
        calibration, value = self.calibration_, float(score)
        return Prediction(
            score=value,
            anomaly_map=self.working_shape_.to_original(patch_map, decoded.pixels.shape[:2]),
            threshold=calibration.threshold,
            map_threshold=calibration.map_threshold,
            p_value=calibration.p_value(value),
            rarer_than=calibration.rarer_than(value),
            scale=calibration.scale,
            notices=decoded.notices,
        )

    def _fitted_state(self) -> dict[str, Tensor]:
        if self.state_ is None:
            raise NotFittedError(
                f"this {type(self).__name__} has not learned yet. Call fit() with good pictures, or load a saved model."
            )
        return self.state_


def _readable(images: Sequence[ImageLike] | ImageSet) -> ImageSet:
    looked_at = images if isinstance(images, ImageSet) else inspect_set(images)
    if looked_at.errors:
        raise ImageSetError(looked_at.errors, len(looked_at.images) + len(looked_at.errors))
    return looked_at


def _groups(images: ImageSet) -> list[int]:
    groups = list(range(len(images.images)))
    for duplicates in images.duplicates:
        for position in duplicates:
            groups[position] = duplicates[0]
    return groups

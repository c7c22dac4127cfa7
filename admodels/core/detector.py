"""The contract that every detector keeps, and everything that is the same for all of them.

A method implements a learner and a score over encoded batches; decoding, checks, resizing, holding out, calibration
and the way back to the original size happen here, once.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from admodels.core.calibration import (
    DEFAULT_FOLDS,
    MAX_CROSS_IMAGES,
    Calibration,
    HeldOutScores,
    check_finite,
    check_folds,
    check_rate,
    check_ratio,
    check_seed,
    split_folds,
    split_held_out,
)
from admodels.core.results import Estimate, FitReport, OnProgress, Origin, Prediction, Progress
from admodels.errors import ImageSetError, NotFittedError, OptionError
from admodels.options import Options, option
from admodels.pictures.images import (
    DecodedImage,
    ImageLike,
    ImageSet,
    decode,
    given_images,
    in_batches,
    inspect_set,
    read_ahead,
    read_batches,
)
from admodels.pictures.value_range import AUTO, choose_value_range, parse_value_range
from admodels.pictures.working_shape import WorkingShape, choose_working_shape
from admodels.runtime.device import PRECISIONS, resolve_device, resolve_precision, statistics_device
from admodels.runtime.memory import PeakMemory, available_mib
from admodels.runtime.quiet import fitting, quiet_seconds

BATCH_SIZE = 8
MAX_KEPT_BYTES = 2**30  # of encoded pictures, where folds are the default
SCORE_RATIO = 0.5  # time to gather and score held-out pictures over that of their feature pass; measured 0.2 to 0.8

State = dict[str, Tensor]
Layout = dict[str, tuple[tuple[int | range, ...], torch.dtype]]  # a range where the data decide
OnStep = Callable[..., None]  # (done, total), or (done, total, loss)


@dataclass(frozen=True)
class DetectorConfig(Options):
    """The options that every method has."""

    image_size: int = option(256, "Side in pixels at which pictures are looked at.", minimum=64, maximum=2048)
    crop: int | None = option(
        None, "Cut this centre square out of image_size (papers: 224); the border stays unscored.", minimum=32
    )
    keep_aspect: bool = option(True, "Keep the pictures' median aspect ratio; off squeezes them into a square.")
    precision: str = option(
        "auto", "Arithmetic of the network: auto takes bfloat16 where the hardware gains from it.", choices=PRECISIONS
    )
    value_range: str = option(
        AUTO, "Values of black and white in pictures of more than 8 bits, such as 0:4095; auto finds the bit depth."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_value_range(self.value_range)
        if self.crop is not None and self.crop > self.image_size:
            raise OptionError(f"crop is {self.crop}, larger than image_size {self.image_size}; make it smaller.")


class Scored(NamedTuple):
    """What a method says of a batch.

    Attributes:
        scores: (B,).
        maps: anomaly maps (B, h, w), float32.
        parts: the maps (B, h, w) that those are made of, by name; none where it is one.
        tile_scores: (B, rows, columns) where the picture was cut into tiles.
    """

    scores: Tensor
    maps: Tensor
    parts: Mapping[str, Tensor] = {}
    tile_scores: Tensor | None = None

    def cpu(self) -> "Scored":
        """All of it on the CPU."""
        parts = {name: part.cpu() for name, part in self.parts.items()}
        tile_scores = self.tile_scores.cpu() if self.tile_scores is not None else None
        return Scored(self.scores.cpu(), self.maps.cpu(), parts, tile_scores)


class Learner(ABC):
    """Learns from a stream of encoded batches; the batches may be cut anywhere."""

    stage: ClassVar[str]  # the name of what `finish` does

    @abstractmethod
    def add(self, encoded: list[Tensor]) -> None:
        """Take in one encoded batch."""

    @abstractmethod
    def finish(self, on_step: OnStep | None = None) -> State:
        """The learned state; `on_step` is told (done, total) where this takes long, and may raise to stop."""


class Detector(ABC):
    """Base of all methods. Learned attributes end in `_`; `predict` never writes to `self`.

    Args:
        config: the method's options; its defaults where none are given.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
    """

    key: ClassVar[str]
    title: str
    summary: ClassVar[str]
    Config: ClassVar[type[DetectorConfig]]
    # Variants that the paper compares, name to options; `benchmark` prints them side by side.
    comparison: ClassVar[dict[str, dict[str, object]]] = {}
    # Whether small sets are calibrated by folds unless asked otherwise: for methods that learn in seconds.
    folds_by_default: ClassVar[bool] = True
    # The part of a fit's time that this model may take: those of an ensemble share it. Set by the ensemble.
    time_share: float = 1.0
    # How to make a fit smaller: said when it would not fit in memory.
    memory_advice: ClassVar[str] = "lower image_size"

    def __init__(self, config: DetectorConfig | None = None, *, device: str | torch.device = "auto") -> None:
        self.config = config if config is not None else self.Config()
        if not isinstance(self.config, self.Config):
            raise OptionError(
                f"config is a {type(config).__name__}; {type(self).__name__} expects a {self.Config.__name__}."
            )
        self.title = self.titled(self.config)
        self.device = resolve_device(device)
        self.state_: State | None = None
        self._ready: Any = None
        self.working_shape_: WorkingShape | None = None
        self.calibration_: Calibration | None = None
        self.fit_report_: FitReport | None = None
        self.origin_: Origin | None = None  # of a model that was saved before; None where it was fitted here
        self.reference_: object = None  # where it was pulled from, pinned, and what scoring its probe again gave
        self.verification_: object = None

    # --- what a method implements --------------------

    @abstractmethod
    def new_learner(self, shape: WorkingShape, n_images: int) -> Learner:
        """A learner that has seen nothing; `n_images` is how many pictures will come."""

    @abstractmethod
    def resumed_learner(self, shape: WorkingShape, state: State, n_images: int) -> Learner:
        """A learner that goes on from a learned state with `n_images` more pictures."""

    @abstractmethod
    def score(self, encoded: list[Tensor], ready: Any) -> tuple[Tensor, Tensor]:
        """Image scores (B,) and anomaly maps (B, h, w), float32, of one encoded batch; `ready` is what `ready` gave."""

    def score_parts(self, encoded: list[Tensor], ready: Any) -> Scored:
        """As `score`, with what the result is made of."""
        return Scored(*self.score(encoded, ready))

    def ready_tiles(self, states: list[State], stacked: State, shape: WorkingShape) -> Any | None:
        """What `score` takes to score the tiles of a picture at once, each by a state of its own.

        The batch then holds the T tiles of its pictures one picture after the other, (B·T, ...), and so does what
        `score` returns.

        Args:
            states: the T states, without copies.
            stacked: the same; tensors of fixed shape lie together as (T, ...).

        Returns:
            None where a method scores with one state at a time.
        """
        return None

    @abstractmethod
    def state_layout(self, shape: WorkingShape, n_images: int) -> Layout:
        """Shape and dtype of every tensor of the state after `n_images`: what a saved model must hold."""

    @abstractmethod
    def learner_bytes(self, shape: WorkingShape, n_images: int) -> int:
        """Most memory that learning holds beside the network."""

    @abstractmethod
    def learning_seconds(self, shape: WorkingShape, n_images: int) -> float:
        """Time that learning takes beside the network, from a short measurement on this machine."""

    def state_bytes(self, shape: WorkingShape, n_images: int) -> int:
        """How large the state will be; a method whose layout depends on the data estimates it."""
        layout = self.state_layout(shape, n_images)
        return sum(int(np.prod(size)) * dtype.itemsize for size, dtype in layout.values())

    def ready(self, state: State, shape: WorkingShape) -> Any:
        """The state as `score` wants it, made once after a fit or a load.

        Raises:
            ValueError: the state, whose layout is right, contradicts itself.
        """
        return state

    def details(self) -> dict[str, str]:
        """What else a user may want to know about a fitted model, label to value."""
        return {}

    @abstractmethod
    def encode(self, batch: Tensor) -> list[Tensor]:
        """Turn uint8 B×h×w×3 into what the learner and the score take: tensors whose first dimension is B."""

    @abstractmethod
    def encoded_bytes(self, shape: WorkingShape) -> int:
        """Size of one encoded picture."""

    @property
    @abstractmethod
    def network_name(self) -> str:
        """The network that sees the pictures, to be printed beside every measured speed."""

    def check_shape(self, shape: WorkingShape) -> None:  # noqa: B027 - most methods take any
        """Refuse a working shape that this method cannot learn on.

        Raises:
            OptionError: it cannot; the message says what to set.
        """

    def to_download_mib(self) -> float:
        """About how much has to be downloaded before the first picture can be encoded."""
        return 0.0

    def to_measure(self) -> Self:
        """A detector that takes as long as this one, and downloads nothing."""
        return self

    @classmethod
    def titled(cls, config: DetectorConfig) -> str:
        """What a detector with these options is called."""
        return cls.title

    # --- the same for all --------------------

    def batch_size(self, shape: WorkingShape) -> int:
        """Pictures that are encoded at a time."""
        return BATCH_SIZE

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in: torch.float32, or torch.bfloat16 by autocast."""
        return resolve_precision(self.config.precision, self.device)

    @property
    def statistics_device(self) -> torch.device:
        """Where the learned state lives."""
        return statistics_device(self.device)

    @property
    def is_fitted(self) -> bool:
        """Whether there is something to predict with."""
        return self.state_ is not None

    def shape_for(self, images: ImageSet) -> WorkingShape:
        """How a model of these pictures looks at them: size, crop, and the scale of values of more than 8 bits.

        Raises:
            OptionError: the pictures allow none; the message says what to set.
        """
        config = self.config
        shape = choose_working_shape(config.image_size, config.crop, config.keep_aspect, images.sizes)
        self.check_shape(shape)
        asked = parse_value_range(config.value_range)
        return replace(shape, value_range=asked or choose_value_range(images.deep))

    @property
    def model_mib(self) -> float:
        """Size of the learned state in MiB."""
        return sum(t.nbytes for t in self._fitted_state().values()) / 2**20

    def fit(
        self,
        images: Iterable[ImageLike] | ImageSet | str | Path,
        *,
        false_alarm_rate: float = 0.01,
        held_out_ratio: float = 0.2,
        n_folds: int | None = None,
        seed: int = 0,
        on_progress: OnProgress | None = None,
    ) -> Self:
        """Learn what good pictures look like, and set the threshold from those held out.

        Args:
            images: good pictures, at least 4 different ones: paths, bytes, PIL images, H×W×3 uint8 RGB arrays; or a
                folder or a zip of them.
            false_alarm_rate: the fraction of good pictures that may alarm.
            held_out_ratio: without folds, the fraction that is never learned from (at least 5 where possible).
            n_folds: hold every picture out once, from one of so many models, and learn the final one from all; 0 is
                one split. By default 5 for up to 100 pictures, where the method learns in seconds.
            seed: of the choice of those pictures.
            on_progress: called with a `Progress` after every batch; raise `Cancelled` in it to stop.

        Returns:
            self. An error or a cancellation leaves the detector as it was.

        Raises:
            DataError: what was given is no set of pictures.
            ImageSetError: pictures cannot be read; all of them are named.
            OptionError: too few pictures, or a parameter out of range.
            ScoreError: what was learned, or a held-out score, is not a finite number; no model is kept.
        """
        started = time.perf_counter()
        rate, ratio = check_rate(false_alarm_rate), check_ratio(held_out_ratio)
        n_folds, seed = check_folds(n_folds), check_seed(seed)
        looked_at = _readable(images)
        shape = self.shape_for(looked_at)
        n_folds = self._n_folds(n_folds, len(looked_at.images), shape)
        with PeakMemory() as peak, fitting():
            if n_folds:
                folds = split_folds(_groups(looked_at), n_folds, seed)
                n_learned = n_held_out = len(looked_at.images)
                state, calibration = self._cross_fit(looked_at.images, shape, folds, rate, on_progress)
                ready = self.ready(state, shape)
            else:
                learned, held_out = split_held_out(_groups(looked_at), ratio, seed)
                n_learned, n_held_out = len(learned), len(held_out)
                state = self.learn(shape, [looked_at.images[i] for i in learned], on_progress)
                ready = self.ready(state, shape)
                calibration = self._calibrate(ready, shape, [looked_at.images[i] for i in held_out], rate, on_progress)
        seconds = time.perf_counter() - started
        notices = looked_at.notices
        if looked_at.deep:
            low, high = shape.value_range
            notices += (f"Values of more than 8 bits are read from {low:g} (black) to {high:g} (white).",)
        check_finite("what was learned", *state.values())
        report = FitReport(
            n_learned, n_held_out, looked_at.n_duplicates, seconds, peak.mib, calibration.n_folds, notices
        )
        self._learned(state, ready, shape, calibration, report)
        return self

    def update(
        self,
        images: Iterable[ImageLike] | ImageSet | str | Path,
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
            DataError, ImageSetError, OptionError, ScoreError: as `fit`.
        """
        started = time.perf_counter()
        ratio, seed = check_ratio(held_out_ratio), check_seed(seed)
        before, shape, report = self._fitted_state(), self.working_shape_, self.fit_report_
        looked_at = _readable(images)
        learned, held_out = split_held_out(_groups(looked_at), ratio, seed)
        with PeakMemory() as peak, fitting():
            learner = self.resumed_learner(shape, before, len(learned))
            state = self._learn(learner, shape, [looked_at.images[i] for i in learned], on_progress)
            ready = self.ready(state, shape)
            old = self.calibration_
            new = self._calibrate(
                ready, shape, [looked_at.images[i] for i in held_out], old.false_alarm_rate, on_progress
            )
        check_finite("what was learned", *state.values())
        calibration = old.joined(new)
        report = FitReport(
            report.n_learned + len(learned),
            report.n_held_out + len(held_out),
            report.n_duplicates + looked_at.n_duplicates,
            report.seconds + time.perf_counter() - started,
            max(report.peak_memory_mib, peak.mib),
            report.n_folds,
            tuple(dict.fromkeys(report.notices + looked_at.notices)),
        )
        self._learned(state, ready, shape, calibration, report)
        return self

    def with_threshold(self, *, false_alarm_rate: float | None = None, threshold: float | None = None) -> Self:
        """This detector with another threshold; nothing is learned again, and both share what was.

        Args:
            false_alarm_rate: the fraction of good pictures that may alarm, by the conformal rule; or
            threshold: a raw score set by hand.

        Raises:
            NotFittedError: nothing was learned yet.
            OptionError: not exactly one of the two, or out of range.
        """
        self._fitted_state()
        if (false_alarm_rate is None) == (threshold is None):
            raise OptionError("give exactly one of false_alarm_rate (such as 0.01) and threshold (a raw score).")
        other = copy(self)
        if threshold is None:
            other.calibration_ = self.calibration_.with_rate(false_alarm_rate)
        else:
            other.calibration_ = self.calibration_.with_threshold(threshold)
        return other

    def restore(self, state: State, shape: WorkingShape, calibration: Calibration, report: FitReport) -> Self:
        """Take over what was learned before, as `load` does; the state's layout was checked.

        Raises:
            ValueError: its tensors contradict each other.
        """
        state = {name: tensor.to(self.statistics_device) for name, tensor in state.items()}
        with torch.inference_mode():
            ready = self.ready(state, shape)
        self._learned(state, ready, shape, calibration, report)
        return self

    def read(self, image: ImageLike, *, position: int = 0, name: str | None = None) -> DecodedImage:
        """Decode one picture as this model reads it: values of more than 8 bits on the scale of its fit.

        Raises:
            NotFittedError: nothing was learned yet.
            ImageError: the picture cannot be used.
        """
        self._fitted_state()
        return decode(image, position=position, name=name, value_range=self.working_shape_.value_range)

    def predict(self, image: ImageLike) -> Prediction:
        """Score one picture; safe to call from several threads at once.

        Raises:
            NotFittedError: nothing was learned yet.
            ImageError: the picture cannot be used.
            ScoreError: its score is not a finite number.
        """
        return self.predict_decoded([self.read(image)])[0]

    def predict_batch(self, images: Iterable[ImageLike] | str | Path) -> list[Prediction]:
        """Score several pictures, `batch_size` at a time; scores equal `predict`'s up to rounding.

        Args:
            images: a list or any other iterable of pictures, a folder, or a zip; the order is kept, and a folder's or a
                zip's is that of the names.

        Raises:
            NotFittedError: nothing was learned yet.
            DataError: what was given is no set of pictures.
            ImageSetError: pictures cannot be used; all of them are named.
            ScoreError: a score is not a finite number.
        """
        return list(self.predict_stream(images))

    def predict_stream(self, images: Iterable[ImageLike] | str | Path) -> Iterator[Prediction]:
        """As `predict_batch`, one after the other: memory holds a few pictures and maps, however many there are.

        Raises:
            NotFittedError, DataError, ImageSetError, ScoreError: as `predict_batch`; unreadable pictures are named
                after all others were looked at, and none that follows one is scored.
        """
        self._fitted_state()
        given, shape = given_images(images), self.working_shape_

        def load(position: int) -> _Prepared:
            decoded = self.read(given[position], position=position)
            pixels = decoded.pixels
            return _Prepared(shape.prepare(pixels), pixels.shape[:2], decoded.notices)

        n = self.batch_size(shape)
        for batch in in_batches(read_ahead(len(given), load, n + 1), len(given), n):
            scored = self._scored(self._encoded([item.pixels for item in batch]))
            for i, item in enumerate(batch):
                yield self._prediction(item.size, item.notices, scored, i)

    def predict_decoded(self, decoded: list[DecodedImage]) -> list[Prediction]:
        """Score pictures that were decoded before, all in one batch."""
        self._fitted_state()
        encoded = self._encoded([self.working_shape_.prepare(item.pixels) for item in decoded])
        return self.predict_encoded(encoded, decoded)

    def predict_encoded(self, encoded: list[Tensor], decoded: list[DecodedImage]) -> list[Prediction]:
        """The last part of a prediction, from what `encode` made of the same pictures."""
        scored = self._scored(encoded)
        return [self._prediction(item.pixels.shape[:2], item.notices, scored, i) for i, item in enumerate(decoded)]

    def score_batch(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,) and maps (B, h, w) on the CPU for prepared uint8 pictures B×h×w×3 of the working shape."""
        with torch.inference_mode():
            return self._scored(self.encode(batch))[:2]

    def estimate(self, images: ImageSet, *, n_folds: int | None = None) -> Estimate:
        """What a fit on these pictures will take, from short measurements on this machine (under a second or two).

        Nothing is downloaded for it.
        """
        shape = self.shape_for(images)
        n_images = len(images.images)
        n_folds = self._n_folds(n_folds, n_images, shape)
        if n_folds:
            n_learned = n_held_out = n_images
            n_folds = len(split_folds(_groups(images), n_folds, 0))
        else:
            n_learned, n_held_out = map(len, split_held_out(_groups(images), 0.2, 0))
        n_probe = min(self.batch_size(shape), len(images.images))
        probe = [images.images[i] for i in np.linspace(0, len(images.images) - 1, n_probe).astype(int)]
        batch = torch.from_numpy(next(read_batches(probe, shape.prepare, n_probe, shape.value_range)))
        measured = self.to_measure()

        def read_and_encode() -> None:
            for prepared in read_batches(probe, shape.prepare, n_probe, shape.value_range):
                measured.encode(torch.from_numpy(prepared))

        with PeakMemory() as peak:
            encoded = measured.encode(batch)  # the first pass loads the network and its kernels
            seconds = quiet_seconds(read_and_encode, self.device, least=1) / n_probe * n_images
            seconds += SCORE_RATIO * seconds * n_held_out / n_images
        learning, model_bytes = self.learning_seconds(shape, n_learned), self.state_bytes(shape, n_learned)
        held_bytes = self.learner_bytes(shape, n_learned) + model_bytes
        if n_folds:  # models of nearly as many pictures, over encoded pictures that are kept
            learning *= n_folds + 1
            held_bytes += model_bytes + sum(m.nbytes for m in encoded) * n_images // n_probe
        return Estimate(
            n_learned=n_learned,
            n_held_out=n_held_out,
            seconds=seconds + learning,
            peak_memory_mib=peak.mib + held_bytes / 2**20,
            available_mib=available_mib(),
            model_mib=model_bytes / 2**20,
            advice=self.memory_advice,
            network=self.network_name,
            download_mib=self.to_download_mib(),
        )

    def learn(self, shape: WorkingShape, images: list[ImageLike], on_progress: OnProgress | None) -> State:
        """The state after all these pictures."""
        return self._learn(self.new_learner(shape, len(images)), shape, images, on_progress)

    def _learn(
        self, learner: Learner, shape: WorkingShape, images: list[ImageLike], on_progress: OnProgress | None
    ) -> State:
        with torch.inference_mode():
            for encoded in self._encoded_batches(shape, images, "learning", on_progress):
                learner.add(encoded)
            return learner.finish(self._on_finishing(learner.stage, on_progress))

    def _cross_fit(
        self,
        images: list[ImageLike],
        shape: WorkingShape,
        folds: list[list[int]],
        rate: float,
        on_progress: OnProgress | None,
    ) -> tuple[State, Calibration]:
        """The state learned from all pictures, and the scores of each from a model that did not learn from it.

        The network, by far the slowest part, sees every picture once: its encoded batches are kept.
        """
        fold_of = torch.empty(len(images), dtype=torch.long)
        for number, fold in enumerate(folds):
            fold_of[fold] = number
        held_out, started, done = HeldOutScores(), time.perf_counter(), 0
        with torch.inference_mode():
            batches = list(self._encoded_batches(shape, images, "learning", on_progress))
            folds_of = fold_of.split([len(encoded[0]) for encoded in batches])

            def parts(wanted: Callable[[Tensor], Tensor]) -> Iterator[list[Tensor]]:
                for encoded, numbers in zip(batches, folds_of, strict=True):
                    chosen = wanted(numbers).nonzero()[:, 0].to(encoded[0].device)
                    if len(chosen):
                        yield [m[chosen] for m in encoded]

            def learn(encoded: Iterable[list[Tensor]], n: int, on_progress: OnProgress | None = None) -> State:
                learner = self.new_learner(shape, n)
                for part in encoded:
                    learner.add(part)
                return learner.finish(self._on_finishing(learner.stage, on_progress))

            state = learn(batches, len(images), on_progress)
            for number, fold in enumerate(folds):
                others = parts(lambda of: of != number)  # noqa: B023 - used up before the next fold
                ready = self.ready(learn(others, len(images) - len(fold)), shape)
                for part in parts(lambda of: of == number):  # noqa: B023
                    held_out.add(*self.score(part, ready))
                done += len(fold)
                if on_progress is not None:
                    seconds = time.perf_counter() - started
                    on_progress(Progress("setting the threshold", done, len(images), seconds))
        return state, held_out.calibration(rate, len(folds))

    @staticmethod
    def _on_finishing(stage: str, on_progress: OnProgress | None) -> OnStep | None:
        """Progress of a learner's last step, as a stage of its own."""
        if on_progress is None:
            return None
        started = time.perf_counter()

        def told(done: int, total: int, loss: float | None = None) -> None:
            on_progress(Progress(stage, done, total, time.perf_counter() - started, loss))

        return told

    def _n_folds(self, asked: int | None, n_images: int, shape: WorkingShape) -> int:
        if asked is not None:
            return asked
        if not self.folds_by_default or n_images > MAX_CROSS_IMAGES:
            return 0
        return DEFAULT_FOLDS if n_images * self.encoded_bytes(shape) <= MAX_KEPT_BYTES else 0

    def _calibrate(
        self, ready: Any, shape: WorkingShape, images: list[ImageLike], rate: float, on_progress: OnProgress | None
    ) -> Calibration:
        held_out = HeldOutScores()
        with torch.inference_mode():
            for encoded in self._encoded_batches(shape, images, "setting the threshold", on_progress):
                held_out.add(*self.score(encoded, ready))
        return held_out.calibration(rate)

    def _encoded_batches(
        self, shape: WorkingShape, images: list[ImageLike], stage: str, on_progress: OnProgress | None
    ) -> Iterator[list[Tensor]]:
        for prepared in self._prepared_batches(shape, images, stage, on_progress):
            yield self.encode(prepared)

    def _prepared_batches(
        self, shape: WorkingShape, images: list[ImageLike], stage: str, on_progress: OnProgress | None
    ) -> Iterator[Tensor]:
        """uint8 B×h×w×3; progress is told when the next one is asked for."""
        started, done = time.perf_counter(), 0
        for prepared in read_batches(images, shape.prepare, self.batch_size(shape), shape.value_range):
            yield torch.from_numpy(prepared)
            done += len(prepared)
            if on_progress is not None:
                on_progress(Progress(stage, done, len(images), time.perf_counter() - started))

    def _scored(self, encoded: list[Tensor]) -> Scored:
        self._fitted_state()
        with torch.inference_mode():
            scored = self.score_parts(encoded, self._ready).cpu()
        check_finite("the score of a picture", scored.scores, scored.maps)
        return scored

    def _encoded(self, prepared: list[np.ndarray]) -> list[Tensor]:
        with torch.inference_mode():
            return self.encode(torch.from_numpy(np.stack(prepared)))

    def _prediction(self, size: tuple[int, int], notices: tuple[str, ...], scored: Scored, i: int) -> Prediction:
        calibration, value = self.calibration_, float(scored.scores[i])
        to_original = self.working_shape_.to_original
        return Prediction(
            score=value,
            anomaly_map=to_original(scored.maps[i], size),
            parts={name: to_original(part[i], size) for name, part in scored.parts.items()},
            tile_scores=scored.tile_scores[i].numpy() if scored.tile_scores is not None else None,
            threshold=calibration.threshold,
            map_threshold=calibration.map_threshold,
            p_value=calibration.p_value(value),
            rarer_than=calibration.rarer_than(value),
            scale=calibration.scale,
            notices=notices,
        )

    def _learned(
        self, state: State, ready: Any, shape: WorkingShape, calibration: Calibration, report: FitReport
    ) -> None:
        self.state_, self._ready = state, ready
        self.working_shape_, self.calibration_, self.fit_report_ = shape, calibration, report
        self.origin_ = None

    def _fitted_state(self) -> State:
        if self.state_ is None:
            raise NotFittedError(
                f"this {type(self).__name__} has not learned yet. Call fit() with good pictures, or load a saved model."
            )
        return self.state_


class _Prepared(NamedTuple):
    """A picture ready for the network; its own pixels, which may be many, are let go."""

    pixels: np.ndarray  # uint8 h×w×3
    size: tuple[int, int]  # its own
    notices: tuple[str, ...]


def _readable(images: Iterable[ImageLike] | ImageSet | str | Path) -> ImageSet:
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

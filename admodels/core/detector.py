"""The façade over a method and what it learned: fit on good pictures, predict with calibrated scores."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from admodels.core import fitting, planning
from admodels.core.calibration import (
    DEFAULT_RATE,
    Calibration,
    background,
    check_finite,
    check_folds,
    check_rate,
    check_ratio,
    check_seed,
)
from admodels.core.fitting import Fitted
from admodels.core.method import Checkpoint, DetectorConfig, Method, Scored, State
from admodels.core.results import Estimate, FitReport, OnProgress, Prediction
from admodels.errors import NotFittedError, OptionError
from admodels.pictures.images import DecodedImage, ImageLike, ImageSet, decode, given_images, in_batches, read_ahead
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.exact import exact_products
from admodels.runtime.one_thread import one_thread


class Detector:
    """A method and what it learned. Learned attributes end in `_`; `predict` never writes to `self`.

    Args:
        method: how pictures are learned from and scored.
        fitted: what was learned before, as a saved model holds it.
    """

    def __init__(self, method: Method, fitted: Fitted | None = None) -> None:
        self.method = method
        self._fitted = fitted  # replaced as a whole: who predicts meanwhile sees one model or the other

    @property
    def key(self) -> str:
        """The method's name in the registry."""
        return self.method.key

    @property
    def title(self) -> str:
        """The method's name for people."""
        return self.method.title

    @property
    def config(self) -> DetectorConfig:
        """The method's options."""
        return self.method.config

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.method.device

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in: torch.float32, or torch.bfloat16 by autocast."""
        return self.method.dtype

    @property
    def network_name(self) -> str:
        """The network that sees the pictures, to be printed beside every measured speed."""
        return self.method.network_name

    @property
    def engine_title(self) -> str:
        """Name and version of what runs that network."""
        return self.method.engine_title

    @property
    def is_fitted(self) -> bool:
        """Whether there is something to predict with."""
        return self._fitted is not None

    @property
    def fitted_(self) -> Fitted:
        """All that was learned, as one value.

        Raises:
            NotFittedError: nothing was learned yet.
        """
        if self._fitted is None:
            raise NotFittedError(
                f"this {self.title} detector is not fitted yet. Call fit() with good pictures, or load a saved model."
            )
        return self._fitted

    @property
    def state_(self) -> State | None:
        """The learned tensors; None before the fit, as the next three."""
        return self._fitted and self._fitted.state

    @property
    def working_shape_(self) -> WorkingShape | None:
        """How pictures are looked at."""
        return self._fitted and self._fitted.shape

    @property
    def calibration_(self) -> Calibration | None:
        """Held-out scores, and the threshold that follows from them."""
        return self._fitted and self._fitted.calibration

    @property
    def held_out_(self) -> tuple[tuple[int, float], ...]:
        """Of the pictures that set the threshold in the last fit or update, position among those given, and score.

        The most unusual comes first. Empty for a model that was loaded: it is not saved.
        """
        return self.fitted_.held_out

    def held_out_prediction(self, position: int, decoded: DecodedImage) -> Prediction | None:
        """What was said of a good picture while it was held out; the model as it is now may have learned from it.

        Args:
            position: of the picture, as in `held_out_`.
            decoded: the picture.

        Returns:
            None where its map was not kept: it is for the most unusual ones, until the model is saved.
        """
        fitted = self.fitted_
        kept = fitted.held_out_maps.get(position)
        if kept is None:
            return None
        scored = Scored(torch.tensor([dict(fitted.held_out)[position]], dtype=torch.float64), kept[None])
        return _prediction(fitted, decoded.pixels.shape[:2], decoded.notices, scored, 0)

    @property
    def fit_report_(self) -> FitReport | None:
        """What the fit did."""
        return self._fitted and self._fitted.report

    @property
    def model_mib(self) -> float:
        """Size of the learned state in MiB."""
        return self.fitted_.model_mib

    def details(self) -> dict[str, str]:
        """What else a user may want to know about a fitted model, label to value."""
        return self.method.details(self.fitted_.state, self.fitted_.shape)

    def fit(
        self,
        images: Iterable[ImageLike] | ImageSet | str | Path,
        *,
        false_alarm_rate: float = DEFAULT_RATE,
        held_out_ratio: float = 0.2,
        n_folds: int | None = None,
        seed: int = 0,
        on_progress: OnProgress | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Self:
        """Learn what good pictures look like, and set the threshold from those held out.

        Args:
            images: good pictures, at least 4 different ones: paths, bytes, PIL images, H×W×3 uint8 RGB arrays; or a
                folder or a zip of them.
            false_alarm_rate: the fraction of good pictures that may alarm.
            held_out_ratio: without folds, the fraction that sets the threshold (at least 5 where possible). Most
                methods learn from it too, afterwards.
            n_folds: hold every picture out once, from one of so many models, and learn the final one from all; 0 is
                one split. By default 5 for up to 100 pictures, where the method learns in seconds.
            seed: of the choice of those pictures.
            on_progress: called with a `Progress` after every batch; raise `Cancelled` in it to stop.
            checkpoint: of a `Pause` that ended a fit with the same options and arguments; this one goes on from there.

        Returns:
            self. An error or a cancellation leaves the detector as it was.

        Raises:
            DataError: what was given is no set of pictures.
            ImageSetError: pictures cannot be read; all of them are named.
            OptionError: too few pictures, or a parameter out of range.
            ScoreError: what was learned, or a held-out score, is not a finite number; no model is kept.
        """
        self._fitted = fitting.fit(
            self.method,
            images,
            false_alarm_rate=check_rate(false_alarm_rate),
            held_out_ratio=check_ratio(held_out_ratio),
            n_folds=check_folds(n_folds),
            seed=check_seed(seed),
            on_progress=on_progress,
            checkpoint=checkpoint,
        )
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

        A part of the new pictures is held out too, as in `fit`, and its scores join the calibration. Of fewer than 4
        all are: each is scored and then learned from; methods that train a network need at least 4. The pictures that
        were held out before are no longer here, so their scores stay as they were measured;
        `calibration_.n_before_update` counts them.

        Raises:
            NotFittedError: nothing was learned yet.
            DataError, ImageSetError, OptionError, ScoreError: as `fit`.
        """
        self._fitted = fitting.update(
            self.method,
            self.fitted_,
            images,
            held_out_ratio=check_ratio(held_out_ratio),
            seed=check_seed(seed),
            on_progress=on_progress,
        )
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
        fitted = self.fitted_
        if (false_alarm_rate is None) == (threshold is None):
            raise OptionError("give exactly one of false_alarm_rate (such as 0.01) and threshold (a raw score).")
        if threshold is None:
            calibration = fitted.calibration.with_rate(false_alarm_rate)
        else:
            calibration = fitted.calibration.with_threshold(threshold)
        other = copy(self)
        other._fitted = replace(fitted, calibration=calibration)
        return other

    def shape_for(self, images: ImageSet) -> WorkingShape:
        """How a model of these pictures looks at them: size, crop, and the scale of values of more than 8 bits.

        Raises:
            DataError: there are no pictures.
            OptionError: the pictures allow none; the message says what to set.
        """
        return fitting.shape_for(self.method, images)

    def estimate(self, images: ImageSet, *, n_folds: int | None = None) -> Estimate:
        """What a fit on these pictures will take, from short measurements on this machine (under a second or two).

        Nothing is downloaded for it.
        """
        return planning.estimate(self.method, images, n_folds)

    def read(self, image: ImageLike, *, position: int = 0, name: str | None = None) -> DecodedImage:
        """Decode one picture as this model reads it: values of more than 8 bits on the scale of its fit.

        Raises:
            NotFittedError: nothing was learned yet.
            ImageError: the picture cannot be used.
        """
        return decode(image, position=position, name=name, value_range=self.fitted_.shape.value_range)

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
        fitted = self.fitted_
        shape, given, n = fitted.shape, given_images(images), self.batch_size

        def load(position: int) -> Prepared:
            return _prepared(shape, decode(given[position], position=position, value_range=shape.value_range))

        for batch in in_batches(read_ahead(len(given), load, n + 1), len(given), n):
            yield from self._judged(fitted, self._encoded(_stacked(batch)), batch)

    def predict_decoded(self, decoded: list[DecodedImage]) -> list[Prediction]:
        """Score pictures that were decoded before, all in one batch."""
        return self.predict_prepared([self.prepare(item) for item in decoded])

    def prepare(self, decoded: DecodedImage) -> "Prepared":
        """All of a picture that the networks need, a small part of a large one; in any thread, while others score."""
        return _prepared(self.fitted_.shape, decoded)

    def predict_prepared(self, prepared: "list[Prepared]") -> list[Prediction]:
        """Score what `prepare` of the same model gave, all in one batch."""
        fitted = self.fitted_
        return list(self._judged(fitted, self._encoded(_stacked(prepared)), prepared))

    def predict_encoded(self, encoded: list[Tensor], decoded: list[DecodedImage]) -> list[Prediction]:
        """The last part of a prediction, from what `encode` made of the same pictures."""
        fitted = self.fitted_
        return list(self._judged(fitted, encoded, decoded))

    def score_batch(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,) and maps (B, h, w) on the CPU for prepared uint8 pictures B×h×w×3 of the working shape."""
        fitted = self.fitted_
        encoded = self._encoded(batch)
        with self._threads(fitted, len(batch)):
            return self._scored(fitted, encoded)[:2]

    @property
    def batch_size(self) -> int:
        """Pictures that `predict_batch` scores at a time.

        Raises:
            NotFittedError: nothing was learned yet.
        """
        return self.method.batch_size(self.fitted_.shape)

    def _judged(
        self, fitted: Fitted, encoded: list[Tensor], items: "Sequence[DecodedImage | Prepared]"
    ) -> Iterator[Prediction]:
        """What is said of each picture, of what `encode` made of them."""
        with self._threads(fitted, len(items)):
            scored = self._scored(fitted, encoded)
        for i, item in enumerate(items):
            with self._threads(fitted, len(items)):
                prediction = _prediction(fitted, item.size, item.notices, scored, i)
            yield prediction

    def _threads(self, fitted: Fitted, n: int) -> AbstractContextManager[None]:
        """Within it, what `encode` made of n pictures is scored: by this thread alone where others would not help."""
        is_small = n == 1 and self.device.type == "cpu" and fitted.model_mib <= self.method.one_thread_mib
        return one_thread() if is_small else nullcontext()

    def _encoded(self, batch: Tensor) -> list[Tensor]:
        with torch.inference_mode(), exact_products(self.device):
            return self.method.encode(batch)

    def _scored(self, fitted: Fitted, encoded: list[Tensor]) -> Scored:
        # Of this device: what was encoded may have been brought to the CPU meanwhile, and what was learned has not.
        with torch.inference_mode(), exact_products(self.device):
            scored = fitted.scorer(encoded).cpu()
        check_finite("the score of a picture", scored.scores, scored.maps)
        return scored


class Prepared(NamedTuple):
    """A picture ready for the network; its own pixels, which may be many, are let go."""

    pixels: np.ndarray  # uint8 h×w×3
    size: tuple[int, int]  # its own
    notices: tuple[str, ...]


def _prepared(shape: WorkingShape, decoded: DecodedImage) -> Prepared:
    return Prepared(shape.prepare(decoded.pixels), decoded.size, decoded.notices)


def _stacked(prepared: Sequence[Prepared]) -> Tensor:
    return torch.from_numpy(np.stack([item.pixels for item in prepared]))


def _prediction(fitted: Fitted, size: tuple[int, int], notices: tuple[str, ...], scored: Scored, i: int) -> Prediction:
    calibration, to_original, value = fitted.calibration, fitted.shape.to_original, float(scored.scores[i])
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
        background=float(background(scored.maps[i : i + 1])[0]),
    )

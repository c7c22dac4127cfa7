"""A visitor's current model, and what it said: every result carries the `Current` that it came from.

Handlers read `session.current` once, work with that, and give the result back with it. A result of a model that was
replaced meanwhile is not taken for one of the new model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np

from admodels import Detector, Prediction, Pulled
from admodels.core import Calibration
from admodels.evaluation import Accuracy, TestImage
from admodels.pictures import DecodedImage, ImageLike

NOT_SAVED = ", not saved yet"


@dataclass(frozen=True, eq=False)
class Current:
    """A model in use.

    Attributes:
        label: what the visitor knows it by.
        learned: digests of the pictures that it was fitted on, where it was fitted here; empty where they are unknown.
        saved_as: its name among the saved models, whose threshold may be another one; empty where it is not there.
        is_kept: whether it is kept somewhere as it is: saved here, or on the Hub.
        threshold_moved: since it was fitted, loaded or saved.
        pulled: of a model of the Hub, with its commit and verification.
        seconds: batch size to the median time of a batch from its pixels to scores and maps, where it was measured.
        n_added: good pictures that it learned from since it was fitted, loaded or saved.
    """

    detector: Detector
    label: str
    learned: frozenset[bytes] = frozenset()
    saved_as: str = ""
    is_kept: bool = False
    threshold_moved: bool = False
    pulled: Pulled | None = None
    seconds: Mapping[int, float] = field(default_factory=dict)
    n_added: int = 0

    @property
    def calibration(self) -> Calibration:
        """How its scores are judged."""
        return self.detector.calibration_

    def is_same_model(self, other: "Current | None") -> bool:
        """Whether both score alike: they share what was learned, whatever their threshold and label."""
        return other is not None and self.detector.state_ is other.detector.state_

    def moved(self, **threshold: float) -> "Current":
        """The same model with another threshold (of `Detector.with_threshold`), so far not saved.

        Raises:
            OptionError: the threshold is out of range.
        """
        detector = self.detector.with_threshold(**threshold)
        return replace(self, detector=detector, is_kept=False, threshold_moved=True)

    def saved(self, name: str) -> "Current":
        """The same model, saved under this name."""
        return replace(self, label=name, saved_as=name, is_kept=True, threshold_moved=False, n_added=0)

    def extended(self, detector: Detector, digests: frozenset[bytes]) -> "Current":
        """This model after it learned from more good pictures, so far not saved."""
        n = self.n_added + len(digests)
        base = self.label.removesuffix(NOT_SAVED).removesuffix(_added(self.n_added))
        return Current(
            detector,
            f"{base}{_added(n)}{NOT_SAVED}",
            self.learned | digests,
            threshold_moved=self.threshold_moved,
            seconds=self.seconds,
            n_added=n,
        )

    def pushed(self, repo_id: str) -> "Current":
        """The same model, which is on the Hub now as it is."""
        label = self.label if self.saved_as else repo_id
        return replace(self, label=label, is_kept=True, threshold_moved=False, n_added=0)

    def renamed(self, name: str) -> "Current":
        """The same model, whose saved form has another name now."""
        return replace(self, label=name, saved_as=name)

    def deleted(self) -> "Current":
        """The same model, which is in memory only from now on."""
        return replace(self, label=f"{self.saved_as}, no longer saved", saved_as="", is_kept=False)


def _added(n: int) -> str:
    return f", {n} added" if n else ""


@dataclass(frozen=True)
class Inspected:
    """A picture that was scored, with its heatmap in two small sizes: a JPEG file, and an address that holds one.

    Attributes:
        hottest: (x, y) of the largest value of its map, in its own pixels.
    """

    image: ImageLike
    name: str
    score: float
    hottest: tuple[int, int]
    thumbnail: bytes
    icon: str
    background: float = math.nan


@dataclass(frozen=True)
class Inspection:
    """The pictures inspected last, and what a model said of them."""

    current: Current
    pictures: tuple[Inspected, ...]
    show: int = 0  # which one is shown first
    by_score: bool = True  # how the gallery lists them; else as they came
    only_suspected: bool = False  # what gallery and table list; else all

    def judged(self, current: Current) -> Self:
        """The same scores, by another threshold of the same model."""
        return replace(self, current=current)


@dataclass(frozen=True)
class Shown:
    """The picture that is shown, and what a model said of it.

    Attributes:
        place: where the gallery lists it; -1 where it does not.
    """

    current: Current
    decoded: DecodedImage
    prediction: Prediction
    place: int = -1
    image: ImageLike | None = None  # as it came

    def judged(self, current: Current) -> Self:
        """The same prediction, by another threshold of the same model."""
        return replace(self, current=current, prediction=self.prediction.judged(current.calibration))


@dataclass(frozen=True)
class Evaluated:
    """Labelled pictures, what they said of a model, and the folder that a zip was unpacked into."""

    current: Current
    test: list[TestImage]
    accuracy: Accuracy
    notes: tuple[str, ...]
    folder: TemporaryDirectory | None = None
    understood: tuple[str, ...] = ()  # what each folder of a zip was taken for
    thumbnails: dict[int, np.ndarray] = field(default_factory=dict)  # of the worst mistakes, by position

    def judged(self, current: Current) -> Self:
        """The same scores, by another threshold of the same model."""
        return replace(self, current=current, accuracy=self.accuracy.judged(current.calibration))


@dataclass(frozen=True)
class Single:
    """A single model, fitted to compare a tiled ensemble with."""

    current: Current  # the ensemble
    detector: Detector

    def judged(self, current: Current) -> Self:
        """The same, whatever the ensemble's threshold."""
        return replace(self, current=current)


@dataclass(frozen=True)
class Compared:
    """An evaluation, and what another model says of the same pictures.

    Attributes:
        evaluated: of the model in use.
        other: with the threshold that it had when it was measured.
        milliseconds: of both, for one picture from its pixels to score and map; timed one after the other.
        notes: what one must know before believing the figures.
        heatmaps: of both, as addresses that hold them, by the picture's position.
    """

    evaluated: Evaluated
    other: Current
    accuracy: Accuracy  # of the other
    milliseconds: tuple[float, float]
    notes: tuple[str, ...]
    heatmaps: dict[int, tuple[str, str]] = field(default_factory=dict)

    @property
    def current(self) -> Current:
        """The model that was evaluated, and that this goes with."""
        return self.evaluated.current

    def judged(self, current: Current) -> Self:
        """The same scores, by another threshold of the model in use; the other one keeps its own."""
        return replace(self, evaluated=self.evaluated.judged(current))


Result = Inspection | Shown | Evaluated | Single | Compared


@dataclass(frozen=True)
class Question:
    """What a visitor is asked before an unsaved model is replaced or let go.

    Attributes:
        about: the model in use that would be lost.
        stopped: the model of a training that was stopped; it is used if the answer is yes, and let go otherwise.
        reference, label: else the model that is opened if the answer is yes, and what the question calls it.
        is_link: whether the page's address asked for it.
    """

    said: str
    yes: str
    no: str
    about: Current | None = None
    stopped: Current | None = None
    reference: str = ""
    label: str = ""
    is_link: bool = False

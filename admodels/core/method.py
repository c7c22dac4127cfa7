"""What a method implements: encode pictures, learn from what was encoded, score it.

Decoding, checks, resizing, holding out, calibration and the way back to a picture's own size are `Detector`'s, once for
all methods. A method keeps its options and its device, and nothing that was learned: a learned state is passed in.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from admodels.core.batches import finish_progress, prepared_batches
from admodels.core.results import OnProgress
from admodels.errors import OptionError
from admodels.options import Options, option
from admodels.pictures.images import ImageLike
from admodels.pictures.value_range import AUTO, parse_value_range
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.device import PRECISIONS, resolve_device, resolve_precision, statistics_device
from admodels.runtime.engines import TORCH_TITLE

BATCH_SIZE = 8

State = dict[str, Tensor]
Checkpoint = dict[str, Any]  # of a paused training: numbers, lists, and tensors on the CPU
Layout = dict[str, tuple[tuple[int | range, ...], torch.dtype]]  # a range where the data decide
OnStep = Callable[..., None]  # (done, total), or (done, total, loss)


@dataclass(frozen=True)
class DetectorConfig(Options):
    """The options that every method has."""

    image_size: int = option(
        256, "Side in pixels to which pictures are resized.", minimum=64, maximum=2048, common=True
    )
    crop: int | None = option(
        None, "Crop this centre square from image_size (papers: 224); the border is not scored.", minimum=32
    )
    keep_aspect: bool = option(True, "Keep the pictures' median aspect ratio; off squeezes them into a square.")
    precision: str = option(
        "auto", "Precision of the network; auto uses bfloat16 if the hardware benefits from it.", choices=PRECISIONS
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
    """What a scorer says of a batch.

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

    @classmethod
    def by_largest(cls, maps: Tensor, ratio: float, parts: Mapping[str, Tensor] = {}) -> "Scored":
        """With the mean of a map's largest values as the picture's score.

        Args:
            ratio: the part of the values that counts, from 0 to 1; with 0 it is the largest alone.
        """
        values = maps.flatten(1)
        largest = values.topk(max(1, round(ratio * values.shape[1])), 1, sorted=False).values
        return cls(largest.mean(1), maps, parts)

    def cpu(self) -> "Scored":
        """All of it on the CPU."""
        parts = {name: part.cpu() for name, part in self.parts.items()}
        tile_scores = self.tile_scores.cpu() if self.tile_scores is not None else None
        return Scored(self.scores.cpu(), self.maps.cpu(), parts, tile_scores)


Scorer = Callable[[list[Tensor]], Scored]  # of one encoded batch; keeps the state as scoring wants it


class Learner(ABC):
    """Learns from a stream of encoded batches; the batches may be cut anywhere."""

    stage: ClassVar[str]  # the name of what `finish` does

    @abstractmethod
    def add(self, encoded: list[Tensor]) -> None:
        """Take in one encoded batch."""

    @abstractmethod
    def finish(self, on_step: OnStep | None = None) -> State:
        """The learned state; `on_step` is told (done, total) where this takes long, and may raise to stop."""

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on in `finish` from where another learner, given the same batches, was paused."""
        raise NotImplementedError


class Cost(NamedTuple):
    """What learning takes beside the network's passes.

    Attributes:
        seconds: from a short measurement on this machine.
        learner_bytes: the most memory that the learner holds.
        state_bytes: the size of what is learned; an estimate where the data decide.
    """

    seconds: float
    learner_bytes: int
    state_bytes: int


class Method(ABC):
    """Base of all methods.

    Args:
        config: the method's options; its defaults where none are given.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        time_share: the part of a fit's time that this model may take, where several learn one after the other.
    """

    # What the command line and the app show and offer; data, not behaviour.
    key: ClassVar[str]
    title: str
    summary: ClassVar[str]
    Config: ClassVar[type[DetectorConfig]]
    # Variants that the paper compares, name to options; `benchmark` prints them side by side.
    comparison: ClassVar[dict[str, dict[str, object]]] = {}
    # Whether small sets are calibrated by folds unless asked otherwise: for methods that learn in seconds.
    folds_by_default: bool = True
    # Whether pictures that set the threshold are learned from afterwards: for methods that go on learning in seconds.
    learns_held_out: bool = True
    # Whether its training can be paused, and gone on with in another process.
    can_pause: bool = False
    # One picture is scored by one thread up to this size of the learned state: more would wait for each other longer
    # than they help, beside other work most of all.
    one_thread_mib: float = 8.0
    # How to make a fit smaller: said when it would not fit in memory.
    memory_advice: str = "lower image_size"

    def __init__(
        self,
        config: DetectorConfig | None = None,
        *,
        device: str | torch.device = "auto",
        time_share: float = 1.0,
    ) -> None:
        self.config = config if config is not None else self.Config()
        if not isinstance(self.config, self.Config):
            raise OptionError(
                f"config is a {type(config).__name__}; {type(self).__name__} expects a {self.Config.__name__}."
            )
        self.title = self.titled(self.config)
        self.device = resolve_device(device)
        self.time_share = time_share

    # --- what every method implements --------------------

    @abstractmethod
    def encode(self, batch: Tensor) -> list[Tensor]:
        """Turn uint8 B×h×w×3 into what the learner and the scorer take: tensors whose first dimension is B."""

    @abstractmethod
    def encoded_bytes(self, shape: WorkingShape) -> int:
        """Size of one encoded picture."""

    @abstractmethod
    def learner(self, shape: WorkingShape, n_images: int, state: State | None = None) -> Learner:
        """A learner for `n_images` pictures to come; it goes on from `state` where one is given."""

    @abstractmethod
    def scorer(self, state: State, shape: WorkingShape) -> Scorer:
        """Scores encoded batches by a learned state; made once after a fit or a load, called from several threads.

        Raises:
            ValueError: the state, whose layout is right, contradicts itself.
        """

    @abstractmethod
    def layout(self, shape: WorkingShape, n_images: int) -> Layout:
        """Shape and dtype of every tensor of the state after `n_images`: what a saved model must hold."""

    @abstractmethod
    def cost(self, shape: WorkingShape, n_images: int) -> Cost:
        """What learning from so many pictures takes."""

    @property
    @abstractmethod
    def network_name(self) -> str:
        """The network that sees the pictures, to be printed beside every measured speed."""

    # --- what a method may say besides --------------------

    @property
    def engine_title(self) -> str:
        """Name and version of what runs the network, to be printed beside every measured speed."""
        return TORCH_TITLE

    @property
    def network_licence(self) -> str:
        """Whose the network's weights are, and under which licence; empty where they are learned here alone."""
        return ""

    def encoder(self) -> nn.Module:
        """What `encode` does, in float32 on the CPU, as a module that can be written down for another runtime."""
        return _Encoder(self.encode)

    def tile_scorer(self, states: list[State], stacked: State, shape: WorkingShape) -> Scorer | None:
        """Scores the tiles of a picture at once, each by a state of its own.

        The batch then holds the T tiles of its pictures one picture after the other, (B·T, ...), and so does the
        result.

        Args:
            states: the T states, without copies.
            stacked: the same; tensors of fixed shape lie together as (T, ...).

        Returns:
            None where a method scores with one state at a time.
        """
        return None

    def learn(self, shape: WorkingShape, images: list[ImageLike], on_progress: OnProgress | None) -> State:
        """The state after all these pictures."""
        return self.learn_with(self.learner(shape, len(images)), shape, images, on_progress)

    def batch_size(self, shape: WorkingShape) -> int:
        """Pictures that are encoded at a time."""
        return BATCH_SIZE

    def check_shape(self, shape: WorkingShape) -> None:  # noqa: B027 - most methods take any
        """Refuse a working shape that this method cannot learn on.

        Raises:
            OptionError: it cannot; the message says what to set.
        """

    def check_folds(self, n_folds: int) -> None:  # noqa: B027 - most methods can
        """Refuse to learn so many times from parts of the pictures.

        Raises:
            OptionError: it cannot; the message says what to set.
        """

    def details(self, state: State, shape: WorkingShape) -> dict[str, str]:
        """What else a user may want to know about a learned state, label to value."""
        return {}

    def download_mib(self) -> float:
        """About how much has to be downloaded before the first picture can be encoded."""
        return 0.0

    def to_measure(self) -> Self:
        """A method that takes as long as this one, and downloads nothing."""
        return self

    @classmethod
    def titled(cls, config: DetectorConfig) -> str:
        """What a method with these options is called."""
        return cls.title

    # --- the same for all --------------------

    def learn_with(
        self, learner: Learner, shape: WorkingShape, images: list[ImageLike], on_progress: OnProgress | None
    ) -> State:
        """The state after all these pictures, and after those from which the learner goes on."""
        with torch.inference_mode():
            for batch in prepared_batches(images, shape, self.batch_size(shape), "learning", on_progress, self.device):
                learner.add(self.encode(batch))
            return learner.finish(finish_progress(learner.stage, on_progress))

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in: torch.float32, or torch.bfloat16 by autocast."""
        return resolve_precision(self.config.precision, self.device)

    @property
    def statistics_device(self) -> torch.device:
        """Where the learned state lives."""
        return statistics_device(self.device)


class _Encoder(nn.Module):
    def __init__(self, encode: Callable[[Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.encode = encode

    def forward(self, batch: Tensor) -> list[Tensor]:
        return self.encode(batch)


def layout_bytes(layout: Layout) -> int:
    """The size of a state whose layout does not depend on the data."""
    return sum(int(np.prod(size)) * dtype.itemsize for size, dtype in layout.values())

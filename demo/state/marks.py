"""Pictures that a visitor said are defective: what later models are checked against.

The session keeps a copy of each, since uploads are deleted after a while; it goes with the session. What is marked when
a model is saved is kept with it, and is marked again when it is loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np
from PIL import Image

from admodels.pictures import ImageLike, content_digest, encoded_bytes
from demo.state.current import Current

LONGEST_NAME = 100


@dataclass(frozen=True)
class Mark:
    """A picture marked as a defect.

    Attributes:
        file: the session's own copy; None where only digest and score came with a saved model.
        digest: of its contents, which tells it from others wherever it comes from.
        is_kept: with a saved model.
    """

    file: Path | None
    name: str
    digest: bytes
    is_kept: bool = False


@dataclass(frozen=True)
class MarkScores:
    """What a model said of the marked pictures, by digest."""

    current: Current
    scores: Mapping[bytes, float]

    def judged(self, current: Current) -> Self:
        """The same scores, by another threshold of the same model."""
        return replace(self, current=current)

    def is_found(self, mark: Mark) -> bool:
        """Whether a marked picture scores above the threshold."""
        return self.scores[mark.digest] > self.current.calibration.threshold


@dataclass
class MarkFolder:
    """Where the copies are; a folder of its own for each, since names may be alike."""

    folder: TemporaryDirectory = field(default_factory=lambda: TemporaryDirectory(prefix="admodels-"))
    n: int = 0

    def add(self, image: ImageLike, name: str) -> Mark:
        """Copy a picture as it came.

        Raises:
            ImageError: it cannot be read any more.
            OSError: there is no space.
        """
        self.n += 1
        place = Path(self.folder.name) / str(self.n)
        place.mkdir()
        file = place / (Path(name).name[-LONGEST_NAME:] or "picture")
        if isinstance(image, np.ndarray):
            file = file.with_name(f"{file.name}.png")
            Image.fromarray(image).save(file)
        else:
            file.write_bytes(encoded_bytes(image, name))
        return Mark(file, name, content_digest(image))


@dataclass(frozen=True)
class Addition:
    """Good pictures that the visitor wants a model to learn from, to be confirmed."""

    current: Current
    images: tuple[ImageLike, ...]
    names: tuple[str, ...]
    said: str  # what it will change


@dataclass(frozen=True)
class Added:
    """What was added last: the model before, to go back to, and the one after."""

    before: Current
    after: Current
    said: str

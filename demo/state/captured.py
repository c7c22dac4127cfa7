"""Good pictures taken with the camera in the Train tab: kept as files without loss, as long as somebody needs them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np
from PIL import Image

from admodels.pictures import ImageSet, as_address, as_jpeg, content_digest, is_alike

THUMBNAIL_SIDE = 120


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture: its file, a glance at it, its small picture for the page, its (height, width) and digest."""

    path: Path
    seen: np.ndarray
    address: str
    size: tuple[int, int]
    digest: bytes


@dataclass(frozen=True, eq=False)
class Captured:
    """What is kept beside a camera's pictures. Nothing is taken out of it, since a fit may still read the files.

    Attributes:
        folder: where the files are; it goes when nobody holds this any more.
        shots: all that were ever taken, in order; an `ImageSet` says which of them are chosen.
        n_alike: frames passed over since they were no different from the last picture taken.
    """

    folder: TemporaryDirectory = field(default_factory=lambda: TemporaryDirectory(prefix="admodels-"))
    shots: tuple[Shot, ...] = ()
    n_alike: int = 0

    def shots_of(self, images: ImageSet) -> list[Shot]:
        """Those shots that are in a set, in order."""
        chosen = set(images.images)
        return [shot for shot in self.shots if shot.path in chosen]

    def passed_over(self) -> Self:
        """The same after one more frame that was no different."""
        return replace(self, n_alike=self.n_alike + 1)

    def taken(self, pixels: np.ndarray, seen: np.ndarray) -> Self:
        """The same with one more picture, written as a PNG file.

        A number is never given twice: what a fit said of a picture stays true when it was deleted.

        Args:
            pixels: uint8 H×W×3.
            seen: a glance at them.
        """
        path = Path(self.folder.name) / f"camera-{len(self.shots) + 1:03}.png"
        Image.fromarray(pixels).save(path, "PNG", compress_level=1)  # a frame comes every moment
        address = as_address(as_jpeg(pixels, THUMBNAIL_SIDE))
        shot = Shot(path, seen, address, pixels.shape[:2], content_digest(pixels))
        return replace(self, shots=(*self.shots, shot))


def is_new(shots: list[Shot], seen: np.ndarray) -> bool:
    """Whether a frame differs from the last of some shots."""
    return not shots or not is_alike(shots[-1].seen, seen)


def image_set(shots: list[Shot]) -> ImageSet:
    """Shots as a set that was looked at: they can be read, and their sizes and contents are known."""
    by_digest: dict[bytes, list[int]] = {}
    for position, shot in enumerate(shots):
        by_digest.setdefault(shot.digest, []).append(position)
    duplicates = [group for group in by_digest.values() if len(group) > 1]
    return ImageSet([shot.path for shot in shots], [shot.size for shot in shots], [], duplicates)

"""Unrelated pictures, on which EfficientAD's student must not follow its teacher (the paper's pretraining penalty).

By default they are generated, so that nothing is downloaded.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from admodels.errors import OptionError
from admodels.pictures.generated import generate
from admodels.pictures.images import decode, list_images, resize

GRAY_PROBABILITY = 0.3  # the paper's


class PenaltyPictures:
    """Draws unrelated pictures.

    Args:
        source: "generated", or a folder: its pictures are brought to twice the size and cut in the middle (appendix A).
        size: (height, width) of what is drawn.

    Raises:
        OptionError: the folder holds no pictures.
    """

    def __init__(self, source: str, size: tuple[int, int], rng: np.random.Generator) -> None:
        self._files = None if source == "generated" else _listed(source)
        self._size, self._rng = size, rng

    def draw(self, n: int) -> np.ndarray:
        """`n` more, uint8 (n, H, W, 3).

        Raises:
            ImageError: one of the folder's cannot be read.
        """
        size, rng, files = self._size, self._rng, self._files
        if files is None:
            pictures = [generate(size, rng) for _ in range(n)]
        else:
            pictures = [_middle(decode(files[i]).pixels, size) for i in rng.integers(len(files), size=n)]
        return np.stack([_gray(p) if rng.random() < GRAY_PROBABILITY else p for p in pictures])


def _listed(source: str) -> Sequence[Path]:
    folder = Path(source).expanduser()
    found = list_images(folder) if folder.is_dir() else []
    if not found:
        raise OptionError(
            f"penalty_images is {source!r}, {'a folder without pictures' if folder.is_dir() else 'not a folder'}; "
            "expected generated, none, or a folder of unrelated pictures."
        )
    return found


def _middle(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return resize(pixels, (2 * size[0], 2 * size[1]), size)


def _gray(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))

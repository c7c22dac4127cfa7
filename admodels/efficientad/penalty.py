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


def penalty_pictures(source: str, n: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """`n` pictures, uint8 (n, H, W, 3).

    Args:
        source: "generated", or a folder: its pictures are brought to twice the size and cut in the middle (appendix A).

    Raises:
        OptionError: the folder holds no pictures.
        ImageError: one of them cannot be read.
    """
    if source == "generated":
        pictures = [generate(size, rng) for _ in range(n)]
    else:
        found = _listed(source)
        pictures = [_middle(decode(found[i]).pixels, size) for i in rng.integers(len(found), size=n)]
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

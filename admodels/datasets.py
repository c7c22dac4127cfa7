"""Data sets on disk: folders of pictures in the MVTec AD layout."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from admodels.errors import DataError
from admodels.images import decode, list_images


@dataclass(frozen=True)
class TestImage:
    """One labelled picture; `mask` is the path of its pixel mask where there is one."""

    path: Path
    kind: str
    mask: Path | None

    @property
    def is_defective(self) -> bool:
        """Everything that is not of the kind "good"."""
        return self.kind != "good"


@dataclass(frozen=True)
class Dataset:
    """Good pictures to learn from and labelled ones to test on."""

    root: Path
    train: list[Path]
    test: list[TestImage]


def normal_images(folder: str | Path) -> list[Path]:
    """The good pictures of a folder: `train/good` in the MVTec AD layout, else the pictures directly in it.

    Raises:
        DataError: the folder does not exist or holds no picture in either place.
    """
    root = _existing(folder)
    for candidate in (root / "train" / "good", root):
        if candidate.is_dir() and (found := list_images(candidate)):
            return found
    raise DataError(f"{root} holds no pictures; looked in {root / 'train' / 'good'} and in {root} itself.")


def load_mvtec(folder: str | Path) -> Dataset:
    """Read one category in the MVTec AD layout: `train/good`, `test/<kind>`, `ground_truth/<kind>/<name>_mask.png`.

    Raises:
        DataError: a part of the layout is missing; the message shows what was looked for.
    """
    root = _existing(folder)
    wanted = "train/good/*.png, test/good/*.png, test/<kind>/*.png and ground_truth/<kind>/<name>_mask.png (optional)"
    for part in ("train/good", "test"):
        if not (root / part).is_dir():
            found = ", ".join(sorted(p.name for p in root.iterdir())[:10]) or "nothing"
            raise DataError(
                f"{root} is not in the MVTec AD layout: {part} is missing. Expected {wanted}; found {found}."
            )
    train = list_images(root / "train" / "good")
    test = []
    for kind in sorted(p for p in (root / "test").iterdir() if p.is_dir()):
        masks = root / "ground_truth" / kind.name
        for path in list_images(kind):
            mask = next((m for m in (masks / f"{path.stem}_mask.png", masks / f"{path.stem}.png") if m.exists()), None)
            test.append(TestImage(path, kind.name, None if kind.name == "good" else mask))
    if not train or not test:
        raise DataError(f"{root}: {len(train)} pictures in train/good, {len(test)} in test. Expected {wanted}.")
    return Dataset(root, train, test)


def read_mask(path: Path) -> np.ndarray:
    """A pixel mask as bool H×W; everything above zero is defective."""
    return decode(path).pixels.max(axis=2) > 0


def _existing(folder: str | Path) -> Path:
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Give the folder that holds the pictures (or train/good and test).")
    return root

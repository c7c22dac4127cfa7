"""Labelled data sets on disk, found by looking at the folder.

Layouts: MVTec AD, MVTec LOCO (a folder of masks for each picture), VisA (its `split_csv`), Magnetic Tile as its authors
publish it, and any folder with `good` and other folders in it.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from admodels.errors import DataError
from admodels.images import decode, list_images

TEST_NORMALS_RATIO = 1 / 4  # of the good pictures, where a folder does not say which ones are for testing


@dataclass(frozen=True)
class TestImage:
    """One labelled picture.

    Attributes:
        kind: "good", or the kind of defect.
        masks: its pixel masks, read as their union; none where there are none.
    """

    path: Path
    kind: str
    masks: tuple[Path, ...] = ()

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
    layout: str


def normal_images(folder: str | Path) -> list[Path]:
    """The good pictures of a folder: those of a data set in a known layout, else the pictures directly in it.

    Raises:
        DataError: the folder does not exist or holds no picture in any of these places.
    """
    root = _existing(folder)
    for candidate in (root / "train" / "good", root):
        if candidate.is_dir() and (found := list_images(candidate)):
            return found
    try:
        return load_dataset(root).train
    except DataError as error:
        raise DataError(f"{root} holds no pictures, and it is no data set either: {error}") from error


def load_dataset(folder: str | Path) -> Dataset:
    """Read one category, whichever layout it is in.

    Raises:
        DataError: no known layout; the message shows what was looked for and what was found.
    """
    root = _existing(folder)
    tried = []
    for layout, read in LAYOUTS.items():
        found = read(root)
        if isinstance(found, str):
            tried.append(f"{layout}: {found}")
        else:
            train, test = found
            return Dataset(root, train, test, layout)
    there = ", ".join(sorted(p.name for p in root.iterdir())[:10]) or "nothing"
    listed = "\n".join(f"• {line}" for line in tried)
    raise DataError(f"{root} is in none of the known layouts. It holds {there}. Looked for:\n{listed}")


def labelled_images(folder: str | Path) -> list[TestImage]:
    """The labelled pictures of a folder, to test a model on that is there already: no good ones are set aside.

    Takes `test/<kind>` and `ground_truth/<kind>` as MVTec AD has them, or the kinds directly in the folder. Where there
    is nothing but one folder, that one is looked at.

    Raises:
        DataError: the folder does not exist, or has no folder for each kind.
    """
    root = _existing(folder)
    inside = [p for p in root.iterdir() if not p.name.startswith((".", "__"))]
    if len(inside) == 1 and inside[0].is_dir() and inside[0].name != "test":
        return labelled_images(inside[0])
    if (root / "test").is_dir():
        found = _by_kind(root / "test", root / "ground_truth")
    else:
        found = _by_kind(root, root / "ground_truth", without=("ground_truth", "train"))
    if not found:
        there = ", ".join(sorted(p.name for p in inside)[:10]) or "nothing"
        raise DataError(
            f"no labelled pictures: expected test/good and test/<kind of defect>, or good and <kind of defect>, each a "
            f"folder of pictures; masks in ground_truth/<kind>/<name>_mask.png. There is {there}."
        )
    return found


def pair_masks(
    good: Sequence[str | Path], defective: Sequence[str | Path], masks: Sequence[str | Path] = ()
) -> list[TestImage]:
    """Labelled pictures from loose files; a mask is named like its picture, or `<name>_mask`.

    Raises:
        DataError: a mask belongs to no defective picture, or to more than one.
    """
    stems = [Path(path).stem for path in defective]
    by_stem: dict[str, list[Path]] = {}
    for mask in map(Path, masks):
        stem = mask.stem if mask.stem in stems else mask.stem.removesuffix("_mask")
        if stems.count(stem) != 1:
            raise DataError(
                f"the mask {mask.name} belongs to {stems.count(stem) or 'no'} defective pictures. Name it like its "
                f"picture: {stems[0] if stems else '036'}_mask.png for {stems[0] if stems else '036'}.png."
            )
        by_stem.setdefault(stem, []).append(mask)
    found = [TestImage(Path(path), "good") for path in good]
    return found + [
        TestImage(Path(path), "defective", tuple(by_stem.get(stem, ())))
        for path, stem in zip(defective, stems, strict=True)
    ]


def find_datasets(folder: str | Path) -> dict[str, Dataset]:
    """Every category of a folder, by name: itself, each sub-folder that is one, or the objects of VisA's `split_csv`.

    Raises:
        DataError: there is none.
    """
    root = _existing(folder)
    if (root / VISA_CSV).is_file():
        rows = _visa_rows(root)
        return {name: _visa(root, name, rows) for name in sorted({row["object"] for row in rows})}
    try:
        return {root.resolve().name: load_dataset(root)}
    except DataError:
        pass  # not a category itself
    found, failed = {}, []
    for child in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        try:
            found[child.name] = load_dataset(child)
        except DataError as error:
            failed.append(str(error))
    if not found:
        why = f" The first one: {failed[0]}" if failed else ""
        raise DataError(f"{root} holds no categories; {len(failed)} folders were looked at.{why}")
    return found


def read_mask(paths: tuple[Path, ...]) -> np.ndarray:
    """The union of pixel masks as bool H×W; everything above zero is defective."""
    union = decode(paths[0]).pixels.max(axis=2) > 0
    for path in paths[1:]:
        other = decode(path).pixels.max(axis=2) > 0
        if other.shape != union.shape:
            sizes = [f"{shape[1]}×{shape[0]} px" for shape in (other.shape, union.shape)]
            raise DataError(f"{path} is {sizes[0]}, the masks beside it {sizes[1]}.")
        union |= other
    return union


# --- layouts: each gives the pictures, or a sentence about what is missing --------------------

Found = tuple[list[Path], list[TestImage]] | str


def _mvtec(root: Path) -> Found:
    """MVTec AD and LOCO differ in the masks only: a file for each picture, or a folder of files."""
    wanted = "train/good/*.png, test/good/*.png, test/<kind>/*.png, ground_truth/<kind>/<name>_mask.png or <name>/*.png"
    for part in ("train/good", "test"):
        if not (root / part).is_dir():
            return f"{part} is missing; expected {wanted}"
    train = list_images(root / "train" / "good")
    test = _by_kind(root / "test", root / "ground_truth")
    if not train or not test:
        return f"{len(train)} pictures in train/good, {len(test)} in test; expected {wanted}"
    return train, test


def _magnetic_tile(root: Path) -> Found:
    """As published: MT_Free/Imgs and MT_<Defect>/Imgs, pictures as .jpg with a mask of the same name as .png.

    The split is that of Huang et al. and of the iSVD paper (section 4.1): exp1's normals are the test's.
    """
    if not (root / "MT_Free" / "Imgs").is_dir():
        return "MT_Free/Imgs is missing; expected MT_Free/Imgs/*.jpg and MT_<Defect>/Imgs/*.jpg with masks as .png"
    normals = sorted((root / "MT_Free" / "Imgs").glob("*.jpg"))
    train = [path for path in normals if not path.name.startswith("exp1_")]
    test = [TestImage(path, "good") for path in normals if path.name.startswith("exp1_")]
    for folder in sorted(root.glob("MT_*/Imgs")):
        kind = folder.parent.name.removeprefix("MT_").lower()
        if kind != "free":
            for path in sorted(folder.glob("*.jpg")):
                mask = path.with_suffix(".png")
                test.append(TestImage(path, kind, (mask,) if mask.exists() else ()))
    if not train or not test:
        return f"{len(train)} normals that are not exp1_*, {len(test)} pictures to test on"
    return train, test


def _good_and_others(root: Path) -> Found:
    """A folder with `good` in it: every fourth good picture is kept for the test."""
    if not (root / "good").is_dir():
        return "good is missing; expected good/* and a folder for each kind of defect, masks in ground_truth/<kind>"
    good = list_images(root / "good")
    step = round(1 / TEST_NORMALS_RATIO)
    test = [TestImage(path, "good") for path in good[::step]]
    test += _by_kind(root, root / "ground_truth", without=("good", "ground_truth"))
    train = [path for i, path in enumerate(good) if i % step]
    if not train or all(not item.is_defective for item in test):
        return f"{len(good)} pictures in good, {sum(item.is_defective for item in test)} in other folders"
    return train, test


LAYOUTS: dict[str, Callable[[Path], Found]] = {
    "MVTec AD or LOCO": _mvtec,
    "Magnetic Tile": _magnetic_tile,
    "good and others": _good_and_others,
}

VISA_CSV = Path("split_csv") / "1cls.csv"


def _visa_rows(root: Path) -> list[dict[str, str]]:
    with open(root / VISA_CSV, newline="") as opened:
        rows = list(csv.DictReader(opened))
    missing = {"object", "split", "label", "image", "mask"} - set(rows[0] if rows else ())
    if missing:
        raise DataError(f"{root / VISA_CSV} lacks the columns {', '.join(sorted(missing))}.")
    return rows


def _visa(root: Path, name: str, rows: list[dict[str, str]]) -> Dataset:
    train, test = [], []
    for row in rows:
        path = root / row["image"]
        if row["object"] != name:
            continue
        if not path.is_file():
            raise DataError(f"{root / VISA_CSV} names {row['image']}, which is not there.")
        if row["split"] == "train":
            train.append(path)
        else:
            kind = "good" if row["label"] == "normal" else "anomaly"
            test.append(TestImage(path, kind, (root / row["mask"],) if row["mask"] else ()))
    return Dataset(root / name, train, test, "VisA")


def _by_kind(folder: Path, ground_truth: Path, without: tuple[str, ...] = ()) -> list[TestImage]:
    """The pictures of every sub-folder, which is named after their kind, with their masks."""
    kinds = sorted(p for p in folder.iterdir() if p.is_dir() and p.name not in without)
    return [
        TestImage(path, kind.name, _masks(ground_truth / kind.name, path.stem))
        for kind in kinds
        for path in list_images(kind)
    ]


def _masks(folder: Path, stem: str) -> tuple[Path, ...]:
    for file in (folder / f"{stem}_mask.png", folder / f"{stem}.png"):
        if file.is_file():
            return (file,)
    return tuple(sorted((folder / stem).glob("*.png")))


def _existing(folder: str | Path) -> Path:
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Give the folder that holds the pictures (or train/good and test).")
    return root

"""Labelled data sets on disk, found by looking at the folder.

Layouts: MVTec AD, MVTec LOCO (a folder of masks for each picture), VisA (its `split_csv`), Magnetic Tile as its authors
publish it, and any folder with `good` and other folders in it. How each folder was understood is said by `notes_on`.
"""

import codecs
import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from admodels.errors import DataError
from admodels.evaluation.masks import MaskFolder, mask_stem, read_mask
from admodels.pictures.picture_files import is_litter, list_images, listing

__all__ = [
    "Dataset",
    "TestImage",
    "find_datasets",
    "folders_of",
    "labelled_images",
    "left_out",
    "load_dataset",
    "normal_images",
    "notes_on",
    "pair_masks",
    "passed_over",
    "read_mask",
]

TEST_NORMALS_RATIO = 1 / 4  # of the good pictures, where a folder does not say which ones are for testing
GOOD = "good"
# What folders of good pictures, and of masks, are called; compared without regard to case.
GOOD_NAMES = frozenset({"good", "ok", "normal", "normals", "nominal", "pass"})
MASK_NAMES = ("ground_truth", "groundtruth", "gt", "masks", "mask")
N_NAMED = 5


@dataclass(frozen=True)
class TestImage:
    """One labelled picture.

    Attributes:
        kind: "good", whatever the folder of good pictures is called, or the kind of defect.
        masks: its pixel masks, read as their union; none where there are none.
    """

    path: Path
    kind: str
    masks: tuple[Path, ...] = ()

    @property
    def is_defective(self) -> bool:
        """Everything that is not of the kind "good"."""
        return self.kind != GOOD


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
    if found := [path for good in _good_folders(_child(root, "train")) for path in list_images(good)]:
        return found
    good_inside = [path for good in _good_folders(root) for path in list_images(good)]
    # A stray picture beside `good` does not take its place.
    if not good_inside and (found := list_images(root)):
        return found
    try:
        return load_dataset(root).train
    except DataError as error:
        if good_inside:  # and nothing to test on
            return good_inside
        inside = [path.name for path in _folders(root)]
        more = (
            f" Subfolders are not searched ({', '.join(inside[:N_NAMED])}): give one of them, or move the pictures up."
            if inside
            else ""
        )
        raise DataError(f"{root} holds no pictures and is not a data set.{more} {error}") from error


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
    inside = sorted(p for p in root.iterdir() if not is_litter(p.name))
    test = _child(root, "test")
    if len(inside) == 1 and inside[0].is_dir() and test is None and not list_images(inside[0]):
        return labelled_images(inside[0])
    found = _by_kind(test or root, _mask_folder(root), without=() if test else ("train",))
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
    stems = [Path(path).stem.casefold() for path in defective]
    by_stem: dict[str, list[Path]] = {}
    for mask in map(Path, masks):
        stem = mask.stem.casefold()
        if stem not in stems:
            stem = mask_stem(mask).casefold()
        if stems.count(stem) != 1:
            example = Path(defective[0]).stem if defective else "036"
            raise DataError(
                f"the mask {mask.name} belongs to {stems.count(stem) or 'no'} defective pictures. Name it like its "
                f"picture: {example}_mask.png for {example}.png."
            )
        by_stem.setdefault(stem, []).append(mask)
    found = [TestImage(Path(path), GOOD) for path in good]
    return found + [
        TestImage(Path(path), "defective", tuple(by_stem.get(stem, ())))
        for path, stem in zip(defective, stems, strict=True)
    ]


def notes_on(test: Sequence[TestImage], train: Sequence[Path] = ()) -> list[str]:
    """How labelled pictures were understood, and what was left out: a line for each thing worth knowing.

    Names of folders, with what their pictures were taken for; pictures without a mask where others have one; what was
    passed over in their folders.
    """
    return folders_of(test, train) + left_out(test, train)


def folders_of(test: Sequence[TestImage], train: Sequence[Path] = ()) -> list[str]:
    """Of `notes_on`, what the pictures of each folder were taken for."""
    roles = Counter((path.parent, "good, to learn from") for path in train)
    roles.update((item.path.parent, "good" if not item.is_defective else f"defective ({item.kind})") for item in test)
    return [f"{_short(folder)}: {n} pictures, {role}." for (folder, role), n in roles.items()]


def left_out(test: Sequence[TestImage], train: Sequence[Path] = ()) -> list[str]:
    """Of `notes_on`, what is missing or passed over."""
    lines = []
    bare = [item.path.name for item in test if item.is_defective and not item.masks]
    if bare and any(item.masks for item in test):
        named = ", ".join(bare[:N_NAMED]) + (", …" if len(bare) > N_NAMED else "")
        lines.append(f"{len(bare)} defective pictures have no mask and are left out of the pixel measures: {named}.")
    for folder in dict.fromkeys([path.parent for path in train] + [item.path.parent for item in test]):
        if folder.is_dir() and (statement := listing(folder).statement):
            lines.append(f"{_short(folder)}: {statement}")
    return lines


def passed_over(folder: str | Path, found: Mapping[str, Dataset]) -> list[str]:
    """Folders in `folder` that are none of the categories that `find_datasets` found there."""
    root = Path(folder)
    if any(data.root == root for data in found.values()):  # it is one itself
        return []
    table = VISA_CSV.parts[0]
    return [path.name for path in _folders(root) if path.name not in found and path.name != table]


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
    for child in _folders(root):
        try:
            found[child.name] = load_dataset(child)
        except DataError as error:
            failed.append(str(error))
    if not found:
        why = f" The first one: {failed[0]}" if failed else ""
        raise DataError(f"{root} holds no categories; {len(failed)} folders were checked.{why}")
    return found


# --- layouts: each gives the pictures, or a sentence about what is missing --------------------

Found = tuple[list[Path], list[TestImage]] | str


def _mvtec(root: Path) -> Found:
    """MVTec AD and LOCO differ in the masks only: a file for each picture, or a folder of files."""
    wanted = "train/good/*.png, test/good/*.png, test/<kind>/*.png, ground_truth/<kind>/<name>_mask.png or <name>/*.png"
    good, tests = _good_folders(_child(root, "train")), _child(root, "test")
    if not good or tests is None:
        return f"{'test' if good else 'train/good'} is missing; expected {wanted}"
    train = [path for folder in good for path in list_images(folder)]
    test = _by_kind(tests, _mask_folder(root))
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
    folders = _good_folders(root)
    if not folders:
        return "good is missing; expected good/* and a folder for each kind of defect, masks in ground_truth/<kind>"
    good = [path for folder in folders for path in list_images(folder)]
    step = round(1 / TEST_NORMALS_RATIO)
    test = [TestImage(path, GOOD) for path in good[::step]]
    test += _by_kind(root, _mask_folder(root), without=GOOD_NAMES)
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
    """Rows of the table as published, or as a spreadsheet saves it: other separators, encodings, empty lines."""
    file = root / VISA_CSV
    try:
        text = _decoded(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({error}). Save it as CSV in UTF-8.") from error
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator))
    missing = {"object", "split", "label", "image", "mask"} - set(rows[0] if rows else ())
    if missing:
        raise DataError(f"{file} lacks the columns {', '.join(sorted(missing))}; its first line is {first[:80]!r}.")
    cleaned = [{key: (row[key] or "").strip() for key in ("object", "split", "label", "image", "mask")} for row in rows]
    return [row for row in cleaned if any(row.values())]


def _decoded(content: bytes) -> str:
    """Text in UTF-8 or UTF-16, with or without a byte-order mark."""
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if utf_16 else "utf-8-sig")


def _visa(root: Path, name: str, rows: list[dict[str, str]]) -> Dataset:
    train, test = [], []
    for row in rows:
        if row["object"] != name:
            continue
        path = _named_in_table(root, row["image"])
        split = row["split"].casefold()
        if split not in ("train", "test"):
            raise DataError(
                f"{root / VISA_CSV}: the split of {row['image']} is {row['split']!r}; expected train or test."
            )
        is_good = row["label"].casefold() in GOOD_NAMES
        if split == "train":
            if not is_good:
                raise DataError(
                    f"{root / VISA_CSV}: {row['image']} is to be learned from and labelled {row['label']!r}."
                )
            train.append(path)
        else:
            masks = (_named_in_table(root, row["mask"]),) if row["mask"] else ()
            test.append(TestImage(path, GOOD if is_good else "anomaly", masks))
    return Dataset(root / name, train, test, "VisA")


def _named_in_table(root: Path, name: str) -> Path:
    plain = name.replace("\\", "/")
    # Where the locale is not UTF-8, names on disk often are all the same.
    for path in (root / plain, root / os.fsdecode(plain.encode())):
        if path.is_file():
            return path
    raise DataError(f"{root / VISA_CSV} names {name!r}, which is not there.")


def _by_kind(folder: Path, masks: Path | None, without: Iterable[str] = ()) -> list[TestImage]:
    """The pictures of every sub-folder, which is named after their kind, with their masks."""
    found = []
    for inside in _folders(folder):
        if inside.name.casefold() in without or inside.name.casefold() in MASK_NAMES:
            continue
        kind = GOOD if inside.name.casefold() in GOOD_NAMES else inside.name
        of_kind = MaskFolder(_child(masks, inside.name))
        found += [TestImage(path, kind, of_kind.of(path)) for path in list_images(inside)]
    return found


def _folders(folder: Path) -> list[Path]:
    """The folders inside that somebody made on purpose, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_litter(path.name))


def _good_folders(folder: Path | None) -> list[Path]:
    return [path for path in _folders(folder) if path.name.casefold() in GOOD_NAMES] if folder is not None else []


def _mask_folder(root: Path) -> Path | None:
    return next((found for name in MASK_NAMES if (found := _child(root, name)) is not None), None)


def _child(folder: Path | None, name: str) -> Path | None:
    """The folder of this name inside, whatever the case of its letters; the exact one first."""
    if folder is None:
        return None
    found = [path for path in _folders(folder) if path.name.casefold() == name.casefold()]
    return next((path for path in found if path.name == name), found[0] if found else None)


def _short(folder: Path) -> str:
    """The last two parts of a path, as people speak of it."""
    return "/".join(folder.parts[-2:])


def _existing(folder: str | Path) -> Path:
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Give the folder that holds the pictures (or train/good and test).")
    return root

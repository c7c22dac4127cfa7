"""Every category of a folder that a model can be learned for, whether or not there are pictures to test it on."""

from collections.abc import Iterable
from pathlib import Path

from admodels.errors import DataError
from admodels.evaluation.datasets import Dataset, find_datasets, normal_images, passed_over
from admodels.pictures.picture_files import is_litter

LAYOUT = "good only"


def find_categories(folder: str | Path) -> dict[str, Dataset]:
    """The categories of `find_datasets`, and those with good pictures only, which have no test pictures; by name.

    Of the latter, pictures count that lie in `train/good` or `good`, whatever that is called: a folder with pictures
    directly in it may be anything.

    Raises:
        DataError: there is none.
    """
    root = Path(folder)
    try:
        found = find_datasets(root)
    except DataError:
        if not root.is_dir():
            raise
        inside = (path for path in root.iterdir() if path.is_dir() and not is_litter(path.name))
        found = _good_only([root]) or _good_only(inside)
        if not found:
            raise
        return found
    found |= _good_only(root / name for name in passed_over(root, found))
    return {name: found[name] for name in sorted(found)}


def _good_only(folders: Iterable[Path]) -> dict[str, Dataset]:
    found = {}
    for folder in sorted(folders):
        try:
            good = normal_images(folder)
        except DataError:
            continue
        if all(path.parent != folder for path in good):
            found[folder.resolve().name] = Dataset(folder, good, [], LAYOUT)
    return found

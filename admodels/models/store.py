"""The models of this machine: folders under one root, addressed as `local:name`."""

import hashlib
import lzma
import os
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from admodels.core.detector import Detector
from admodels.core.method import Method
from admodels.core.product import Product
from admodels.errors import AdmodelsError, ModelNotFoundError, StoreError
from admodels.files import RESERVED_NAMES, home_folder
from admodels.models import known_defects, replacing
from admodels.models.format import (
    CONFIG_FILE,
    MAX_CONFIG_BYTES,
    MAX_TENSOR_BYTES,
    TENSOR_FILE,
    config_bytes,
    read_config,
    read_folder,
    read_product,
    write_folder,
)
from admodels.models.known_defects import KnownDefect
from admodels.pictures.picture_files import is_litter
from admodels.pictures.value_range import ValueRange

LOCAL_PREFIX = "local:"

# Letters, digits, dash, underscore and inner dots; nothing that a path could be built from on any system.
NAME_PATTERN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])?")

# What the standard library raises for damaged archives.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,  # encrypted, or a method that is not known (NotImplementedError)
    ValueError,  # UnicodeDecodeError among them
    OverflowError,
    KeyError,
    IndexError,
)

T = TypeVar("T")


@dataclass(frozen=True)
class ModelInfo:
    """What a list of models shows, read from `config.json` alone."""

    name: str
    method: str
    title: str
    n_learned: int
    n_held_out: int
    threshold: float
    size_mib: float
    saved_at: str

    @property
    def reference(self) -> str:
        """The reference that `load` takes."""
        return LOCAL_PREFIX + self.name


@dataclass(frozen=True)
class Unreadable:
    """A folder among the models that cannot be read as one, and why."""

    name: str
    reason: str


def models_folder() -> Path:
    """Where local models live: `$ADMODELS_MODELS`, by default in the user's folder."""
    given = os.environ.get("ADMODELS_MODELS")
    return Path(given).expanduser() if given else home_folder() / "models"


class Store:
    """Models under names, a folder each.

    Args:
        methods: those that a model may be of, by name.
        root: where; by default `models_folder()`, looked up anew each time.
    """

    def __init__(self, methods: Mapping[str, type[Method]], root: Path | None = None) -> None:
        self.methods, self._root = methods, root

    @property
    def root(self) -> Path:
        """The folder that holds the models' folders."""
        return self._root or models_folder()

    def save(
        self, detector: Detector, reference: str, *, overwrite: bool = False, defects: Sequence[KnownDefect] = ()
    ) -> Path:
        """Save a fitted detector under a local name, in one step: a reader sees the old model or the new one.

        Args:
            reference: `name` or `local:name`; letters, digits, dash, underscore and inner dots, at most 64 characters.
            overwrite: replace a model of that name, and the known defects that were kept with it.
            defects: pictures known to be defective, to be kept with it; a zip takes their digests and scores only.

        Raises:
            NotFittedError: there is nothing to save.
            StoreError: the name is not allowed or taken, or the disk refuses.
        """
        target = self._free(reference, overwrite)
        with replacing.staging(target.parent) as staged:
            write_folder(detector, Path(staged), known_defects.stated(defects))
            try:
                known_defects.write_pictures(defects, Path(staged))
            except OSError as error:
                raise StoreError(f"the pictures marked as defects could not be kept ({error}). Free space.") from error
            self._put(Path(staged), reference, overwrite)
        return target

    def check_folder(self) -> None:
        """See that the models' folder can be read, or is still to be made.

        Raises:
            StoreError: it cannot.
        """
        self._folders()

    def check_name(self, reference: str, *, overwrite: bool = False) -> str:
        """See that a model can be saved under this name, before the work whose result it is to be; the plain name.

        Raises:
            StoreError: the name is not allowed or taken, or the models' folder cannot be written.
        """
        target = self._free(reference, overwrite)
        with replacing.staging(target.parent):
            return target.name

    def load(self, reference: str, *, device: str = "auto") -> Detector:
        """Load a local model; its scores are those it had when saved, bit for bit on the same CPU.

        Raises:
            StoreError: no such model, or a file that is not as it should be; the message names what is wrong.
            OptionError: the device is not here.
        """
        return self._read(reference, lambda folder: read_folder(folder, self.methods, device=device))

    def list_models(self) -> list[ModelInfo]:
        """All local models by name; `list_unreadable` gives the others."""
        return self.look()[0]

    def list_unreadable(self) -> list[Unreadable]:
        """The folders among the models that cannot be read, by name, each with the reason."""
        return self.look()[1]

    def look(self) -> tuple[list[ModelInfo], list[Unreadable]]:
        """What `list_models` and `list_unreadable` give.

        Raises:
            StoreError: the models' folder itself cannot be read.
        """
        found, unreadable = [], []
        for folder in self._folders():
            try:
                found.append(replacing.steadily(folder, lambda folder=folder: self._info(folder)))
            except AdmodelsError as error:
                if folder.exists():  # else somebody deleted it meanwhile
                    unreadable.append(Unreadable(folder.name, str(error)))
        return found, unreadable

    def show(self, reference: str) -> dict[str, Any]:
        """The validated contents of a model's `config.json`."""
        return self._read(reference, lambda folder: read_config(folder, self.methods))

    def known_defects(self, reference: str) -> tuple[KnownDefect, ...]:
        """The pictures known to be defective that are kept with a model.

        Raises:
            StoreError: no such model.
        """
        return self._read(reference, lambda folder: known_defects.read(read_config(folder, self.methods), folder))

    def product(self, reference: str) -> tuple[Product | None, ValueRange | None]:
        """What tells whether a picture is for this model, and the scale of its values; None for models without it.

        Raises:
            StoreError: no such model.
        """
        return self._read(reference, lambda folder: read_product(folder, self.methods))

    def identity(self, reference: str) -> str:
        """What tells a saved model from every other that has its name, before and after; costs a small file's reading.

        Raises:
            StoreError: no such model.
        """
        return self._read(reference, lambda folder: hashlib.sha256(config_bytes(folder)).hexdigest())

    def delete(self, reference: str) -> None:
        """Delete a local model.

        Raises:
            StoreError: no such model, or the disk refuses.
        """
        folder = self._existing(reference)
        with replacing.staging(folder.parent) as staged, replacing.writing(folder.parent):
            # Gone in one step, whatever happens while its files are removed.
            replacing.move(self._existing(reference), Path(staged) / folder.name)

    def rename(self, reference: str, new_reference: str) -> None:
        """Give a local model another name.

        Raises:
            StoreError: no such model, the new name is not allowed or taken, or the disk refuses.
        """
        self._existing(reference)
        self._free(new_reference, False)
        with replacing.writing(self.root):
            replacing.move(self._existing(reference), self._free(new_reference, False))

    def export_zip(self, reference: str, folder: str | Path) -> Path:
        """Write `<name>.zip` with the model's two files into `folder`.

        Raises:
            StoreError: no such model, or the disk refuses.
        """

        def pack(source: Path) -> Path:
            archive = Path(folder) / f"{source.name}.zip"
            try:
                with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as opened:  # floats hardly compress
                    for name in (CONFIG_FILE, TENSOR_FILE):
                        opened.write(source / name, name)
            except OSError as error:
                raise StoreError(f"{archive.name} could not be made ({error}). Free space, or try again.") from error
            return archive

        return self._read(reference, pack)

    def import_zip(self, archive: str | Path, reference: str) -> Path:
        """Take in the zip of a model under a local name, after checking everything in it.

        It may have been unpacked and made again: compressed, with a folder around the two files, or with what systems
        leave in folders.

        Raises:
            StoreError: not such an archive, too large, not valid, or the name is not allowed or taken.
        """
        target = self._free(reference, False)
        with replacing.staging(target.parent) as folder:
            staged = Path(folder)
            try:
                _unpack(archive, staged)
            except ZIP_ERRORS as error:
                raise StoreError(f"the archive cannot be read ({error}). Upload a zip downloaded from here.") from error
            read_folder(staged, self.methods, device="cpu")
            self._put(staged, reference, False)
        return target

    def _folders(self) -> list[Path]:
        try:
            return sorted(p for p in self.root.iterdir() if NAME_PATTERN.fullmatch(p.name) and p.is_dir())
        except FileNotFoundError:
            return []  # nothing was saved yet
        except OSError as error:
            raise StoreError(
                f"the models' folder {self.root} cannot be read ({error}). Set ADMODELS_HOME to another folder."
            ) from error

    def _folder(self, reference: str) -> Path:
        name = reference.removeprefix(LOCAL_PREFIX).strip() if isinstance(reference, str) else reference
        if (
            not isinstance(name, str)
            or not NAME_PATTERN.fullmatch(name)
            or name.split(".")[0].lower() in RESERVED_NAMES
        ):
            raise StoreError(
                f"{name!r} is not a name for a model. Use 1 to 64 letters, digits, dashes, underscores and inner dots, "
                "starting with a letter or digit."
            )
        return self.root / name

    def _free(self, reference: str, overwrite: bool) -> Path:
        """The folder for a new model."""
        target = self._folder(reference)
        if os.path.lexists(target) and not (overwrite and target.is_dir()):
            raise StoreError(f"a model named {target.name!r} exists already. Choose another name, or delete it first.")
        return target

    def _existing(self, reference: str) -> Path:
        folder = self._folder(reference)
        if not (folder / CONFIG_FILE).is_file():
            names = ", ".join(info.name for info in self.list_models()[:10]) or "none yet"
            raise ModelNotFoundError(f"there is no model named {folder.name!r}. Saved models: {names}.")
        return folder

    def _read(self, reference: str, read: Callable[[Path], T]) -> T:
        folder = self._existing(reference)
        try:
            return replacing.steadily(folder, lambda: read(folder))
        except StoreError:
            self._existing(reference)  # where it was deleted meanwhile, that is what is wrong
            raise

    def _info(self, folder: Path) -> ModelInfo:
        config = read_config(folder, self.methods)
        try:
            n_bytes = sum((folder / name).stat().st_size for name in (CONFIG_FILE, TENSOR_FILE))
        except OSError as error:
            raise StoreError(f"{folder.name}/{TENSOR_FILE} cannot be read ({error.strerror}).") from error
        return ModelInfo(
            name=folder.name,
            method=config["method"],
            title=self.methods[config["method"]].titled(config["options"]),
            n_learned=config["fit"].n_learned,
            n_held_out=config["fit"].n_held_out,
            threshold=config["calibration"].threshold,
            size_mib=n_bytes / 2**20,
            saved_at=str(config.get("saved_at", "")),
        )

    def _put(self, staged: Path, reference: str, overwrite: bool) -> None:
        """Put the staged files under a name."""
        with replacing.writing(self.root):
            replacing.put(staged, self._free(reference, overwrite))  # somebody may have been quicker


def _unpack(archive: str | Path, folder: Path) -> None:
    """The two files of a model's archive, whichever folder of it they are in.

    Raises:
        StoreError: it holds something else.
        ZIP_ERRORS: it is damaged.
    """
    limits = {CONFIG_FILE: MAX_CONFIG_BYTES, TENSOR_FILE: MAX_TENSOR_BYTES}
    with zipfile.ZipFile(archive) as opened:
        members = {}
        for member in opened.infolist():
            path = PurePosixPath(member.filename.replace("\\", "/"))
            if not member.is_dir() and not is_litter(*path.parts):
                members[path] = member
        if len({path.parent for path in members}) != 1 or {path.name for path in members} != set(limits):
            names = ", ".join(sorted(map(str, members))[:6]) or "nothing"
            raise StoreError(f"the archive holds {names}; a model has exactly {CONFIG_FILE} and {TENSOR_FILE}.")
        for path, member in members.items():
            size, packed = member.file_size, member.compress_size
            if size > limits[path.name] or size > 1000 * max(packed, 1):
                raise StoreError(f"{path.name} is {size} bytes unpacked ({packed} packed): not a plausible model file.")
            with opened.open(member) as source, open(folder / path.name, "wb") as sink:
                shutil.copyfileobj(source, sink, 2**20)

"""Models on disk: a folder with `config.json` and `model.safetensors`. Never pickle.

Local models live under one folder and are addressed as `local:name`. Everything read is checked before it is used:
fields, shapes and dtypes first, from the header alone, so that a wrong file cannot make us allocate memory.

`digests` in the configuration tell a model that was changed after it was saved: SHA-256 of the tensors, and of all
fields that are not `FOR_PEOPLE`. Those may be edited; they change no score and no verdict. Models saved before there
were digests have none, and are read without.

A model is replaced in two steps, tensors and configuration, and readers need no lock: they look at what lies in the
folder before and after, and read again where it changed. Writers take turns, by a lock on the models' folder. The new
configuration waits beside the old one as `NEXT_FILE` while the tensors are exchanged, so that a program that dies there
leaves all that the next one needs to finish its work.
"""

import hashlib
import json
import lzma
import os
import re
import shutil
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from admodels.core.calibration import TAIL_RATIOS, Calibration
from admodels.core.detector import Detector, Layout
from admodels.core.results import FitReport, Origin
from admodels.errors import AdmodelsError, StoreError
from admodels.files import RESERVED_NAMES
from admodels.options import make_options
from admodels.pictures.picture_files import is_litter
from admodels.pictures.value_range import ValueRange
from admodels.pictures.working_shape import WorkingShape, shape_fault

FORMAT_VERSION = 1
CONFIG_FILE, TENSOR_FILE = "config.json", "model.safetensors"
NEXT_FILE, LOCK_FILE = "config.json.next", ".lock"
# Fields that no score, threshold or verdict depends on.
FOR_PEOPLE = frozenset({"digests", "fitted_on", "saved_at", "versions", "probe", "published"})
MAX_CONFIG_BYTES = 4 * 2**20
MAX_TENSOR_BYTES = 16 * 2**30
LOCAL_PREFIX = "local:"

# Letters, digits, dash, underscore and inner dots; nothing that a path could be built from on any system.
NAME_PATTERN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])?")
MAX_SAID = 200  # characters of a field that is only shown

N_READS = 20  # of a model that is being replaced, before a reader waits for its turn among the writers
WAIT_SECONDS = 60.0  # for another writer; each needs moments

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

SAFE_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.float16: "F16"}


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
    """Where local models live: `$ADMODELS_HOME/models`, by default under the user's cache folder."""
    home = os.environ.get("ADMODELS_HOME")
    if home:
        return Path(home).expanduser() / "models"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "admodels" / "models"


class Store:
    """Models under names, a folder each.

    Args:
        root: where; by default `models_folder()`, looked up anew each time.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        """The folder that holds the models' folders."""
        return self._root or models_folder()

    def save(self, detector: Detector, reference: str, *, overwrite: bool = False) -> Path:
        """Save a fitted detector under a local name, in one step: a reader sees the old model or the new one.

        Args:
            reference: `name` or `local:name`; letters, digits, dash, underscore and inner dots, at most 64 characters.
            overwrite: replace a model of that name.

        Raises:
            NotFittedError: there is nothing to save.
            StoreError: the name is not allowed or taken, or the disk refuses.
        """
        target = self._free(reference, overwrite)
        with _staging(target.parent) as staged:
            write_folder(detector, Path(staged))
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
        with _staging(target.parent):
            return target.name

    def load(self, reference: str, *, device: str = "auto") -> Detector:
        """Load a local model; its scores are those it had when saved, bit for bit on the same device.

        Raises:
            StoreError: no such model, or a file that is not as it should be; the message names what is wrong.
            OptionError: the device is not here.
        """
        return self._read(reference, lambda folder: read_folder(folder, device=device))

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
                found.append(_steadily(folder, lambda folder=folder: _info(folder)))
            except AdmodelsError as error:
                if folder.exists():  # else somebody deleted it meanwhile
                    unreadable.append(Unreadable(folder.name, str(error)))
        return found, unreadable

    def show(self, reference: str) -> dict[str, Any]:
        """The validated contents of a model's `config.json`."""
        return self._read(reference, _read_config)

    def identity(self, reference: str) -> str:
        """What tells a saved model from every other that has its name, before and after; costs a small file's reading.

        Raises:
            StoreError: no such model.
        """
        return self._read(reference, lambda folder: hashlib.sha256(_config_bytes(folder)).hexdigest())

    def delete(self, reference: str) -> None:
        """Delete a local model.

        Raises:
            StoreError: no such model, or the disk refuses.
        """
        folder = self._existing(reference)
        with _staging(folder.parent) as staged, _writing(folder.parent):
            # Gone in one step, whatever happens while its files are removed.
            _move(self._existing(reference), Path(staged) / folder.name)

    def rename(self, reference: str, new_reference: str) -> None:
        """Give a local model another name.

        Raises:
            StoreError: no such model, the new name is not allowed or taken, or the disk refuses.
        """
        self._existing(reference)
        self._free(new_reference, False)
        with _writing(self.root):
            _move(self._existing(reference), self._free(new_reference, False))

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
        with _staging(target.parent) as folder:
            staged = Path(folder)
            try:
                _unpack(archive, staged)
            except ZIP_ERRORS as error:
                raise StoreError(f"the archive cannot be read ({error}). Upload a zip downloaded from here.") from error
            read_folder(staged, device="cpu")
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
            raise StoreError(f"there is no model named {folder.name!r}. Saved models: {names}.")
        return folder

    def _read(self, reference: str, read: Callable[[Path], T]) -> T:
        folder = self._existing(reference)
        try:
            return _steadily(folder, lambda: read(folder))
        except StoreError:
            self._existing(reference)  # where it was deleted meanwhile, that is what is wrong
            raise

    def _put(self, staged: Path, reference: str, overwrite: bool) -> None:
        """Put the staged files under a name."""
        with _writing(self.root):
            target = self._free(reference, overwrite)  # somebody may have been quicker
            if not target.exists():
                new = staged / "new"
                new.mkdir()
                for name in (TENSOR_FILE, CONFIG_FILE):
                    _move(staged / name, new / name)
                _move(new, target)
                return
            _finish(target)
            _move(staged / CONFIG_FILE, target / NEXT_FILE)
            _move(staged / TENSOR_FILE, target / TENSOR_FILE)
            _move(target / NEXT_FILE, target / CONFIG_FILE)


LOCAL = Store()
save, load, list_models, show = LOCAL.save, LOCAL.load, LOCAL.list_models, LOCAL.show
delete, rename, export_zip, import_zip = LOCAL.delete, LOCAL.rename, LOCAL.export_zip, LOCAL.import_zip
check_name, identity, list_unreadable = LOCAL.check_name, LOCAL.identity, LOCAL.list_unreadable


def write_folder(detector: Detector, folder: Path, more: Mapping[str, Any] | None = None) -> None:
    """Write a fitted detector's two files into an existing folder; `more` are further fields of its configuration."""
    state = {name: tensor.cpu().contiguous() for name, tensor in detector._fitted_state().items()}
    calibration = asdict(detector.calibration_)
    origin = detector.origin_ or _origin_here(detector)
    config = {
        "format_version": FORMAT_VERSION,
        "method": detector.key,
        "options": asdict(detector.config),
        "working_shape": {name: value for name, value in asdict(detector.working_shape_).items() if value is not None},
        "calibration": calibration | {"threshold": detector.calibration_.threshold},
        "fit": asdict(detector.fit_report_),
        "fitted_on": dict(origin.fitted_on),
        "saved_at": origin.saved_at,
        "versions": dict(origin.versions),
        **(more or {}),
    }
    config = json.loads(json.dumps(config))  # as it will be read: tuples are lists then
    of_tensors = tensor_digest(state)
    config["digests"] = {"tensors": of_tensors, "config": config_digest(config, of_tensors)}
    try:
        save_file(state, folder / TENSOR_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise StoreError(f"the model could not be written to {folder.parent} ({error}). Free space there.") from error


def read_folder(folder: Path, *, device: str = "auto") -> Detector:
    """Build a fitted detector from a model folder, checking every field, shape, dtype and digest."""
    from admodels import DETECTORS  # the registry imports every method; at the top this would be a circle

    config = _read_config(folder)
    detector = DETECTORS[config["method"]](config["options"], device=device)
    shape, report = config["working_shape"], config["fit"]
    state = _read_tensors(folder / TENSOR_FILE, detector.state_layout(shape, report.n_learned), config.get("digests"))
    try:
        detector.restore(state, shape, config["calibration"], report)
    except ValueError as error:
        where = f"{folder.name}/{TENSOR_FILE}"
        raise StoreError(f"{where} contradicts itself: {error}. Fit and save the model again.") from error
    detector.origin_ = _origin(config)
    return detector


def tensor_digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and values, in the order of the names; hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].cpu().contiguous()
        digest.update(f"{name}\0{SAFE_DTYPES[tensor.dtype]}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).numpy())
    return digest.hexdigest()


def config_digest(config: Mapping[str, Any], of_tensors: str) -> str:
    """SHA-256 of a configuration as it is read from JSON, without what is `FOR_PEOPLE`, and of its tensors' digest."""
    counted = {key: value for key, value in config.items() if key not in FOR_PEOPLE} | {"tensors": of_tensors}
    return hashlib.sha256(json.dumps(counted, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _config_bytes(folder: Path) -> bytes:
    path = folder / CONFIG_FILE
    where = f"{folder.name}/{CONFIG_FILE}"
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise StoreError(f"{where} is larger than {MAX_CONFIG_BYTES} bytes: not a configuration of ours.")
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{where} cannot be read ({error.strerror}).") from error


def _read_config(folder: Path) -> dict[str, Any]:
    """`config.json` with its parts turned into the library's own types; each part is checked."""
    from admodels import DETECTORS

    where = f"{folder.name}/{CONFIG_FILE}"
    try:
        raw = json.loads(_config_bytes(folder))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where} is not valid JSON ({error}).") from error
    if not isinstance(raw, dict) or raw.get("format_version") != FORMAT_VERSION:
        found = raw.get("format_version") if isinstance(raw, dict) else type(raw).__name__
        raise StoreError(
            f"{where} has format version {found!r}; this program reads version {FORMAT_VERSION}. "
            "Update the program, or fit and save the model again."
        )
    method = raw.get("method")
    if not isinstance(method, str) or method not in DETECTORS:
        raise StoreError(f"{where} names the method {method!r}; known are {', '.join(DETECTORS)}. Update the program.")
    config = dict(raw)
    try:
        config["options"] = options = make_options(DETECTORS[method].Config, _mapping(raw, "options"))
        shape = _mapping(raw, "working_shape")
        config["working_shape"] = WorkingShape(
            _size(shape, "resized"), _size(shape, "cropped"), _value_range(shape.get("value_range"))
        )
        fault = shape_fault(config["working_shape"], options.image_size, options.crop, options.keep_aspect)
        if fault:
            raise ValueError(f"working_shape contradicts the options: {fault}")
        config["calibration"] = _calibration(_mapping(raw, "calibration"))
        config["fit"] = _fit_report(_mapping(raw, "fit"))
        digests = config["digests"] = _digests(raw)
    except (AdmodelsError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise StoreError(f"{where} is damaged: {error}. Fit and save the model again.") from error
    if digests and config_digest(raw, digests["tensors"]) != digests["config"]:
        raise _changed(where)
    return config


def _changed(where: str) -> StoreError:
    return StoreError(
        f"{where} was changed after it was saved: its digest is another one. Put the original file back, or fit and "
        "save the model again."
    )


def _digests(raw: dict) -> dict[str, str] | None:
    """None in models saved before there were any."""
    if "digests" not in raw:
        return None
    digests = _mapping(raw, "digests")
    if set(digests) != {"tensors", "config"} or not all(isinstance(value, str) for value in digests.values()):
        raise ValueError("digests are not those of tensors and config")
    return digests


def _fit_report(raw: dict) -> FitReport:
    raw = {"n_folds": 0, "notices": []} | raw  # models saved before there were folds and notices have none
    found: dict[str, Any] = {"notices": _sentences(raw["notices"])}
    for field in fields(FitReport):
        if field.type is int:
            found[field.name] = _count(raw, field.name)
        elif field.type is float:
            found[field.name] = float(_number(raw, field.name))
    return FitReport(**found)


def _origin_here(detector: Detector) -> Origin:
    return Origin(
        fitted_on={"device": detector.device.type, "precision": str(detector.dtype).split(".")[1]},
        saved_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={name: _version(name) for name in ("torch", "torchvision", "numpy", "pillow", "safetensors")},
    )


def _origin(config: Mapping[str, Any]) -> Origin:
    """As it is said there; anybody may have written it."""

    def said(value: object) -> dict[str, str]:
        pairs = value.items() if isinstance(value, dict) else ()
        return {key[:MAX_SAID]: text[:MAX_SAID] for key, text in pairs if isinstance(text, str)}

    saved_at = str(config.get("saved_at", ""))[:MAX_SAID]
    return Origin(said(config.get("fitted_on")), saved_at, said(config.get("versions")))


def _mapping(raw: dict, key: str) -> dict:
    if not isinstance(raw.get(key), dict):
        raise ValueError(f"{key} is {type(raw.get(key)).__name__}, expected an object")
    return raw[key]


def _number(raw: dict, key: str) -> int | float:
    value = raw[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise ValueError(f"{key} is {value!r}, expected a finite number")
    return value


def _count(raw: dict, key: str) -> int:
    value = raw[key]
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"{key} is {value!r}, expected a whole number from 0")
    return value


def _size(raw: dict, key: str) -> tuple[int, int]:
    size = raw.get(key)
    if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
        raise ValueError(f"working_shape.{key} is {size!r}, expected two whole numbers above 0")
    return tuple(size)


def _value_range(raw: Any) -> ValueRange | None:
    """Missing in models saved before there was one, and null where no picture of the fit had more than 8 bits."""
    if raw is None:
        return None
    if not isinstance(raw, list) or len(raw) != 2:
        raise ValueError(f"working_shape.value_range is {raw!r}, expected black and white")
    low, high = (float(_number({"value_range": value}, "value_range")) for value in raw)
    if not low < high:
        raise ValueError(f"working_shape.value_range is {raw!r}, expected black below white")
    return low, high


def _sentences(raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, list) or not all(isinstance(line, str) for line in raw):
        raise ValueError("fit.notices is not a list of texts")
    return tuple(raw)


def _calibration(raw: dict) -> Calibration:
    series = {}
    for key in ("scores", "map_maxima"):
        values = raw.get(key)
        if not isinstance(values, list) or not values:
            raise ValueError(f"calibration.{key} is {type(values).__name__}, expected a list of numbers")
        series[key] = tuple(float(_number({key: v}, key)) for v in values)
        if list(series[key]) != sorted(series[key]):
            raise ValueError(f"calibration.{key} is not in ascending order")
    if len(series["scores"]) != len(series["map_maxima"]):
        raise ValueError("calibration.scores and calibration.map_maxima differ in length")
    rate = _number(raw, "false_alarm_rate")
    if not 0 < rate < 1:
        raise ValueError(f"calibration.false_alarm_rate is {rate}, expected a fraction between 0 and 1")
    hand_threshold = raw.get("hand_threshold")  # this and the tail are not in models saved before there were any
    tail = raw.get("pixel_tail", [])
    if not isinstance(tail, list) or len(tail) not in (0, len(TAIL_RATIOS)):
        raise ValueError(f"calibration.pixel_tail is not a list of {len(TAIL_RATIOS)} numbers")
    tail = tuple(float(_number({"pixel_tail": v}, "pixel_tail")) for v in tail)
    n_pixels = int(_number({"n_pixels": 0} | raw, "n_pixels"))
    if list(tail) != sorted(tail) or (tail and n_pixels < 1):
        raise ValueError("calibration.pixel_tail is not in ascending order, or n_pixels is not above 0")
    calibration = Calibration(
        **series,
        pixel_tail=tail,
        n_pixels=n_pixels,
        hand_threshold=None if hand_threshold is None else float(_number(raw, "hand_threshold")),
        map_median=float(_number(raw, "map_median")),
        false_alarm_rate=float(rate),
        n_before_update=int(_number(raw, "n_before_update")),
        n_folds=int(_number({"n_folds": 0} | raw, "n_folds")),
        rounding_ratio=float(_number({"rounding_ratio": 0.0} | raw, "rounding_ratio")),
    )
    if not 0 <= calibration.rounding_ratio < 0.1:
        raise ValueError(f"calibration.rounding_ratio is {calibration.rounding_ratio}, expected a small fraction")
    if calibration.threshold != _number(raw, "threshold"):
        raise ValueError(f"calibration.threshold is {raw['threshold']}, its scores give {calibration.threshold}")
    return calibration


def _read_tensors(path: Path, layout: Layout, digests: dict[str, str] | None) -> dict[str, torch.Tensor]:
    where = f"{path.parent.name}/{path.name}"
    try:
        with safe_open(path, framework="pt") as opened:
            names = set(opened.keys())
            if names != set(layout):
                raise StoreError(f"{where} holds {sorted(names)}; expected {sorted(layout)}. Fit and save it again.")
            for name, (shape, dtype) in layout.items():
                found = opened.get_slice(name)
                if not _fits(found.get_shape(), shape) or found.get_dtype() != SAFE_DTYPES[dtype]:
                    raise StoreError(
                        f"{where}: {name} is {found.get_dtype()} {tuple(found.get_shape())}; its configuration asks "
                        f"for {SAFE_DTYPES[dtype]} {_described(shape)}. Fit and save it again."
                    )
            # A clone, since the file's own alignment lets the products round differently by a last bit.
            state = {name: opened.get_tensor(name).clone() for name in layout}
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{where} cannot be read ({error}). Fit and save the model again.") from error
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise StoreError(f"{where}: {name} holds values that are not finite. Fit and save the model again.")
    if digests and tensor_digest(state) != digests["tensors"]:
        raise _changed(where)
    return state


def _fits(found: list[int], wanted: tuple[int | range, ...]) -> bool:
    return len(found) == len(wanted) and all(
        n in dim if isinstance(dim, range) else n == dim for n, dim in zip(found, wanted, strict=True)
    )


def _described(shape: tuple[int | range, ...]) -> str:
    return f"({', '.join(f'{d[0]} to {d[-1]}' if isinstance(d, range) else str(d) for d in shape)})"


def _info(folder: Path) -> ModelInfo:
    from admodels import DETECTORS

    config = _read_config(folder)
    try:
        n_bytes = sum((folder / name).stat().st_size for name in (CONFIG_FILE, TENSOR_FILE))
    except OSError as error:
        raise StoreError(f"{folder.name}/{TENSOR_FILE} cannot be read ({error.strerror}).") from error
    return ModelInfo(
        name=folder.name,
        method=config["method"],
        title=DETECTORS[config["method"]].titled(config["options"]),
        n_learned=config["fit"].n_learned,
        n_held_out=config["fit"].n_held_out,
        threshold=config["calibration"].threshold,
        size_mib=n_bytes / 2**20,
        saved_at=str(config.get("saved_at", "")),
    )


def _staging(root: Path) -> tempfile.TemporaryDirectory:
    """A folder beside the models that is removed afterwards; a leading dot keeps it out of every listing."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".staging-", dir=root, ignore_cleanup_errors=True)
    except OSError as error:
        raise StoreError(
            f"the models' folder {root} cannot be written ({error}). Set ADMODELS_HOME elsewhere."
        ) from error


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    """One writer at a time in a models' folder, of all threads and programs.

    Raises:
        StoreError: the disk refuses, or another writer does not end.
    """
    try:
        with FileLock(root / LOCK_FILE, mode=0o666).acquire(WAIT_SECONDS, poll_interval=0.005):
            yield
    except Timeout as error:
        raise StoreError(f"another program has been writing to {root} for long. Try again when it is done.") from error
    except OSError as error:
        raise StoreError(f"the models' folder {root} cannot be written ({error}). Free space there.") from error


def _steadily(folder: Path, read: Callable[[], T]) -> T:
    """What `read` gives of a model's folder, all of it from one saved model, whoever replaces that meanwhile."""
    for _ in range(N_READS):
        before = _stamps(folder)
        if before[NEXT_FILE] is not None:
            break  # it is being replaced, or somebody died while replacing it
        try:
            result = read()
        except StoreError:
            if _stamps(folder) == before:
                raise
            continue
        if _stamps(folder) == before:
            return result
    with _writing(folder.parent):
        _finish(folder)
        return read()


def _stamps(folder: Path) -> dict[str, tuple[int, ...] | None]:
    """What changes with every replacement of a file; None where there is none."""
    found: dict[str, tuple[int, ...] | None] = {}
    for name in (CONFIG_FILE, TENSOR_FILE, NEXT_FILE):
        try:
            stat = (folder / name).stat()
            found[name] = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except OSError:
            found[name] = None
    return found


def _finish(folder: Path) -> None:
    """Finish, or take back, a replacement during which its program died; only for who is writing."""
    waiting = folder / NEXT_FILE
    if not waiting.exists():
        return
    try:
        wanted = json.loads(waiting.read_bytes())["digests"]["tensors"]
        with safe_open(folder / TENSOR_FILE, framework="pt") as opened:
            is_there = tensor_digest({name: opened.get_tensor(name) for name in opened.keys()}) == wanted  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        is_there = False
    if is_there:
        _move(waiting, folder / CONFIG_FILE)
    else:
        waiting.unlink()


def _move(source: Path, target: Path) -> None:
    """Move a file, in the place of one that may be there, or a folder.

    Windows refuses while another program has the file open, which no reader does for long.
    """
    until = time.monotonic() + WAIT_SECONDS / 6
    while True:
        try:
            source.replace(target)
            return
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() > until:
                raise
            time.sleep(0.01)


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


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"

"""Models on disk: a folder with `config.json` and `model.safetensors`. Never pickle.

Local models live under one folder and are addressed as `local:name`. Everything read is checked before it is used:
fields, shapes and dtypes first, from the header alone, so that a wrong file cannot make us allocate memory.
"""

import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from admodels.base import Detector, Layout
from admodels.calibration import TAIL_RATIOS, Calibration
from admodels.errors import AdmodelsError, StoreError
from admodels.options import make_options
from admodels.results import FitReport
from admodels.value_range import ValueRange
from admodels.working_shape import WorkingShape

FORMAT_VERSION = 1
CONFIG_FILE, TENSOR_FILE = "config.json", "model.safetensors"
MAX_CONFIG_BYTES = 4 * 2**20
MAX_TENSOR_BYTES = 16 * 2**30
LOCAL_PREFIX = "local:"

# Letters, digits, dash, underscore and inner dots; nothing that a path could be built from on any system.
NAME_PATTERN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])?")
RESERVED_NAMES = {"con", "prn", "aux", "nul", *(f"{p}{i}" for p in ("com", "lpt") for i in range(10))}

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
        target = self._folder(reference)
        if target.exists() and not overwrite:
            raise StoreError(f"a model named {target.name!r} exists already. Choose another name, or delete it first.")
        with _staging(target.parent) as staged:
            write_folder(detector, Path(staged))
            _replace(Path(staged), target)
        return target

    def load(self, reference: str, *, device: str = "auto") -> Detector:
        """Load a local model; its scores are those it had when saved, bit for bit on the same device.

        Raises:
            StoreError: no such model, or a file that is not as it should be; the message names what is wrong.
            OptionError: the device is not here.
        """
        return read_folder(self._existing(reference), device=device)

    def list_models(self) -> list[ModelInfo]:
        """All local models by name; a folder that cannot be read is passed over."""
        root = self.root
        if not root.is_dir():
            return []
        found = []
        for folder in sorted(p for p in root.iterdir() if p.is_dir() and NAME_PATTERN.fullmatch(p.name)):
            try:
                found.append(_info(folder))
            except AdmodelsError:
                continue
        return found

    def show(self, reference: str) -> dict[str, Any]:
        """The validated contents of a model's `config.json`."""
        return _read_config(self._existing(reference))

    def delete(self, reference: str) -> None:
        """Delete a local model.

        Raises:
            StoreError: no such model.
        """
        folder = self._existing(reference)
        with _staging(folder.parent) as staged:
            folder.rename(Path(staged) / folder.name)  # gone in one step, whatever happens while its files are removed

    def rename(self, reference: str, new_reference: str) -> None:
        """Give a local model another name.

        Raises:
            StoreError: no such model, or the new name is not allowed or taken.
        """
        source, target = self._existing(reference), self._folder(new_reference)
        if target.exists():
            raise StoreError(f"a model named {target.name!r} exists already. Choose another name, or delete it first.")
        source.rename(target)

    def export_zip(self, reference: str, folder: str | Path) -> Path:
        """Write `<name>.zip` with the model's two files into `folder`."""
        source = self._existing(reference)
        archive = Path(folder) / f"{source.name}.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as opened:  # floats hardly compress
            for name in (CONFIG_FILE, TENSOR_FILE):
                opened.write(source / name, name)
        return archive

    def import_zip(self, archive: str | Path, reference: str) -> Path:
        """Take a zip made by `export_zip` in under a local name, after checking everything in it.

        Raises:
            StoreError: not such an archive, too large, not valid, or the name is not allowed or taken.
        """
        target = self._folder(reference)
        if target.exists():
            raise StoreError(f"a model named {target.name!r} exists already. Choose another name, or delete it first.")
        limits = {CONFIG_FILE: MAX_CONFIG_BYTES, TENSOR_FILE: MAX_TENSOR_BYTES}
        try:
            with zipfile.ZipFile(archive) as opened, _staging(target.parent) as folder:
                staged = Path(folder)
                members = {m.filename: m for m in opened.infolist()}
                if len(opened.infolist()) != 2 or set(members) != set(limits):
                    names = ", ".join(sorted(members)[:6]) or "nothing"
                    raise StoreError(f"the archive holds {names}; a model has exactly {CONFIG_FILE} and {TENSOR_FILE}.")
                for name, limit in limits.items():
                    size, packed = members[name].file_size, members[name].compress_size
                    if size > limit or size > 1000 * max(packed, 1):
                        raise StoreError(
                            f"{name} is {size} bytes unpacked ({packed} packed): not a plausible model file."
                        )
                    with opened.open(name) as source, open(staged / name, "wb") as sink:
                        shutil.copyfileobj(source, sink, 2**20)
                read_folder(staged, device="cpu")
                _replace(staged, target)
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
            raise StoreError(f"the archive cannot be read ({error}). Upload a zip downloaded from here.") from error
        return target

    def _folder(self, reference: str) -> Path:
        name = reference.removeprefix(LOCAL_PREFIX).strip()
        if not NAME_PATTERN.fullmatch(name) or name.split(".")[0].lower() in RESERVED_NAMES:
            raise StoreError(
                f"{name!r} is not a name for a model. Use 1 to 64 letters, digits, dashes, underscores and inner dots, "
                "starting with a letter or digit."
            )
        return self.root / name

    def _existing(self, reference: str) -> Path:
        folder = self._folder(reference)
        if not (folder / CONFIG_FILE).is_file():
            names = ", ".join(info.name for info in self.list_models()[:10]) or "none yet"
            raise StoreError(f"there is no model named {folder.name!r}. Saved models: {names}.")
        return folder


LOCAL = Store()
save, load, list_models, show = LOCAL.save, LOCAL.load, LOCAL.list_models, LOCAL.show
delete, rename, export_zip, import_zip = LOCAL.delete, LOCAL.rename, LOCAL.export_zip, LOCAL.import_zip


def write_folder(detector: Detector, folder: Path, more: Mapping[str, Any] | None = None) -> None:
    """Write a fitted detector's two files into an existing folder; `more` are further fields of its configuration."""
    state = detector._fitted_state()
    calibration = asdict(detector.calibration_)
    config = {
        "format_version": FORMAT_VERSION,
        "method": detector.key,
        "options": asdict(detector.config),
        "working_shape": asdict(detector.working_shape_),
        "calibration": calibration | {"threshold": detector.calibration_.threshold},
        "fit": asdict(detector.fit_report_),
        "fitted_on": {"device": detector.device.type, "precision": str(detector.dtype).split(".")[1]},
        "saved_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: _version(name) for name in ("torch", "torchvision", "numpy", "pillow", "safetensors")},
    }
    try:
        save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, folder / TENSOR_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(config | dict(more or {}), indent=2))
    except OSError as error:
        raise StoreError(f"the model could not be written to {folder.parent} ({error}). Free space there.") from error


def read_folder(folder: Path, *, device: str = "auto") -> Detector:
    """Build a fitted detector from a model folder, checking every field, shape and dtype."""
    from admodels import DETECTORS  # the registry imports every method; at the top this would be a circle

    config = _read_config(folder)
    detector = DETECTORS[config["method"]](config["options"], device=device)
    shape, report = config["working_shape"], config["fit"]
    state = _read_tensors(folder / TENSOR_FILE, detector.state_layout(shape, report.n_learned))
    try:
        return detector.restore(state, shape, config["calibration"], report)
    except ValueError as error:
        where = f"{folder.name}/{TENSOR_FILE}"
        raise StoreError(f"{where} contradicts itself: {error}. Fit and save the model again.") from error


def _read_config(folder: Path) -> dict[str, Any]:
    """`config.json` with its parts turned into the library's own types; each part is checked."""
    from admodels import DETECTORS

    path = folder / CONFIG_FILE
    where = f"{folder.name}/{CONFIG_FILE}"
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise StoreError(f"{where} is larger than {MAX_CONFIG_BYTES} bytes: not a configuration of ours.")
        raw = json.loads(path.read_text())
    except OSError as error:
        raise StoreError(f"{where} cannot be read ({error.strerror}).") from error
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
        config["options"] = make_options(DETECTORS[method].Config, _mapping(raw, "options"))
        shape = _mapping(raw, "working_shape")
        config["working_shape"] = WorkingShape(
            _size(shape, "resized"), _size(shape, "cropped"), _value_range(shape.get("value_range"))
        )
        config["calibration"] = _calibration(_mapping(raw, "calibration"))
        # Models saved before there were folds and notices have none.
        fit = {"n_folds": 0, "notices": []} | _mapping(raw, "fit")
        numbers = {k: _number(fit, k) for k in FitReport.__dataclass_fields__ if k != "notices"}
        config["fit"] = FitReport(**numbers, notices=_sentences(fit["notices"]))
    except (AdmodelsError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise StoreError(f"{where} is damaged: {error}. Fit and save the model again.") from error
    return config


def _mapping(raw: dict, key: str) -> dict:
    if not isinstance(raw.get(key), dict):
        raise ValueError(f"{key} is {type(raw.get(key)).__name__}, expected an object")
    return raw[key]


def _number(raw: dict, key: str) -> int | float:
    value = raw[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise ValueError(f"{key} is {value!r}, expected a finite number")
    return value


def _size(raw: dict, key: str) -> tuple[int, int]:
    size = raw.get(key)
    if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and 32 <= n <= 8192 for n in size):
        raise ValueError(f"working_shape.{key} is {size!r}, expected two sides from 32 to 8192")
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


def _read_tensors(path: Path, layout: Layout) -> dict[str, torch.Tensor]:
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
    return ModelInfo(
        name=folder.name,
        method=config["method"],
        title=DETECTORS[config["method"]].titled(config["options"]),
        n_learned=config["fit"].n_learned,
        n_held_out=config["fit"].n_held_out,
        threshold=config["calibration"].threshold,
        size_mib=sum((folder / name).stat().st_size for name in (CONFIG_FILE, TENSOR_FILE)) / 2**20,
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


def _replace(staged: Path, target: Path) -> None:
    """Put the staged files in the target's place; what stood there is kept until the new folder is there."""
    new = staged / "new"
    new.mkdir()
    for name in (CONFIG_FILE, TENSOR_FILE):
        (staged / name).rename(new / name)
    if target.exists():
        target.rename(staged / "old")
    new.rename(target)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"

"""A model as a folder with `config.json` and `model.safetensors`. Never pickle.

Everything read is checked before it is used: fields, shapes and dtypes first, from the header alone, so that a wrong
file cannot make us allocate memory.

`digests` in the configuration tell a model that was changed after it was saved: SHA-256 of the tensors, and of all
fields that are not `FOR_PEOPLE`. Those may be edited; they change no score and no verdict. Models saved before there
were digests have none, and are read without.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from admodels.core.calibration import MIN_IMAGES, TAIL_RATIOS, Calibration
from admodels.core.detector import Detector
from admodels.core.fitting import restore
from admodels.core.method import Layout, Method
from admodels.core.product import DESCRIPTOR, LENGTH, MAX_KEPT, Product
from admodels.core.results import FitReport, Origin
from admodels.errors import AdmodelsError, StoreError
from admodels.pictures.value_range import ValueRange
from admodels.pictures.working_shape import WorkingShape, shape_fault

FORMAT_VERSION = 1
CONFIG_FILE, TENSOR_FILE = "config.json", "model.safetensors"
# Fields that no score, threshold or verdict depends on.
FOR_PEOPLE = frozenset({"digests", "fitted_on", "saved_at", "versions", "probe", "published", "known_defects"})
MAX_CONFIG_BYTES = 4 * 2**20
MAX_TENSOR_BYTES = 16 * 2**30
PRODUCT_TENSOR = "product.descriptors"  # beside the state, which has no name of this kind
MAX_LENGTH = 2**14  # of a picture's descriptor, of this version or of another
MAX_SAID = 200  # characters of a field that is only shown

SAFE_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.float16: "F16"}


def configuration(detector: Detector) -> dict[str, Any]:
    """All that is known of a fitted detector besides its tensors, as JSON has it."""
    fitted = detector.fitted_
    origin = fitted.origin or _origin_here(detector)
    config = {
        "format_version": FORMAT_VERSION,
        "method": detector.key,
        "options": detector.config.stored(),
        "working_shape": {name: value for name, value in asdict(fitted.shape).items() if value is not None},
        "calibration": asdict(fitted.calibration) | {"threshold": fitted.calibration.threshold},
        "fit": asdict(fitted.report),
        **_stated_product(fitted.product),
        "fitted_on": dict(origin.fitted_on),
        "saved_at": origin.saved_at,
        "versions": dict(origin.versions),
    }
    return json.loads(json.dumps(config))  # as it will be read: tuples are lists then


def write_folder(detector: Detector, folder: Path, more: Mapping[str, Any] | None = None) -> None:
    """Write a fitted detector's two files into an existing folder; `more` are further fields of its configuration."""
    fitted = detector.fitted_
    state = {name: tensor.cpu().contiguous() for name, tensor in fitted.state.items()}
    if fitted.product is not None:
        state[PRODUCT_TENSOR] = torch.from_numpy(fitted.product.descriptors)
    config = configuration(detector) | json.loads(json.dumps(more or {}))
    of_tensors = tensor_digest(state)
    config["digests"] = {"tensors": of_tensors, "config": config_digest(config, of_tensors)}
    try:
        save_file(state, folder / TENSOR_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise StoreError(f"the model could not be written to {folder.parent} ({error}). Free space there.") from error


def read_folder(folder: Path, methods: Mapping[str, type[Method]], *, device: str = "auto") -> Detector:
    """Build a fitted detector from a model folder, checking every field, shape, dtype and digest.

    Args:
        methods: those that a model may be of, by name.

    Raises:
        StoreError: a file is not as it should be; the message names what is wrong.
        OptionError: the device is not here.
    """
    config = read_config(folder, methods)
    method = methods[config["method"]](config["options"], device=device)
    shape, report = config["working_shape"], config["fit"]
    layout, described = method.layout(shape, report.n_learned), config["product"]
    if described is not None:
        layout = layout | _product_layout(described)
    state = _read_tensors(folder / TENSOR_FILE, layout, config.get("digests"))
    product = _product(described, state.pop(PRODUCT_TENSOR)) if described is not None else None
    try:
        fitted = restore(method, state, shape, config["calibration"], report, _origin(config), product)
    except ValueError as error:
        where = f"{folder.name}/{TENSOR_FILE}"
        raise StoreError(f"{where} contradicts itself: {error}. Fit and save the model again.") from error
    return Detector(method, fitted)


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


def config_bytes(folder: Path) -> bytes:
    """The configuration as it is written, not checked yet.

    Raises:
        StoreError: it cannot be read, or is too large to be one.
    """
    path = folder / CONFIG_FILE
    where = f"{folder.name}/{CONFIG_FILE}"
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise StoreError(f"{where} is larger than {MAX_CONFIG_BYTES} bytes: not a configuration of ours.")
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{where} cannot be read ({error.strerror}).") from error


def stated_options(folder: Path) -> dict[str, Any]:
    """The options as a model's configuration states them, unchecked; none where it cannot be read.

    It is for looking at what a model would reach before its options are built.
    """
    try:
        raw = json.loads(config_bytes(folder))
    except (StoreError, ValueError, RecursionError):
        return {}  # reading the model says what is wrong
    options = raw.get("options") if isinstance(raw, dict) else None
    return options if isinstance(options, dict) else {}


def read_config(folder: Path, methods: Mapping[str, type[Method]]) -> dict[str, Any]:
    """`config.json` with its parts turned into the library's own types; each part is checked.

    Raises:
        StoreError: it is not as it should be.
    """
    where = f"{folder.name}/{CONFIG_FILE}"
    try:
        raw = json.loads(config_bytes(folder))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where} is not valid JSON ({error}).") from error
    if not isinstance(raw, dict) or raw.get("format_version") != FORMAT_VERSION:
        found = raw.get("format_version") if isinstance(raw, dict) else type(raw).__name__
        raise StoreError(
            f"{where} has format version {found!r}; this program reads version {FORMAT_VERSION}. "
            "Update the program, or fit and save the model again."
        )
    method = raw.get("method")
    if not isinstance(method, str) or method not in methods:
        raise StoreError(f"{where} names the method {method!r}; known are {', '.join(methods)}. Update the program.")
    config = dict(raw)
    try:
        config["options"] = options = methods[method].Config.from_stored(_mapping(raw, "options"))
        shape = _mapping(raw, "working_shape")
        config["working_shape"] = WorkingShape(
            _size(shape, "resized"), _size(shape, "cropped"), _value_range(shape.get("value_range"))
        )
        fault = shape_fault(config["working_shape"], options.image_size, options.crop, options.keep_aspect)
        if fault:
            raise ValueError(f"working_shape contradicts the options: {fault}")
        config["calibration"] = read_calibration(_mapping(raw, "calibration"))
        config["fit"] = _fit_report(_mapping(raw, "fit"))
        config["product"] = _read_described(raw)
        digests = config["digests"] = _digests(raw)
    except (AdmodelsError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise StoreError(f"{where} is damaged: {error}. Fit and save the model again.") from error
    if digests and config_digest(raw, digests["tensors"]) != digests["config"]:
        raise _changed(where)
    return config


def read_product(folder: Path, methods: Mapping[str, type[Method]]) -> tuple[Product | None, ValueRange | None]:
    """What tells for which model a picture is, without reading all that the model learned; and the scale of its values.

    Raises:
        StoreError: a file is missing, damaged or of another version.
    """
    config = read_config(folder, methods)
    described, value_range = config["product"], config["working_shape"].value_range
    if described is None:
        return None, value_range
    found = _read_tensors(folder / TENSOR_FILE, _product_layout(described), None, only=True)
    return _product(described, found[PRODUCT_TENSOR]), value_range


class Described(NamedTuple):
    """What a configuration says of the descriptors of good pictures, which lie with the tensors."""

    descriptor: str
    n_pictures: int
    length: int


def _stated_product(product: Product | None) -> dict[str, Any]:
    if product is None:
        return {}
    return {"product": Described(DESCRIPTOR, *product.descriptors.shape)._asdict()}


def _read_described(raw: dict) -> Described | None:
    """None in models saved before there was one."""
    if "product" not in raw:
        return None
    product = _mapping(raw, "product")
    found = Described(str(product["descriptor"]), _count(product, "n_pictures"), _count(product, "length"))
    if not (MIN_IMAGES <= found.n_pictures <= MAX_KEPT and 0 < found.length <= MAX_LENGTH):
        raise ValueError(
            f"product has {found.n_pictures} pictures and a length of {found.length}, expected {MIN_IMAGES} to "
            f"{MAX_KEPT}, and 1 to {MAX_LENGTH}"
        )
    if found.descriptor == DESCRIPTOR and found.length != LENGTH:
        raise ValueError(f"product.length is {found.length}, expected {LENGTH}")
    return found


def _product_layout(described: Described) -> Layout:
    return {PRODUCT_TENSOR: ((described.n_pictures, described.length), torch.float32)}


def _product(described: Described, descriptors: torch.Tensor) -> Product | None:
    """None where they are of another kind than those of this version: they do not compare."""
    return Product(descriptors.numpy()) if described.descriptor == DESCRIPTOR else None


def _changed(where: str) -> StoreError:
    return StoreError(
        f"{where} was changed after it was saved: its digest does not match. Put the original file back, or fit and "
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
    raw = {"n_folds": 0, "notices": [], "n_learned_later": 0} | raw  # not in models saved before there were any
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
        versions={name: _version(name) for name in ("torch", "timm", "numpy", "pillow", "safetensors")},
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


def read_calibration(raw: dict) -> Calibration:
    """A calibration as it is written; `ValueError`, `KeyError` or `TypeError` where it is not."""
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
    backgrounds = raw.get("backgrounds", [])  # nor are these
    if not isinstance(backgrounds, list) or len(backgrounds) not in (0, len(series["scores"])):
        raise ValueError("calibration.backgrounds is not a list with a number for each score")
    backgrounds = tuple(float(_number({"backgrounds": v}, "backgrounds")) for v in backgrounds)
    if list(backgrounds) != sorted(backgrounds):
        raise ValueError("calibration.backgrounds is not in ascending order")
    calibration = Calibration(
        **series,
        backgrounds=backgrounds,
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


def _read_tensors(
    path: Path, layout: Layout, digests: dict[str, str] | None, *, only: bool = False
) -> dict[str, torch.Tensor]:
    """The tensors of a layout; `only` them, where the file has others too."""
    where = f"{path.parent.name}/{path.name}"
    try:
        with safe_open(path, framework="pt") as opened:
            names = set(opened.keys())
            if not (names >= set(layout) if only else names == set(layout)):
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


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"

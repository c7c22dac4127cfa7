"""The runtimes that score an exported file: each takes the same pixels and gives what the graph gives."""

import importlib.util
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Protocol

import numpy as np
import torch

from admodels.deploy.onnx_file import INPUT, MAP, SCORE, OnnxFile
from admodels.errors import ExportError
from admodels.runtime import openvino_engine
from admodels.runtime.device import usable_cores

# Of a score, relative to it or to the threshold, whichever is larger. Runtimes round int8 in their own ways.
TOLERANCES = {"float32": 1e-3, "int8": 5e-2}
NODE_SECONDS = 600
WEB_PACKAGE, WEB_VERSION = "onnxruntime-web", "1.30.0"
WEB_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
NODE_PROGRAM = Path(__file__).with_name("in_node.mjs")


class Found(NamedTuple):
    """What a runtime says of one picture.

    Attributes:
        outputs: float32, by name.
        seconds: of this run, without decoding.
    """

    outputs: dict[str, np.ndarray]
    seconds: float

    @property
    def score(self) -> float:
        """Raw."""
        return float(self.outputs[SCORE][0])


class Runtime(Protocol):
    """Runs one exported file."""

    @property
    def title(self) -> str:
        """Its name and version."""

    def __call__(self, pictures: Sequence[np.ndarray]) -> list[Found]:
        """What it says of pictures, each uint8 RGB (H, W, 3) of any size."""


class OnnxRuntime:
    """ONNX Runtime on the CPU.

    Args:
        model: the file, or what is in it.
    """

    def __init__(self, model: Path | bytes) -> None:
        import onnxruntime

        self.title = f"ONNX Runtime {version('onnxruntime')}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, pictures: Sequence[np.ndarray]) -> list[Found]:
        return [self._one(pixels) for pixels in pictures]

    def _one(self, pixels: np.ndarray) -> Found:
        started = time.perf_counter()
        with _run_by(self.title):
            values = self._session.run(None, {INPUT: pixels})
        return Found(dict(zip(self._names, values, strict=True)), time.perf_counter() - started)


class OpenVino:
    """OpenVINO on the CPU, in float32."""

    def __init__(self, path: Path) -> None:
        import openvino

        self.title = openvino_engine.title()
        core = openvino.Core()
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        self._compiled = core.compile_model(core.read_model(path), "CPU", options)

    def __call__(self, pictures: Sequence[np.ndarray]) -> list[Found]:
        return [self._one(pixels) for pixels in pictures]

    def _one(self, pixels: np.ndarray) -> Found:
        started = time.perf_counter()
        with _run_by(self.title):
            values = self._compiled({INPUT: pixels})
        return Found(
            {output.get_any_name(): np.array(values[output]) for output in self._compiled.outputs},
            time.perf_counter() - started,
        )


class OnnxRuntimeWeb:
    """ONNX Runtime Web in Node: what a browser has, WebAssembly on the CPU.

    Args:
        assets: its npm package, or that package's `dist` folder.
    """

    def __init__(self, path: Path, assets: Path) -> None:
        self._path, self._assets = path, web_folder(assets)
        self.title = "ONNX Runtime Web (WASM in Node)"

    def __call__(self, pictures: Sequence[np.ndarray]) -> list[Found]:
        with TemporaryDirectory() as folder:
            job = {"assets": str(self._assets.resolve()), "model": str(self._path.resolve()), "pictures": []}
            for i, pixels in enumerate(pictures):
                (Path(folder) / f"{i}.rgb").write_bytes(np.ascontiguousarray(pixels).tobytes())
                height, width = pixels.shape[:2]
                place = {"pixels": f"{folder}/{i}.rgb", "results": f"{folder}/{i}", "height": height, "width": width}
                job["pictures"].append(place)
            (Path(folder) / "job.json").write_text(json.dumps(job), encoding="utf-8")
            said = _node(Path(folder) / "job.json")
            self.title = f"ONNX Runtime Web {said['version']} (WASM in Node)"
            return [Found(_outputs(found["outputs"]), float(found["seconds"])) for found in said["found"]]


def web_folder(assets: Path, names: Sequence[str] = WEB_FILES) -> Path:
    """The folder with these files of ONNX Runtime Web.

    Args:
        assets: its npm package, that package's `dist` folder, or a `node_modules` that has it.

    Raises:
        ExportError: they are not there.
    """
    for folder in (assets, assets / "dist", assets / "package" / "dist", assets / WEB_PACKAGE / "dist"):
        if all((folder / name).is_file() for name in names):
            return folder
    raise ExportError(
        f"{assets} does not hold {WEB_PACKAGE}: {', '.join(names)} are expected in it or in its folder dist. Unpack "
        f"there what `npm pack {WEB_PACKAGE}@{WEB_VERSION}` fetches."
    )


def runtimes_here(path: Path, assets: Path | None = None) -> list[Runtime]:
    """Those that are installed, and with `assets` ONNX Runtime Web.

    Raises:
        ExportError: there is none, or the file cannot be loaded.
    """
    found: list[Runtime] = []
    try:
        for package, runtime in (("onnxruntime", OnnxRuntime), ("openvino", OpenVino)):
            if importlib.util.find_spec(package) is not None:
                found.append(runtime(path))
    except Exception as error:  # each has its own ways of saying no
        raise ExportError(f"{path} cannot be loaded ({error}). Export it again.") from error
    if assets is not None:
        found.append(OnnxRuntimeWeb(path, assets))
    if not found:
        raise ExportError("no runtime for ONNX files is installed. Run: pip install onnxruntime")
    return found


class ProbeCheck(NamedTuple):
    """What one runtime says of a file's stored picture; it is close where score and largest value of the map are."""

    title: str
    score: float
    is_close: bool


def check_probe(file: OnnxFile, runtimes: Sequence[Runtime]) -> list[ProbeCheck]:
    """Score the stored picture with each runtime."""
    checks = []
    for runtime in runtimes:
        found = runtime([file.probe])[0]
        values, whole = found.outputs[MAP], file.shape.to_original(torch.zeros(1, 1), file.probe.shape[:2])
        is_close = np.array_equal(np.isnan(values), np.isnan(whole))  # nothing but what a crop left out
        if is_close:
            tolerance, limits = TOLERANCES[file.precision], file.calibration
            is_close = (
                difference(found.score, file.probe_score, limits.threshold) <= tolerance
                and difference(float(np.nanmax(values)), file.probe_map_max, limits.map_threshold) <= tolerance
            )
        checks.append(ProbeCheck(runtime.title, found.score, is_close))
    return checks


def difference(score: float, expected: float, threshold: float) -> float:
    """How far two scores are apart, as a part of the expected one or of the threshold, whichever is larger."""
    return abs(score - expected) / max(abs(expected), abs(threshold), 1e-12)


def map_difference(found: Found, expected: np.ndarray) -> float:
    """The largest difference of two maps, as a part of the largest expected value; infinite where other pixels are
    unscored."""
    values = found.outputs[MAP]
    if values.shape != expected.shape or not np.array_equal(np.isnan(values), np.isnan(expected)):
        return float("inf")
    return float(np.nanmax(np.abs(values - expected)) / max(float(np.nanmax(np.abs(expected))), 1e-12))


@contextmanager
def _run_by(title: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # runtimes have errors of many types
        raise ExportError(f"{title} cannot run the file ({error}). Export it again, or use another runtime.") from error


def _node(job: Path) -> dict:
    node = shutil.which("node")
    if node is None:
        raise ExportError("ONNX Runtime Web needs Node.js here, which is not installed. Install the package nodejs.")
    try:
        done = subprocess.run([node, str(NODE_PROGRAM), str(job)], capture_output=True, text=True, timeout=NODE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"ONNX Runtime Web has not ended after {NODE_SECONDS} seconds in Node.") from error
    if done.returncode:
        raise ExportError(f"ONNX Runtime Web failed in Node: {(done.stderr or done.stdout).strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _outputs(places: dict[str, dict]) -> dict[str, np.ndarray]:
    return {
        name: np.fromfile(place["file"], np.float32).reshape([int(n) for n in place["size"]])
        for name, place in places.items()
    }

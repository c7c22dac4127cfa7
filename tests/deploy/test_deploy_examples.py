"""The programs of examples/deploy score a folder as the library does, whatever its pictures are."""

import csv
import importlib.util
import io
import os
import shutil
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import admodels
from admodels.deploy.exporting import write_onnx
from tests.conftest import SMALL

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx onnxscript onnxruntime")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install onnx onnxscript onnxruntime")

DEPLOY = Path(__file__).resolve().parents[2] / "examples" / "deploy"
TOLERANCE = 1e-3  # of the score
REFUSED = ["damaged, and named so.png", "empty.jpg", "low.png", "deep_colours.png"]
VALUE_RANGE = "0:4095"
NO_REGISTRY = ("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "EAI_AGAIN", "ETIMEDOUT", "ENETUNREACH")
ALIKE = ["rgb.png", "photo.jpg", "grey.png", "clear.png", "lying.jpg", "mirrored.png", "deep.png"]


@dataclass(frozen=True)
class Exported:
    """An exported detector, and what the library says of each picture."""

    path: Path
    threshold: float
    predictions: dict


@pytest.fixture(scope="module")
def pictures(example, tmp_path_factory):
    """A folder of pictures of every kind that is read in a way of its own, and some that must not be."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    good, bad = (Image.open(item.path).convert("RGB") for item in (example.test[0], example.test[-1]))
    colours = np.asarray(good) * np.array([1.0, 0.8, 0.6]) + rng.integers(0, 40, (128, 128, 3))
    colours = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8)[:97])  # taller and wider are told apart
    colours.save(folder / "rgb.png")
    bad.save(folder / "photo.jpg", quality=90)
    bad.convert("L").save(folder / "grey.png")
    clear = colours.copy()
    clear.putalpha(Image.fromarray(rng.integers(0, 256, (97, 128)).astype(np.uint8)))
    clear.save(folder / "clear.png")
    for name, orientation in (("lying.jpg", 6), ("mirrored.png", 5)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        colours.save(folder / name, exif=exif)
    deep = np.asarray(bad.convert("L")).astype(np.uint16) * 16 + rng.integers(0, 16, (128, 128)).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    whole = (folder / "rgb.png").read_bytes()
    (folder / REFUSED[0]).write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    colours.crop((0, 0, 40, 10)).save(folder / "low.png")
    save_deep_colours(folder / "deep_colours.png", np.asarray(colours))
    (folder / "notes.txt").write_text("Files that are no pictures are passed over.", encoding="utf-8")
    assert sorted(path.name for path in folder.glob("*.[jp][pn]g")) == sorted([*ALIKE, *REFUSED])
    return folder


@pytest.fixture(scope="module")
def exports(normals, pictures, tmp_path_factory):
    """Two exported detectors: one knows black and white of pictures of more than 8 bits, the other does not."""
    folder = tmp_path_factory.mktemp("exports")
    kinds = {"padim_isvd": {"value_range": VALUE_RANGE}, "tiled": {}}
    made = {}
    for method, more in kinds.items():
        # In float32, as the exported graph computes, whatever the processor multiplies.
        detector = admodels.create(method, device="cpu", precision="float32", **SMALL[method], **more).fit(normals)
        exported = write_onnx(detector, folder / f"{method}.onnx")
        predictions = {name: detector.predict(pictures / name) for name in ALIKE}
        made[method] = Exported(exported.path, detector.fitted_.calibration.threshold, predictions)
    verdicts = {p.is_anomalous for exported in made.values() for p in exported.predictions.values()}
    assert verdicts == {True, False}, "the pictures must tell a program that always says the same from one that scores"
    return made


def save_deep_colours(path, rgb):
    """Write a PNG of 16 bits a colour, which Pillow cannot."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb.astype(np.uint16) * 257)
    header = struct.pack(">IIBBBBB", rgb.shape[1], rgb.shape[0], 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def python_program(folder):
    if not importlib.util.find_spec("onnxruntime"):
        pytest.skip("onnxruntime is not installed: pip install onnxruntime")
    return [sys.executable, DEPLOY / "python" / "score_folder.py"]


def javascript_program(folder):
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not found: install Node 20 to test the JavaScript program")
    shutil.copytree(DEPLOY / "javascript", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    installed = completed("npm", "install", "--no-audit", "--no-fund", cwd=folder)
    if installed.returncode and any(f"npm error code {code}" in installed.stderr for code in NO_REGISTRY):
        pytest.skip(f"npm cannot reach its registry: {installed.stderr.strip().splitlines()[0]}")
    assert installed.returncode == 0, installed.stderr
    return ["node", folder / "score_folder.mjs"]


def cpp_program(folder):
    missing = [name for name in ("g++", "cmake") if shutil.which(name) is None]
    missing += [] if importlib.util.find_spec("openvino") else ["the package openvino"]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not found: install them to test the C++ program")
    for header, package in (("png.h", "libpng-dev"), ("jpeglib.h", "libjpeg-dev")):
        source = f"#include <cstdio>\n#include <{header}>\n"
        if completed("g++", "-x", "c++", "-fsyntax-only", "-", input=source).returncode:
            pytest.skip(f"{header} not found: install {package} to test the C++ program")
    from openvino.utils import get_cmake_path

    options = [f"-DOpenVINO_DIR={get_cmake_path()}", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-Werror"]
    for step in (["-S", DEPLOY / "cpp", "-B", folder, *options], ["--build", folder]):
        built = completed("cmake", *step)
        assert built.returncode == 0, built.stdout + built.stderr
    return [folder / "score_folder"]


PROGRAMS = {"python": python_program, "javascript": javascript_program, "cpp": cpp_program}


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request, tmp_path_factory):
    """Runs one of the programs."""
    command = PROGRAMS[request.param](tmp_path_factory.mktemp(request.param))
    # Nothing of this project must be needed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    return lambda *arguments: completed(*command, *arguments, cwd=elsewhere, env=environment)


def completed(*command, **options):
    """A command that has run; no test waits for one for more than five minutes."""
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, encoding="utf-8", timeout=300, **options
    )


def changed(path, out, **metadata):
    """A copy of an exported file with other metadata."""
    model = onnx.load(path)
    for entry in model.metadata_props:
        entry.value = metadata.get(entry.key, entry.value)
    onnx.save(model, out)
    return out


@pytest.mark.parametrize("method", ["padim_isvd", "tiled"])
def test_scores_and_verdicts_are_those_of_the_library(program, exports, pictures, method, tmp_path):
    exported = exports[method]
    ran = program(exported.path, pictures, "--maps", tmp_path / "maps")
    assert ran.returncode == 1, ran.stderr
    assert [name for name in REFUSED if f"{name} was not scored: " not in ran.stderr] == []
    assert "notes.txt is passed over" in ran.stderr
    lines = list(csv.DictReader(io.StringIO(ran.stdout)))
    assert list(lines[0]) == ["picture", "score", "threshold", "p_value", "verdict"]
    assert [line["picture"] for line in lines] == sorted(ALIKE)
    for line in lines:
        expected = exported.predictions[line["picture"]]
        size = max(abs(expected.score), abs(exported.threshold))
        assert float(line["score"]) == pytest.approx(expected.score, abs=TOLERANCE * size), line
        assert float(line["threshold"]) == exported.threshold
        assert float(line["p_value"]) == pytest.approx(expected.p_value, rel=1e-5), line
        assert line["verdict"] == ("anomalous" if expected.is_anomalous else "good"), line
        anomaly_map = np.load(tmp_path / "maps" / f"{line['picture']}.npy")
        np.testing.assert_allclose(anomaly_map, expected.anomaly_map, atol=2 * TOLERANCE * size)


def test_the_status_is_0_where_every_picture_was_scored(program, exports, pictures, tmp_path):
    shutil.copy(pictures / "rgb.png", tmp_path / 'one, "two".png')
    ran = program(exports["padim_isvd"].path, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert [line["picture"] for line in csv.DictReader(io.StringIO(ran.stdout))] == ['one, "two".png']


def test_a_file_that_scores_its_own_picture_otherwise_is_refused(program, exports, pictures, tmp_path):
    right = exports["padim_isvd"]
    entries = {entry.key: entry.value for entry in onnx.load(right.path).metadata_props}
    wrong = float(entries["probe_score"]) + 2 * TOLERANCE * max(abs(float(entries["probe_score"])), right.threshold)
    for metadata in ({"probe_score": repr(wrong)}, {"admodels_format": "2"}):
        ran = program(changed(right.path, tmp_path / "changed.onnx", **metadata), pictures)
        assert ran.returncode == 2, (metadata, ran.stderr)
        assert "Nothing was scored" in ran.stderr
        assert ran.stdout == ""


def test_what_is_no_model_or_has_no_pictures_is_refused(program, exports, pictures, tmp_path):
    model, empty = exports["padim_isvd"].path, tmp_path / "empty"
    empty.mkdir()
    for arguments in ((pictures / "rgb.png", pictures), (model, empty), (model, tmp_path / "missing"), ()):
        ran = program(*arguments)
        assert ran.returncode == 2, (arguments, ran.stderr)
        assert ran.stderr
        assert ran.stdout == ""

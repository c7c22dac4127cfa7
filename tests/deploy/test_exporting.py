"""An exported file scores as the detector does, says what is needed to judge by it, and nothing of this machine."""

import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import admodels
from admodels.deploy.comparison import compare, pictures_of_all_kinds
from admodels.deploy.exporting import write_onnx
from admodels.deploy.onnx_file import read
from admodels.deploy.runtimes import check_probe, runtimes_here
from admodels.methods.fapm import patch_grid
from admodels.methods.feature_maps import blur_matrix
from admodels.runtime.normalising import Normalisation, _scale_and_offset
from admodels.runtime.tracing import is_traced, tracing
from admodels.tiling.grid import coverage, tile_grid
from tests.conftest import SMALL, encode, gradient

onnx = pytest.importorskip("onnx", reason="the packages for exporting are not installed")
pytest.importorskip("onnxscript", reason="the packages for exporting are not installed")

ALL_KINDS = pictures_of_all_kinds((600, 800))
# Each way that a method may score, besides its defaults.
OPTIONS = {
    "fapm, layers' scores": ("fapm", {"image_score": "layers", "n_neighbors": 3}),
    "fapm, one memory": ("fapm", {"patch_wise": False, "layer_wise": False, "norm_power": 0.5}),
    "fapm, cropped": ("fapm", {"image_size": 96, "crop": 64, "keep_aspect": False}),
    "padim_isvd, double precision": ("padim_isvd", {"dtype": "float64", "blur": False}),
    "padim as published": ("padim", {"shrinkage": 0.0}),
    "patchcore, border as before": ("patchcore", {"count_padding": False, "n_neighbors": 1}),
    "tiled, fapm, overlapping": ("tiled", {"method": "fapm", "member": {"grid": 3}, "image_size": 96, "tile_size": 64}),
    "tiled, patchcore, one model": ("tiled", {"method": "patchcore", "member": {}, "one_model": True}),
    "tiled, efficientad": (
        "tiled",
        {"method": "efficientad", "member": {"max_steps": 2}, "image_size": 128, "tile_size": 64, "stride": 64},
    ),
}


@pytest.fixture(scope="module")
def exported(normals, tmp_path_factory):
    """Fitted detectors and their files, made when they are asked for."""
    made = {}

    def get(method, /, **options):
        key = method, json.dumps(options, sort_keys=True)
        if key not in made:
            detector = admodels.create(method, device="cpu", **{**SMALL[method], **options}).fit(normals)
            path = tmp_path_factory.mktemp("exported") / "model.onnx"
            made[key] = detector, write_onnx(detector, path, source="local:example").path
        return made[key]

    return get


def _assert_equal(rows):
    assert rows
    for row in rows:
        assert row.is_equal, row


@pytest.mark.parametrize("method", sorted(admodels.DETECTORS))
def test_scores_are_pytorchs_in_every_runtime_on_pictures_of_all_kinds(exported, example, method, onnx_runtime_web):
    detector, path = exported(method)
    kinds = pictures_of_all_kinds() if method == "padim_isvd" else ALL_KINDS  # twenty megapixels once
    more = [(item.path.name, item.path) for item in example.test[::5]]
    _assert_equal(compare(detector, path, runtimes_here(path, onnx_runtime_web), [*kinds, *more]))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_however_a_method_scores(exported, options):
    detector, path = exported(options[0], **options[1])
    _assert_equal(compare(detector, path, runtimes_here(path), ALL_KINDS))


def test_pictures_of_all_kinds_are_what_they_say():
    kinds = dict(ALL_KINDS)
    assert kinds["tiny, 40×16"].shape == (16, 40, 3)
    assert kinds["large, 800×600"].shape == (600, 800, 3)
    assert Image.open(io.BytesIO(kinds["16 bits, 320×240"])).mode.startswith("I")


def test_the_file_says_what_is_needed_to_judge(exported):
    detector, path = exported("padim_isvd")
    file, said = read(path), {e.key: e.value for e in onnx.load(path).metadata_props}
    assert file.calibration == detector.calibration_
    assert float(said["threshold"]) == detector.calibration_.threshold
    assert float(said["map_threshold"]) == detector.calibration_.map_threshold
    assert (float(said["scale_bottom"]), float(said["scale_top"])) == detector.calibration_.scale
    assert said["threshold_statement"] == detector.calibration_.statement
    assert json.loads(said["model"])["options"] == json.loads(json.dumps(detector.config.stored()))
    assert said["source"] == "local:example"
    licences = json.loads(said["licences"])
    assert licences["network"].startswith("efficientnet_lite0: Apache-2.0")
    assert licences["data"] == licences["model"] == "not stated"
    # Another rate and p-values need no other file.
    assert file.calibration.with_rate(0.2).threshold == detector.calibration_.with_rate(0.2).threshold
    assert file.probe_score == pytest.approx(detector.predict(file.probe).score, rel=1e-3)


def test_the_file_says_nothing_of_this_machine(exported):
    for method in sorted(admodels.DETECTORS):
        content = exported(method)[1].read_bytes()
        for private in (str(Path(admodels.__file__).parent), str(Path.home()), "site-packages"):
            assert private.encode() not in content, (method, private)


def test_deep_pictures_are_read_on_the_models_scale(tmp_path, rng):
    def deep(i):
        values = rng.normal(2000, 200, (48, 64)).clip(0, 4095).astype(np.uint16)
        return encode(Image.fromarray(values))

    detector = admodels.create("padim_isvd", device="cpu", **SMALL["padim_isvd"]).fit([deep(i) for i in range(12)])
    path = write_onnx(detector, tmp_path / "deep.onnx").path
    assert read(path).metadata["value_range"] == "0.0:4095.0"
    _assert_equal(compare(detector, path, runtimes_here(path), [("deep", deep(0))]))


def test_a_file_that_scores_otherwise_is_not_written(isvd, tmp_path, monkeypatch):
    monkeypatch.setattr("admodels.deploy.runtimes.TOLERANCES", {"float32": -1.0})
    with pytest.raises(admodels.ExportError, match="was expected"):
        write_onnx(isvd, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_changed_does_not_verify(exported, tmp_path):
    path = tmp_path / "changed.onnx"
    shutil.copy(exported("padim_isvd")[1], path)
    model = onnx.load(path)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(model, path)
    assert not any(check.is_close for check in check_probe(read(path), runtimes_here(path)))


def test_an_unfitted_detector_is_refused(tmp_path):
    with pytest.raises(admodels.NotFittedError):
        write_onnx(admodels.create("fapm", device="cpu"), tmp_path / "model.onnx")


def test_a_model_larger_than_the_format_is_refused(isvd, tmp_path, monkeypatch):
    monkeypatch.setattr("admodels.deploy.exporting.MAX_BYTES", 1000)
    with pytest.raises(admodels.ExportError, match="Fit a smaller one: set solver=gram"):
        write_onnx(isvd, tmp_path / "model.onnx")


def test_missing_packages_are_named(isvd, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(admodels.ExportError, match="onnx and onnxscript are not installed"):
        write_onnx(isvd, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("content", "said"), [(b"no", "not an ONNX file"), (None, "does not exist"), ("other", "was not exported by")]
)
def test_what_is_no_exported_file_is_refused(tmp_path, content, said):
    path = tmp_path / "model.onnx"
    if content == "other":
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "none", [], [])), path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(admodels.ExportError, match=said):
        read(path)


@pytest.mark.parametrize("key", ["model", "probe_png", "probe_score", "title"])
def test_damaged_metadata_are_refused(exported, tmp_path, key):
    path = tmp_path / "damaged.onnx"
    model = onnx.load(exported("padim_isvd")[1])
    for entry in model.metadata_props:
        if entry.key == key:
            model.metadata_props.remove(entry)
            break
    onnx.save(model, path)
    with pytest.raises(admodels.ExportError, match="metadata are damaged"):
        read(path)


def test_bfloat16_models_say_that_the_file_computes_in_float32(normals, tmp_path):
    detector = admodels.create("padim_isvd", device="cpu", precision="bfloat16", **SMALL["padim_isvd"]).fit(normals)
    done = write_onnx(detector, tmp_path / "model.onnx")
    assert "bfloat16 here, and the file in float32" in done.notices[0]
    _assert_equal(compare(detector, done.path, runtimes_here(done.path), ALL_KINDS))


def test_int8_is_kept_only_where_verdicts_and_order_stay(normals, example, tmp_path, monkeypatch):
    detector = admodels.create("fapm", device="cpu", image_size=96, grid=3).fit(normals)
    done = write_onnx(detector, tmp_path / "int8.onnx", precision="int8", good=normals)
    file = read(done.path)
    assert file.precision == "int8"
    assert "convolutions compute in int8" in file.metadata["precision_statement"] == done.notices[-1]
    assert done.size_mib < write_onnx(detector, tmp_path / "float32.onnx").size_mib
    runtime = runtimes_here(done.path)[0]
    for path in normals:
        pixels = detector.read(path).pixels
        is_anomalous = runtime([pixels])[0].score > file.calibration.threshold
        assert is_anomalous == detector.predict(pixels).is_anomalous
    monkeypatch.setattr("admodels.deploy.int8.MIN_SPEARMAN", 1.01)
    with pytest.raises(admodels.ExportError, match="int8 changes this model too much"):
        write_onnx(detector, tmp_path / "refused.onnx", precision="int8", good=normals)
    assert not (tmp_path / "refused.onnx").exists()


def test_int8_needs_good_pictures(isvd, normals, tmp_path):
    with pytest.raises(admodels.ExportError, match="at least 10 good pictures"):
        write_onnx(isvd, tmp_path / "int8.onnx", precision="int8", good=normals[:3])
    with pytest.raises(admodels.OptionError, match="precision is 'int4'"):
        write_onnx(isvd, tmp_path / "int4.onnx", precision="int4")


def test_references_name_the_source(isvd, tmp_path):
    admodels.save(isvd, "to_export", overwrite=True)
    done = admodels.export("to_export", tmp_path / "model.onnx", licence="mit", data_terms="ours")
    said = read(done.path).metadata
    assert said["source"] == "local:to_export"
    licences = json.loads(said["licences"])
    assert (licences["model"], licences["data"], licences["program"]) == ("mit", "ours", "MIT")


def test_a_threshold_set_by_hand_goes_with_the_file(isvd, tmp_path):
    by_hand = isvd.with_threshold(threshold=3.5)
    file = read(write_onnx(by_hand, tmp_path / "model.onnx").path)
    assert file.calibration.threshold == 3.5
    assert file.metadata["threshold_statement"].startswith("Set by hand")


def test_an_export_changes_nothing_of_the_detector(isvd, tmp_path):
    before, state = isvd.predict(gradient()).score, {name: tensor.clone() for name, tensor in isvd.state_.items()}
    fitted = isvd.fitted_
    write_onnx(isvd, tmp_path / "model.onnx")
    assert isvd.fitted_ is fitted
    assert all(torch.equal(isvd.state_[name], tensor) for name, tensor in state.items())
    assert isvd.predict(gradient()).score == before


@pytest.mark.parametrize("method", ["fapm", "tiled", "efficientad"])
def test_what_an_export_makes_first_is_good_for_all_others(exported, method, tmp_path):
    """Tracers work with tensors that hold nothing; one that is kept would spoil every later prediction."""
    detector, _ = exported(method)
    before = detector.predict(gradient()).score
    for kept in (blur_matrix, coverage, patch_grid, _scale_and_offset):
        kept.cache_clear()
    with tracing(), FakeTensorMode(allow_non_fake_inputs=True):
        blur_matrix(8, 32, 4.0, "cpu")
        _scale_and_offset(Normalisation((0.5,) * 3, (0.5,) * 3), torch.device("cpu"))
        coverage(tile_grid((64, 64), 64, 32, 32))
        patch_grid(8, 8, 3)
    assert not isinstance(blur_matrix(8, 32, 4.0, "cpu"), FakeTensor)
    assert not isinstance(coverage(tile_grid((64, 64), 64, 32, 32)), FakeTensor)
    write_onnx(detector, tmp_path / "model.onnx")
    assert detector.predict(gradient()).score == before


def test_other_threads_compute_as_ever_while_one_exports(exported, isvd, tmp_path):
    detector, _ = exported("efficientad")
    alone = detector.predict(gradient()).score
    with ThreadPoolExecutor(2) as pool, tracing():
        assert is_traced()
        assert not pool.submit(is_traced).result()
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(write_onnx, isvd, tmp_path / "model.onnx")
        while not written.done():
            assert detector.predict(gradient()).score == pytest.approx(alone, rel=1e-5)
        assert written.result().path.is_file()


class Faulty:
    """A runtime that gets one thing wrong."""

    title = "faulty"

    def __init__(self, runtime, fault):
        self.runtime, self.fault = runtime, fault

    def __call__(self, pictures):
        found = self.runtime(pictures)
        for each in found:
            for name in self.fault:
                each.outputs[name] = self.fault[name](each.outputs[name].copy())
        return found


def with_nan(values):
    values[3, 5] = np.nan
    return values


@pytest.mark.parametrize(
    "fault",
    [
        {"score": lambda score: 1.01 * score},
        {"map": lambda values: 1.01 * values},
        {"map": with_nan},
        {"map": lambda values: np.full_like(values, np.nan)},
        {"score": lambda score: np.full_like(score, np.nan)},
    ],
    ids=["score", "map", "a NaN", "NaN everywhere", "NaN as score"],
)
def test_a_runtime_that_differs_is_told_from_one_that_does_not(exported, fault):
    detector, path = exported("padim_isvd")
    right = runtimes_here(path)[0]
    assert check_probe(read(path), [right])[0].is_close
    assert not check_probe(read(path), [Faulty(right, fault)])[0].is_close
    assert not any(row.is_equal for row in compare(detector, path, [Faulty(right, fault)], ALL_KINDS[:2]))

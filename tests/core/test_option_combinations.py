"""Whatever options are put together: a model that can be saved, or an error before the first picture is learned."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import admodels
from admodels.models import read_folder, write_folder
from tests.conftest import DEVICE, first_step

RATIOS = [(64, 64), (64, 96), (96, 48), (20, 200), (400, 40), (33, 71), (16, 900)]

common = {
    "image_size": st.sampled_from([64, 65, 96, 127]),
    "crop": st.sampled_from([None, 32, 45, 64, 96, 128]),
    "keep_aspect": st.booleans(),
    "precision": st.sampled_from(["float32", "bfloat16"]),
}
layers = st.sampled_from(["4", "8", "16", "8,16", "16,4", "4,8,16"])
training = {
    "max_steps": st.integers(1, 2),
    "max_minutes": st.sampled_from([None, 0.05]),
    "batch_size": st.sampled_from([2, 3, 64]),
    "learning_rate": st.sampled_from([1e-7, 1e-3]),
}
OWN = {
    "fapm": {
        "layers": layers,
        "grid": st.sampled_from([1, 2, 3, 7, 64]),
        "coreset_ratio": st.sampled_from([0.001, 0.1, 0.6, 1.0]),
        "adaptive": st.booleans(),
        "radius_threshold": st.sampled_from(["auto", 0.0, 1e9]),
        "n_neighbors": st.sampled_from([1, 2, 4, 100]),
        "layer_weights": st.sampled_from(["equal", "1", "1,2", "0,1", "1,2,3"]),
        "top_ratio": st.sampled_from([0.0, 0.01, 1.0]),
        "norm_power": st.sampled_from([0.0, 0.5, 1.0]),
        "patch_wise": st.booleans(),
        "layer_wise": st.booleans(),
    },
    "patchcore": {
        "layers": layers,
        "coreset_ratio": st.sampled_from([0.0001, 0.1, 1.0]),
        "n_neighbors": st.sampled_from([1, 2, 9, 100]),
    },
    "padim": {"n_features": st.sampled_from([1, 2, 20, 176, 177, 2000])},
    "padim_isvd": {
        "n_components": st.sampled_from([1, 2, 9, 60, 176, 177]),
        "step": st.sampled_from([1, 2, 8, 64]),
        "solver": st.sampled_from(["auto", "gram", "eigh", "svd"]),
        "incremental": st.booleans(),
        "shrinkage": st.sampled_from([0.0, 0.25, 100.0]),
        "dtype": st.sampled_from(["float32", "float64"]),
    },
    "efficientad": {
        "size": st.sampled_from(["small", "small", "small", "medium"]),
        "max_steps": st.integers(1, 2),
        "max_minutes": st.sampled_from([None, 0.05]),
        "batch_size": st.sampled_from([1, 3, 64]),
        "learning_rate": st.sampled_from([1e-7, 1e-4]),
        "penalty_images": st.sampled_from(["auto", "none", "generated"]),
    },
    "fastflow": training | {"layers": layers, "flow_steps": st.sampled_from([1, 2, 8])},
    "reverse_distillation": training
    | {"layers": layers, "blocks": st.sampled_from([1, 2]), "overlaid": st.sampled_from([0.0, 0.5, 1.0])},
}
tiling = {
    "image_size": st.sampled_from([64, 65, 96, 128]),
    "tile_size": st.sampled_from([32, 33, 48, 64, 128]),
    "stride": st.sampled_from([16, 17, 32, 48, 64, 128]),
    "one_model": st.booleans(),
    "score_merge": st.sampled_from(["mean", "max"]),
    "seam_smoothing": st.booleans(),
    "seam_width_ratio": st.sampled_from([0.0, 0.1, 0.5]),
    "seam_sigma": st.sampled_from([0.1, 2.0, 64.0]),
    "memory_limit_mib": st.sampled_from([None, 16]),
}


def some(options):
    """Any of these options, each with any of its values."""
    return st.fixed_dictionaries({}, optional=options)


@st.composite
def asked(draw):
    """A method and options for it, alone or in an ensemble."""
    method = draw(st.sampled_from(sorted(OWN)))
    always = first_step(method)
    own = always | draw(some(OWN[method]))
    if draw(st.booleans()):
        return method, {"image_size": 64} | draw(some(common)) | own
    of_ensemble = {"image_size": 64, "tile_size": 32, "stride": 32} | draw(some(common | tiling))
    return "tiled", of_ensemble | {"method": method, "member": own}


def pictures(size, n=8):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(n)]


def check(method, options, size, n_folds):
    """What came of it, in words."""
    told, images, refused = [], pictures(size), None
    try:
        detector = admodels.create(method, device=DEVICE, **options)
        detector.fit(images, n_folds=n_folds, on_progress=told.append)
    except admodels.AdmodelsError as error:
        refused = error
    if refused is not None:
        assert told == [], f"learned first, and then: {refused}"
        return f"refused: {type(refused).__name__}"
    with tempfile.TemporaryDirectory() as folder:
        write_folder(detector, Path(folder))
        loaded = read_folder(Path(folder), admodels.DETECTORS, device=DEVICE)
    assert loaded.config == detector.config
    other = np.full((*size, 3), 77, np.uint8)
    for picture in (images[0], other):
        a, b = detector.predict(picture), loaded.predict(picture)
        assert np.isfinite([a.score, a.threshold, a.map_threshold, *a.scale]).all()
        assert a.score == b.score
        assert np.array_equal(a.anomaly_map, b.anomaly_map, equal_nan=True)
        assert np.isfinite(a.anomaly_map).any()
        if detector.working_shape_.cropped == detector.working_shape_.resized:
            assert np.isfinite(a.anomaly_map).all()
    return f"fitted: {method}"


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(asked(), st.sampled_from(RATIOS), st.sampled_from([None, 0, 2]))
def test_a_fitted_model_or_an_error_before_the_work(method_and_options, size, n_folds):
    event(check(*method_and_options, size, n_folds))


@pytest.mark.parametrize("size", RATIOS)
@pytest.mark.parametrize("method", sorted(OWN))
def test_every_aspect_ratio(method, size):
    check(method, {"image_size": 64} | first_step(method), size, 0)

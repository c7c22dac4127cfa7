"""Whatever is public computes within `exact_products`: a host's TF32 reaches no encoder, learner or scorer.

`cpu:0` plays the GPU: what is entered for it is entered as for CUDA, and nothing is for the CPU without a number.
"""

import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import admodels
from admodels.evaluation.timing import benchmark, measure_speed
from admodels.pictures.images import decode, inspect_set
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime import exact
from admodels.tiling import cluster
from tests.conftest import SMALL, first_step

GPU, CUDA = "cpu:0", torch.device("cuda")
WATCHED = ("encode", "learner", "scorer", "cost")
methods = pytest.mark.parametrize("method", sorted(admodels.DETECTORS))


def settings():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture
def seen(monkeypatch):
    """What was called, and with which settings; the host allows TF32 everywhere."""
    monkeypatch.setenv("ADMODELS_ENGINE", "torch")
    original, found = exact.exact_products, []

    def as_on_cuda(device):
        return original(CUDA) if device.index == 0 else nullcontext()

    for module in [m for m in sys.modules.values() if getattr(m, "exact_products", None) is original]:
        monkeypatch.setattr(module, "exact_products", as_on_cuda)

    def watched(name, call):
        def run(*args, **kwargs):
            found.append((name, settings()))
            result = call(*args, **kwargs)
            if name == "learner":
                result.add, result.finish = watched("add", result.add), watched("finish", result.finish)
            return watched("score", result) if name == "scorer" else result

        return run

    for cls in admodels.DETECTORS.values():
        for name in WATCHED:
            monkeypatch.setattr(cls, name, watched(name, getattr(cls, name)))
    before = settings()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield found
    assert settings() == (True, True)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def new(method):
    return admodels.create(method, device=GPU, **(SMALL[method] | first_step(method)))


def prepared(detector, decoded):
    return torch.from_numpy(np.stack([detector.working_shape_.prepare(decoded.pixels)]))


def check(seen, *names):
    """These were called since the last look, each with nothing allowed."""
    assert {settings for _, settings in seen} == {(False, False)}, [name for name, s in seen if s != (False, False)]
    assert {name for name, _ in seen} >= set(names)
    seen.clear()


@methods
def test_fits_updates_and_predictions(method, normals, seen, tmp_path, monkeypatch):
    detector, images = new(method), normals[:8]
    detector.estimate(inspect_set(images))
    check(seen, "encode", "cost")
    for n_folds in (0, 2):
        detector.fit(images, n_folds=n_folds)
        check(seen, "encode", "learner", "add", "finish", "scorer", "score")
    detector.update(images[:4])
    check(seen, "encode", "learner", "add", "finish", "scorer", "score")
    monkeypatch.setenv("ADMODELS_HOME", str(tmp_path))
    admodels.save(detector, "exact")
    loaded = admodels.load("local:exact", device=GPU)
    check(seen, "scorer")
    decoded = decode(images[0])
    pixels = prepared(loaded, decoded)
    for predict in (
        lambda: loaded.predict(images[0]),
        lambda: loaded.predict_batch(images[:2]),
        lambda: list(loaded.predict_stream(images[:2])),
        lambda: loaded.predict_decoded([decoded]),
        lambda: loaded.predict_prepared([loaded.prepare(decoded)]),
        lambda: loaded.score_batch(pixels),
    ):
        predict()
        check(seen, "encode", "score")


def test_what_was_encoded_may_come_from_the_cpu(normals, seen):
    """The scorer brings it to where the learned state is."""
    detector = new("padim").fit(normals[:8], n_folds=0)
    decoded = decode(normals[0])
    with torch.inference_mode():
        encoded = detector.method.encode(prepared(detector, decoded))
    seen.clear()
    detector.predict_encoded([m.to(torch.device("cpu")) for m in encoded], [decoded])
    check(seen, "score")


def test_benchmarks(normals, seen):
    benchmark(new("padim_isvd"), normals[:8], n_rounds=1)
    check(seen, "encode", "add", "finish", "score")
    detector = new("padim_isvd").fit(normals[:8], n_folds=0)
    measure_speed(detector, normals[:1])
    check(seen, "encode", "score")


def test_a_clusters_worker(normals, seen, monkeypatch):
    """Its process has settings of its own."""
    ensemble = new("tiled").method
    shape = ensemble.config.image_size, ensemble.config.image_size
    batch = np.random.default_rng(0).integers(0, 256, (4, *shape, 3), dtype=np.uint8)
    monkeypatch.setattr(cluster, "fetch", lambda batch: batch)
    grid = ensemble.grid(WorkingShape(shape, shape))
    member = ensemble.member
    cluster._learn_tile(0, [batch], type(member), member.config, GPU, 1.0, grid, 4, torch.get_num_threads())
    check(seen, "encode", "learner", "add", "finish")

"""What belongs to the whole process stays as it is, and does not matter: other threads compute meanwhile."""

import queue
import random
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

import admodels
from admodels.efficientad import distill as distilling
from admodels.efficientad.schedule import SCHEDULE
from admodels.efficientad.step import recoloured
from admodels.pictures.images import inspect_set
from admodels.runtime.networks import build_network
from tests.conftest import DEVICE, SMALL, TRAINED


def state():
    return (
        torch.get_rng_state().tolist(),
        repr(np.random.get_state()),
        random.getstate(),
        list(warnings.filters),
        torch.get_default_dtype(),
        np.geterr(),
    )


def fit(method, normals, **options):
    return admodels.create(method, device=DEVICE, **(SMALL[method] | options)).fit(normals)


@pytest.mark.parametrize("method", sorted(admodels.DETECTORS))
def test_a_fit_changes_nothing_that_other_threads_have(method, normals, specks):
    """Looked at by this thread whenever the fit says how far it is, and at its end."""
    fit(method, normals[:8])  # the first one imports what it needs
    before, seen, told, go_on = state(), [], queue.Queue(), threading.Semaphore(0)

    def on_progress(at):
        told.put(at.stage)
        assert go_on.acquire(timeout=60)

    def work():
        detector = admodels.create(method, device=DEVICE, **SMALL[method])
        try:
            detector.estimate(inspect_set(normals))
            detector.fit(normals, on_progress=on_progress)
            return detector.predict(specks.test[0].path).score
        finally:
            told.put(None)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        while told.get(timeout=60) is not None:
            seen.append(state() == before)
            go_on.release()
        assert working.result() > 0
    assert len(seen) > 3
    assert all(seen)
    assert state() == before


@pytest.mark.parametrize("method", sorted(admodels.DETECTORS))
def test_a_fit_does_not_depend_on_the_processs_random_state(method, normals):
    options = {"max_steps": 3} if method in TRAINED else {}
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        found.append(fit(method, normals, **options))
    for name, tensor in found[0].state_.items():
        assert torch.equal(found[1].state_[name], tensor), name


def test_a_long_training_does_not_depend_on_it_either(normals, monkeypatch):
    """Its pictures are recoloured, and pictures of anything are drawn."""
    monkeypatch.setattr("admodels.efficientad.method.SCHEDULE", replace(SCHEDULE, long=2))
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = state()
        found.append(fit("efficientad", normals[:8], max_steps=3))
        assert state() == before
    for name, tensor in found[0].state_.items():
        assert torch.equal(found[1].state_[name], tensor), name


def test_loading_networks_and_models_draws_nothing(fitted, normals):
    admodels.save(fitted, f"drawn-{fitted.key}", overwrite=True)
    before = state()
    admodels.load(f"drawn-{fitted.key}", device=DEVICE).predict(normals[0])
    for name in ("efficientnet_lite0", "resnet18"):
        build_network(name, pretrained=name == "efficientnet_lite0")
    assert state() == before


def test_a_distillation_begins_by_its_seed_alone():
    before = state()
    first, same, other = (distilling._new_network(distilling.Recipe(seed=seed), 24).state_dict() for seed in (1, 1, 2))
    assert state() == before
    for name, tensor in first.items():
        assert torch.equal(same[name], tensor)
        assert not torch.equal(other[name], tensor)


def test_a_new_network_begins_as_pytorch_lets_it():
    from admodels.efficientad.networks import Pdn

    torch.manual_seed(0)
    usual = Pdn("small", 64).state_dict()
    for name, tensor in distilling._new_network(distilling.Recipe(), 64).state_dict().items():
        assert tensor.shape == usual[name].shape
        assert float(tensor.abs().max()) == pytest.approx(float(usual[name].abs().max()), rel=0.1)
        assert float(tensor.std()) == pytest.approx(float(usual[name].std()), rel=0.15)


def test_colours_are_drawn_by_the_given_generator():
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), dtype=np.uint8))
    before = state()
    first, same = (recoloured(pictures, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first, same)
    assert state() == before

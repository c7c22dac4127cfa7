"""What every method does that trains on a backbone's maps."""

import time

import numpy as np
import pytest
import torch

import admodels
from admodels.methods import trained
from admodels.methods.trained import moments
from admodels.training import budget
from tests.conftest import DEVICE, SMALL

METHODS = ("fastflow", "reverse_distillation")
methods = pytest.mark.parametrize("method", METHODS)


def new(method, **options):
    return admodels.create(method, device=DEVICE, **(SMALL[method] | options))


def stopping_at(n):
    """Progress that has seen enough after so many steps."""

    def on_progress(progress):
        if progress.stage == "training" and progress.done >= n and (n == 0 or progress.loss is not None):
            raise admodels.Enough("that will do")

    return on_progress


@methods
@pytest.mark.parametrize("n", [1, 3])
def test_a_training_that_is_stopped_gives_a_calibrated_model(method, n, normals, specks):
    detector = new(method).fit(normals, on_progress=stopping_at(n))
    assert detector.details()["training"] == f"{n} steps"
    assert np.isfinite(detector.predict(specks.test[0].path).anomaly_map).all()
    assert np.isfinite(detector.calibration_.threshold)


@methods
def test_enough_before_the_first_step_is_a_cancellation(method, normals):
    detector = new(method)
    with pytest.raises(admodels.Cancelled, match="nothing was learned yet"):
        detector.fit(normals, on_progress=stopping_at(0))
    assert not detector.is_fitted


@methods
def test_a_training_ends_with_its_minutes(method, normals):
    started = time.perf_counter()
    detector = new(method, max_steps=None, max_minutes=0.05).fit(normals)
    assert int(detector.state_["n_steps"]) >= 1
    assert time.perf_counter() - started < 60


@methods
def test_minutes_that_are_over_still_give_a_model(method, normals, monkeypatch):
    monkeypatch.setattr(budget.Budget, "end", lambda *_, **__: budget.End(time.perf_counter() - 1))
    assert new(method, max_steps=None).fit(normals).details()["training"] == "1 steps"


@methods
def test_the_rate_is_raised_and_falls_to_nothing_unless_the_training_is_a_long_one(method, normals, monkeypatch):
    rates, original = [], trained.do_step

    def do_step(method, network, optimizer, maps):
        rates.append(optimizer.param_groups[0]["lr"])
        return original(method, network, optimizer, maps)

    monkeypatch.setattr(trained, "do_step", do_step)
    new(method, max_steps=30, learning_rate=1e-3).fit(normals)
    assert rates[0] < max(rates)
    assert rates[-1] < 0.02 * max(rates)
    rates.clear()
    detector = new(method, max_steps=4, learning_rate=1e-3)
    monkeypatch.setattr(type(detector.method), "schedule", budget.Schedule(4, 5.0, long=4, short_steps=4))
    detector.fit(normals)
    assert rates == [1e-3] * 4


@methods
def test_a_training_that_diverges_says_so_and_changes_nothing(method, normals, monkeypatch):
    monkeypatch.setattr(trained, "do_step", lambda *_: torch.tensor(float("nan")))
    detector = new(method)
    with pytest.raises(admodels.TrainingError, match=r"diverged at step 1 .*Lower learning_rate"):
        detector.fit(normals)
    assert not detector.is_fitted


@methods
def test_the_last_weights_are_averaged(method, normals, monkeypatch):
    """Of the last quarter of the steps: as if they had been written down and averaged afterwards."""
    seen, original = [], trained.do_step

    def do_step(method, network, *others):
        loss = original(method, network, *others)
        seen.append({name: p.detach().clone() for name, p in network.named_parameters()})
        return loss

    monkeypatch.setattr(trained, "do_step", do_step)
    detector = new(method, max_steps=8).fit(normals)
    for name in seen[0]:
        expected = torch.stack([weights[name] for weights in seen[6:]]).mean(0)
        torch.testing.assert_close(detector.state_[f"network.{name}"].float(), expected, rtol=1e-3, atol=1e-4)


@methods
def test_more_steps_go_on_where_it_stood(method, normals):
    detector = new(method, max_steps=4).fit(normals)
    before = {name: tensor.clone() for name, tensor in detector.state_.items()}
    other = detector.method.learner(detector.working_shape_, 1, detector.state_)
    picture = torch.zeros(1, *detector.working_shape_.cropped, 3, dtype=torch.uint8)
    with torch.inference_mode():
        other.add(detector.method.encode(picture))
        state = other.finish()
    assert int(state["n_steps"]) == 8
    assert all(torch.equal(detector.state_[name], tensor) for name, tensor in before.items())


@methods
def test_of_more_pictures_than_fit_in_memory_some_are_chosen(method, monkeypatch):
    detector = new(method)
    shape = admodels.pictures.working_shape.WorkingShape((64, 64), (64, 64))
    n_numbers = detector.method.n_numbers(shape)
    monkeypatch.setattr(trained, "keepable_bytes", lambda device: 2 * 5 * n_numbers)
    learner = detector.method.learner(shape, 20)
    encoded = [torch.zeros(1)] * 5
    for first in range(0, 20, 4):
        for i, size in zip(detector.method._indices, detector.method.map_sizes(shape), strict=True):
            encoded[i] = torch.arange(first, first + 4).view(4, 1, 1, 1).expand(4, *size).float()
        learner.add(encoded)
    chosen = learner._maps[0][:, 0, 0, 0].tolist()
    assert len(chosen) == 5
    assert chosen == sorted(set(chosen))
    assert max(chosen) > 5
    more, less = (detector.method.cost(shape, n).learner_bytes for n in (50, 40))
    assert more == less


def test_moments_are_those_of_all_pictures():
    generator = torch.Generator().manual_seed(0)
    maps = (torch.randn(37, 3, 4, 5, generator=generator) + 2).half()
    found = moments(maps)
    assert found.n == 37
    torch.testing.assert_close(found.mean, maps.float().mean(0))
    torch.testing.assert_close(found.variance, maps.float().var(0, correction=0))


@methods
def test_no_picture_is_taken_twice_before_all_were(method, normals, monkeypatch):
    seen, original = [], trained.TrainedLearner._batch
    monkeypatch.setattr(
        trained.TrainedLearner, "_batch", lambda self, chosen: seen.append(list(chosen)) or original(self, chosen)
    )
    new(method, max_steps=9, batch_size=4).fit(normals)
    n = len(normals) - 5
    taken = [i for batch in seen for i in batch]
    assert all(len(batch) == 4 for batch in seen)
    assert sorted(taken[:n]) == list(range(n))

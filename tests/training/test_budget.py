"""How many steps a training has, and when it ends."""

from types import SimpleNamespace

import pytest
import torch

from admodels.training import budget as budget_module
from admodels.training import loop as loop_module
from admodels.training.budget import Budget, Schedule, Seconds
from admodels.training.loop import train


def budget(schedule, *, step=1e-4, teacher=0.0, score=0.0, **asked):
    asked = {"max_steps": None, "max_minutes": None, "on_cuda": False} | asked
    seconds = Seconds(step, teacher, score)
    return Budget(schedule, batch_size=8, time_share=1.0, key=object(), measure=lambda long: seconds, **asked)


BY_EPOCHS = Schedule(
    cuda_steps=3_000, cpu_minutes=5.0, long=3_000, short_steps=200, short_epochs=50, long_costs_more=False
)


@pytest.mark.parametrize(
    ("n_images", "expected"), [(1, 200), (32, 200), (33, 207), (36, 225), (200, 1_250), (795, 2_999), (10_000, 2_999)]
)
def test_a_short_training_passes_over_many_pictures_as_often_as_over_few(n_images, expected):
    # 5 minutes of 0.1 s are 3,000 steps; a little less, so that the training is a short one.
    made = budget(BY_EPOCHS, step=0.10003)
    assert not made.is_long(n_images)
    assert made.n_steps(n_images) == expected


def test_epochs_end_with_the_time():
    assert budget(BY_EPOCHS, step=1.0).n_steps(200) == 300
    assert budget(BY_EPOCHS, step=1.0, max_minutes=1).n_steps(200) == 60


def test_what_is_asked_for_and_the_papers_steps_do_not_depend_on_the_pictures():
    for n_images in (1, 100, 10_000):
        assert budget(BY_EPOCHS, max_steps=7).n_steps(n_images) == 7
        assert budget(BY_EPOCHS, on_cuda=True).n_steps(n_images) == 3_000
        assert budget(BY_EPOCHS).steps_limit(True, n_images) is None  # the time alone ends it
        by_steps = Schedule(cuda_steps=3_000, cpu_minutes=5.0, long=3_000, short_steps=200)
        assert budget(by_steps, step=0.2).n_steps(n_images) == 200


SOME_STEPS = Schedule(cuda_steps=9_000, cpu_minutes=5.0, long=9_000, short_steps=9_000)


@pytest.fixture
def now(monkeypatch):
    """Time that passes where a test says so."""
    now = SimpleNamespace(seconds=0.0)
    now.perf_counter = lambda: now.seconds
    for module in (budget_module, loop_module):
        monkeypatch.setattr(module, "time", now)
    return now


# 12 s that are left for what follows: 200 of 800 pictures scored, 0.06 s each.
@pytest.mark.parametrize(("slowness", "ends_at"), [(0.5, 288), (1.0, 288), (2.0, 276), (4.0, 252), (100.0, 75)])
def test_beside_other_work_what_follows_is_given_more_time(now, slowness, ends_at):
    made = budget(SOME_STEPS, step=0.1, teacher=0.01, score=0.06)
    parts, n_described = [], 0

    def step(part):
        nonlocal n_described
        parts.append(part)
        new = min(8, 800 - n_described)  # the teacher sees each picture once
        n_described += new
        now.seconds += slowness * (0.1 + 0.01 * new)
        return torch.tensor(1.0)

    device = torch.device("cpu")
    end = made.end(0.0, 800, long=False)
    train(step, end=end, max_steps=None, device=device, on_step=None, learning_rate=1.0)
    assert now.seconds == pytest.approx(ends_at, abs=slowness * 0.2)
    assert parts == sorted(parts)


def test_a_schedule_does_not_turn_back_when_other_work_ends(now):
    made = budget(SOME_STEPS, step=0.1, score=0.2)
    parts = []

    def step(part):
        parts.append(part)
        now.seconds += 2.0 if 200 < len(parts) < 230 else 0.1
        return torch.tensor(1.0)

    device, end = torch.device("cpu"), made.end(0.0, 800, long=False)
    train(step, end=end, max_steps=None, device=device, on_step=None, learning_rate=1.0)
    assert parts == sorted(parts)
    assert end.at - 40 < now.seconds < end.at  # 200 pictures of 0.2 s, and steps that took 1.4 times as long

"""How many steps a training has."""

import pytest

from admodels.training.budget import Budget, Schedule, Seconds


def budget(schedule, *, step=1e-4, **asked):
    asked = {"max_steps": None, "max_minutes": None, "on_cuda": False} | asked
    return Budget(
        schedule, batch_size=8, time_share=1.0, key=object(), measure=lambda long: Seconds(step, 0.0, 0.0), **asked
    )


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

"""What is timed is what is said to be timed; how long it takes is asserted nowhere."""

import time

import pytest
import torch

from admodels import timing
from admodels.timing import measure_speed


def test_stages_and_modes_cover_what_they_name(isvd, specks, monkeypatch):
    """Slow down one part at a time: it must show in its stage, and in the modes that contain it."""
    monkeypatch.setattr(timing, "MIN_SECONDS", 0)
    pause = 0.05
    parts = {
        "decode": (timing, "decode", False),
        "forward": (isvd, "encode", True),
        "post-process": (isvd, "score", True),
        "render": (timing, "overlay", False),
    }
    for stage, (owner, name, in_network) in parts.items():
        original = getattr(owner, name)

        def slow(*arguments, original=original):
            time.sleep(pause)
            return original(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, slow)
            speed = measure_speed(isvd, [specks.test[0].path])
        assert speed.stages[stage].p50 >= pause
        assert max(speed.stages, key=lambda key: speed.stages[key].p50) == stage
        assert (speed.network.p50 >= pause) == in_network
        assert speed.end_to_end.p50 >= pause


def test_enough_repetitions_and_all_conditions(isvd, specks, monkeypatch):
    monkeypatch.setattr(timing, "MIN_SECONDS", 0.05)
    speed = measure_speed(isvd, [item.path for item in specks.test[:4]])
    assert 10 <= speed.n_repeats <= 50
    assert speed.batch_size == 4
    precision = str(isvd.dtype).removeprefix("torch.")
    for expected in ("CPU", precision, "batch 4", "64×64 px", f"torch {torch.__version__}"):
        assert expected in speed.conditions
    assert speed.fps(speed.network) == pytest.approx(4 / speed.network.p50)
    for quantiles in (speed.network, speed.end_to_end, *speed.stages.values()):
        assert 0 < quantiles.p50 <= quantiles.p95

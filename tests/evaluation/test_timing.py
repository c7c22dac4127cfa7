"""What is timed is what is said to be timed; how long it takes is asserted nowhere."""

from types import SimpleNamespace

import pytest
import torch

from admodels.evaluation import timing
from admodels.evaluation.timing import measure_speed
from admodels.runtime import device


def test_stages_and_modes_cover_what_they_name(isvd, specks, monkeypatch):
    """Slow down one part at a time: it must show in its stage, in the modes that contain it, and nowhere else.

    By a clock that stands still but for that part.
    """
    monkeypatch.setattr(timing, "MIN_SECONDS", 0)
    pause, now = 0.05, [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(device, "time", clock)
    parts = {
        "decode": (isvd, "read", False),
        "forward": (isvd.method, "encode", True),
        "post-process": (type(isvd.fitted_.scorer), "__call__", True),
        "render": (timing, "overlay", False),
    }
    for stage, (owner, name, in_network) in parts.items():
        original = getattr(owner, name)

        def slow(*arguments, original=original):
            now[0] += pause
            return original(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, slow)
            speed = measure_speed(isvd, [specks.test[0].path])
        for name_of, seconds in speed.stages.items():
            assert seconds.p50 == pytest.approx(pause if name_of == stage else 0, abs=1e-9)
        assert speed.network.p50 == pytest.approx(pause if in_network else 0, abs=1e-9)
        assert speed.end_to_end.p50 == pytest.approx(pause, abs=1e-9)


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

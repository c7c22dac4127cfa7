"""What keeps PyTorch's threads from taking the cores while they wait."""

import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

import admodels
from admodels.runtime.finite import are_finite
from admodels.runtime.one_thread import one_thread

ROOT = Path(__file__).resolve().parents[2]
# Says what the variable is when PyTorch is imported, which reads it then.
SPY = """
import os, sys

class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))

sys.meta_path.insert(0, Spy())
import {module}
"""


@pytest.mark.parametrize("module", ["admodels", "admodels.cli.main", "demo.app"])
@pytest.mark.parametrize("asked", [None, "77"])
def test_threads_wait_in_a_short_loop_unless_the_user_says_otherwise(module, asked):
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {"GOMP_SPINCOUNT": asked} if asked else {}
    done = subprocess.run(
        [sys.executable, "-c", SPY.format(module=module)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == (asked or "3000")


@given(
    values=st.lists(st.sampled_from([0.0, 1.5, -2.0, 3e38, -3e38, float("inf"), float("-inf"), float("nan")])),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    channels_last=st.booleans(),
)
def test_finite_is_what_pytorch_calls_so(values, dtype, channels_last):
    numbers = torch.zeros(2, 3, 4, 5, dtype=dtype)
    numbers.view(-1)[: len(values[:120])] = torch.tensor(values[:120], dtype=torch.float64).to(dtype)
    if channels_last:
        numbers = numbers.contiguous(memory_format=torch.channels_last)
    others = torch.ones(3)
    assert are_finite(others, numbers) == bool(numbers.isfinite().all())
    assert are_finite(numbers[:, :0], others)


def test_one_thread_is_for_who_asks_and_ends():
    torch.set_num_threads(3)
    seen = []

    def look() -> None:
        seen.append(torch.get_num_threads())

    with one_thread():
        assert torch.get_num_threads() == 1
        other = threading.Thread(target=look)
        other.start()
        other.join()
    assert torch.get_num_threads() == 3
    assert seen == [3]
    with pytest.raises(ValueError, match="as it was"), one_thread():
        raise ValueError("as it was")
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("method", "n_threads"), [("fapm", 1), ("fastflow", 2)])
def test_one_picture_is_scored_by_one_thread_where_the_model_is_small(method, n_threads, monkeypatch):
    """And several, or a trained network, by all of them; the scores are the same."""
    torch.set_num_threads(2)
    rng = np.random.default_rng(0)
    *good, first, second = (rng.integers(90, 120, (64, 64, 3), dtype=np.uint8) for _ in range(8))
    options = {"max_steps": 2} if method == "fastflow" else {}
    detector = admodels.create(method, device="cpu", image_size=64, **options).fit(good)
    seen, scorer = [], detector.fitted_.scorer

    def spy(encoded):
        seen.append(torch.get_num_threads())
        return scorer(encoded)

    monkeypatch.setattr(detector, "_fitted", dataclasses.replace(detector.fitted_, scorer=spy))
    alone = detector.predict(first)
    together = detector.predict_batch([first, second])
    prepared = torch.tensor(detector.working_shape_.prepare(first))[None]
    detector.score_batch(prepared)  # what is timed is what is done
    detector.score_batch(prepared.expand(2, -1, -1, -1).contiguous())
    assert seen == [n_threads, 2, n_threads, 2]
    assert together[0].score == pytest.approx(alone.score, rel=1e-4)
    assert torch.get_num_threads() == 2

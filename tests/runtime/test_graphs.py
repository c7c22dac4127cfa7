"""A recorded computation gives what the computation gives, or is not used."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from admodels.runtime import graphs
from admodels.runtime.graphs import MAX_SHAPES, Graphed
from tests.conftest import DEVICE

IS_CUDA = DEVICE.startswith("cuda")


class Recorder:
    """Stands for CUDA where there is none: a replay runs the computation into the tensors that it gave first."""

    def __init__(self):
        self.n_recorded = self.n_replayed = 0
        self.change = lambda tensor: tensor

    def __call__(self, run, device):
        self.n_recorded += 1
        found = [tensor.clone() for tensor in run()]

        def replay():
            self.n_replayed += 1
            for tensor, new in zip(found, run(), strict=True):
                tensor.copy_(self.change(new))

        return found, replay


@pytest.fixture
def recorder(monkeypatch):
    made = Recorder()
    if not IS_CUDA:
        monkeypatch.setattr(graphs, "recorded", made)
    return made


def two(x):
    return [x.float() * 2, x.float().sum(1)]


def numbers(n, seed=0):
    return torch.rand(n, 5, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("in_inference", [(True, True), (True, False), (False, True)])
def test_a_replay_gives_what_the_computation_gives(recorder, in_inference):
    graphed, kept = Graphed(two), []
    for i in range(6):
        x = numbers(1 + i % 2, seed=i)
        with torch.inference_mode(in_inference[min(i, 1)]):
            kept.append((graphed(x), two(x)))
    for found, expected in kept:  # what came first is not written over by what comes later
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
    assert IS_CUDA or (recorder.n_recorded, recorder.n_replayed) == (2, 6 + 2)  # each is compared once


def test_threads_do_not_get_each_others_results(recorder):
    graphed, start = Graphed(two), threading.Barrier(8)

    def ask(i):
        start.wait(60)
        return [graphed(numbers(1, seed=100 * i + j))[0] for j in range(20)]

    with ThreadPoolExecutor(8) as pool:
        for i, found in enumerate(pool.map(ask, range(8))):
            for j, tensor in enumerate(found):
                torch.testing.assert_close(tensor, numbers(1, seed=100 * i + j) * 2)


def test_more_shapes_than_there_is_memory_for_are_computed(recorder):
    graphed = Graphed(two)
    for n in range(1, MAX_SHAPES + 3):
        torch.testing.assert_close(graphed(numbers(n))[0], numbers(n) * 2)
    assert IS_CUDA or recorder.n_recorded == MAX_SHAPES


def test_a_graph_that_gives_something_else_is_not_used(recorder, monkeypatch, caplog):
    recorder.change = lambda tensor: tensor + 1
    monkeypatch.setattr(graphs, "recorded", recorder)
    graphed = Graphed(two)
    for seed in range(3):
        torch.testing.assert_close(graphed(numbers(1, seed))[0], numbers(1, seed) * 2)
    assert recorder.n_recorded == 1
    assert "gives something else" in caplog.text


def test_what_a_graph_cannot_hold_is_computed(monkeypatch, caplog):
    def refuse(run, device):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "recorded", refuse)
    graphed = Graphed(two)
    for seed in range(2):
        torch.testing.assert_close(graphed(numbers(1, seed))[0], numbers(1, seed) * 2)
    assert caplog.text.count("not permitted") == 1


def test_a_setting_leaves_them_out(recorder, monkeypatch):
    monkeypatch.setenv("ADMODELS_CUDA_GRAPHS", "0")
    monkeypatch.setattr(graphs, "recorded", lambda *_: pytest.fail("recorded all the same"))
    torch.testing.assert_close(Graphed(two)(numbers(1))[0], numbers(1) * 2)

"""Decompositions against NumPy's, and how a GPU's are chosen by measuring: here on a CPU, with given times."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from admodels.errors import TrainingError
from admodels.methods import eigen
from admodels.methods.eigen import RESIDUAL_RATIO, chosen, eigh, exact, leading, quickest, ways
from tests.conftest import DEVICE

CUDA = torch.device("cuda")
N = 48
SPECTRA = {
    "falling": np.logspace(0, -4, N),
    "all equal": np.ones(N),
    "equal where they are cut off": np.repeat([9.0, 4.0, 1.0], [2, 12, N - 14]),
    "in pairs": np.repeat(np.logspace(0, -2, N // 2), 2),
    "of low rank": np.where(np.arange(N) < 5, 3.0, 0.0),
    "nothing": np.zeros(N),
}


@pytest.fixture
def fresh():
    quickest.cache_clear()
    yield
    quickest.cache_clear()


def matrices(eigenvalues, dtype, n=6):
    turns = np.linalg.qr(np.random.default_rng(0).normal(size=(n, N, N)))[0]
    return torch.from_numpy((turns * eigenvalues) @ turns.transpose(0, 2, 1)).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("k", [None, 3, 10])
def test_every_way_finds_what_numpy_finds(k, spectrum, dtype, fresh):
    """Eigenvalues, and a space that holds as much; where some are equal, which vectors span it is left open."""
    g = matrices(SPECTRA[spectrum], dtype)
    precise = g.cpu().double().numpy()
    expected = np.linalg.eigh(precise)[0][:, -(k or N) :]
    largest = SPECTRA[spectrum].max()
    rounding = 100 * N * torch.finfo(dtype).eps * largest
    ratio = 0.0 if k is None else RESIDUAL_RATIO
    for way in ways(N, k, dtype):
        values, vectors = (found.cpu().double().numpy() for found in way(g))
        assert (np.diff(values, axis=1) >= -rounding).all()
        # The error of an eigenvalue is of second order in the residual.
        np.testing.assert_allclose(values, expected, rtol=4 * ratio**2, atol=rounding)
        held = np.trace(vectors.transpose(0, 2, 1) @ precise @ vectors, axis1=1, axis2=2)
        np.testing.assert_allclose(held, expected.sum(1), rtol=4 * ratio**2, atol=(k or N) * rounding)
        between = vectors.transpose(0, 2, 1) @ vectors - np.eye(k or N)
        assert np.abs(between).max() < (1e-2 if ratio else 1e-4)
        residuals = np.linalg.norm(precise @ vectors - vectors * values[:, None], axis=1)
        assert (residuals <= ratio * values + rounding).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_the_spectrum_has_a_gap_every_way_finds_the_same_space(dtype, fresh):
    k = 5
    g = matrices(np.concatenate([[9, 8, 8, 8, 7], np.linspace(1, 0.1, N - k)]), dtype)
    v = np.linalg.eigh(g.cpu().double().numpy())[1][..., -k:]
    for way in ways(N, k, dtype):
        found = way(g)[1].cpu().double().numpy()
        np.testing.assert_allclose(found @ found.transpose(0, 2, 1), v @ v.transpose(0, 2, 1), atol=1e-4)


def test_a_search_is_measured_in_single_precision_too_where_it_can_be_one():
    assert len(ways(N, 5, torch.float32)) == 3  # all of them, on the CPU, searched for
    assert len(ways(N, 5, torch.float64)) == 4
    assert len(ways(N, N - 1, torch.float64)) == len(ways(N, None, torch.float64)) == 2


def test_the_quickest_that_is_right_is_taken():
    probe = matrices(SPECTRA["falling"], torch.float32)

    def slow(g):
        return torch.linalg.eigh(g)

    def quick(g):
        return torch.linalg.eigh(g)

    def wrong(g):
        values, vectors = torch.linalg.eigh(g)
        return values, vectors.roll(1, 2)

    def not_a_number(g):
        return tuple(torch.full_like(x, float("nan")) for x in torch.linalg.eigh(g))

    def refused(g):
        raise RuntimeError("CUSOLVER_STATUS_INVALID_VALUE")

    def failing(g):
        raise TrainingError("cannot be decomposed")

    clocked = iter([3.0, 2.0])  # only what is right is timed
    devices = []

    def seconds(run, device):
        run()
        devices.append(device)
        return next(clocked)

    assert chosen([slow, quick, wrong, not_a_number, refused, failing], probe, 0.0, seconds) is quick
    assert devices == [probe.device] * 2
    assert chosen([wrong, refused], probe, 0.0, seconds) is wrong  # what is there says what fails


def test_residuals_up_to_the_ratio_pass_only_where_that_is_enough():
    probe = matrices(SPECTRA["falling"], torch.float64)

    def about(g):
        values, vectors = torch.linalg.eigh(g)
        return values * (1 + RESIDUAL_RATIO / 2), vectors

    for ratio, expected in ((RESIDUAL_RATIO, about), (0.0, torch.linalg.eigh)):
        clocked = iter([2.0, 1.0])
        assert chosen([torch.linalg.eigh, about], probe, ratio, lambda *_, clocked=clocked: next(clocked)) is expected


def test_a_size_is_measured_once(monkeypatch, fresh):
    asked = []

    def choose(candidates, probe, residual_ratio, clock):
        asked.append((len(candidates), tuple(probe.shape[1:]), probe.dtype, residual_ratio))
        return candidates[-1]

    monkeypatch.setattr(eigen, "chosen", choose)
    for _ in range(2):
        quickest("cpu", 9, None, torch.float64)
        quickest("cpu", 9, None, torch.float32)
        quickest("cpu", 40, 4, torch.float64)
    assert asked == [
        (2, (9, 9), torch.float64, 0.0),
        (2, (9, 9), torch.float32, 0.0),
        (4, (40, 40), torch.float64, RESIDUAL_RATIO),
    ]


@pytest.mark.parametrize("k", [None, 4])
def test_measuring_ends_with_a_way_that_is_right(k, fresh):
    g = matrices(SPECTRA["falling"], torch.float64)
    values, _ = quickest(DEVICE, N, k, torch.float64)(g)
    np.testing.assert_allclose(values.cpu(), np.linalg.eigh(g.cpu().numpy())[0][:, -(k or N) :], rtol=4e-3)


def test_large_matrices_are_measured_few_at_a_time(monkeypatch, fresh):
    sizes = []
    monkeypatch.setattr(eigen, "chosen", lambda candidates, probe, *_: sizes.append(len(probe)))
    for n in (8, 1000):
        quickest("cpu", n, None, torch.float32)
    assert sizes == [eigen.N_MEASURED, 4]


def test_on_a_cpu_nothing_is_measured_and_elsewhere_what_was_measured_is_done(monkeypatch):
    asked = []

    def measured(*size):
        asked.append(size)
        return lambda matrices: ("found", matrices)

    monkeypatch.setattr(eigen, "quickest", measured)
    g = matrices(SPECTRA["falling"], torch.float64).cpu()
    exact(g), leading(g, 3), eigh(g)
    assert asked == []
    elsewhere = SimpleNamespace(device=CUDA, shape=(6, N, N), dtype=torch.float64)
    assert exact(elsewhere) == ("found", elsewhere)
    assert leading(elsewhere, 3) == ("found", elsewhere)
    assert asked == [("cuda", N, None, torch.float64), ("cuda", N, 3, torch.float64)]

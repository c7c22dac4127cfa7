"""The lazy, batched selection against the greedy rule done literally."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from admodels import Cancelled, TrainingError
from admodels.methods import coreset
from admodels.methods.coreset import estimate_seconds, greedy_k_centre
from tests.conftest import DEVICE
from tests.methods import reference


def vectors(n_patches, n, length, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_patches, 5, length)) * 4
    spread = rng.normal(size=(n_patches, n, length))
    return (centres[:, rng.integers(0, 5, n)] + spread).astype(np.float32)


def check(x, n_keys):
    found = greedy_k_centre(torch.from_numpy(x).to(DEVICE), n_keys)
    for p, patch in enumerate(x.astype(np.float64)):
        expected = reference.greedy_k_centre(patch, n_keys)
        assert found.indices[p].tolist() == expected.tolist()
        distances = np.linalg.norm(patch[:, None] - patch[expected][None], axis=2).min(1)
        assert found.radii[p].item() == pytest.approx(distances.max(), rel=1e-3, abs=2e-2)


@pytest.mark.parametrize(("n_patches", "n", "length", "n_keys"), [(4, 300, 6, 60), (1, 900, 16, 90), (3, 20, 2, 20)])
def test_it_is_the_greedy_rule(n_patches, n, length, n_keys):
    check(vectors(n_patches, n, length), n_keys)


@pytest.mark.parametrize(("n_candidates", "n_steps"), [(2, 1), (8, 4), (40, 16)])
def test_it_is_the_greedy_rule_with_few_candidates(monkeypatch, n_candidates, n_steps):
    """So few that all distances are brought up to date again and again, in several blocks."""
    monkeypatch.setattr(coreset, "MIN_CANDIDATES", n_candidates)
    monkeypatch.setattr(coreset, "CPU_CANDIDATE_ELEMENTS", 1)
    monkeypatch.setattr(coreset, "STEPS_PER_CHECK", n_steps)
    monkeypatch.setattr(coreset, "BLOCK_ELEMENTS", 500)
    check(vectors(5, 400, 8), 80)


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 60), st.integers(1, 9), st.integers(0, 10**6), st.data())
def test_any_size(n_patches, n, length, seed, data):
    check(vectors(n_patches, n, length, seed), data.draw(st.integers(1, min(n, 10))))


def test_a_larger_selection_begins_with_the_smaller_one():
    x = torch.from_numpy(vectors(3, 200, 8)).to(DEVICE)
    assert torch.equal(greedy_k_centre(x, 50).indices[:, :20], greedy_k_centre(x, 20).indices)


def test_copies_are_no_further_keys_until_nothing_else_is_left():
    x = torch.from_numpy(vectors(2, 30, 4)).to(DEVICE).repeat(1, 3, 1)
    found = greedy_k_centre(x, 30)
    assert all(len(set((row % 30).tolist())) == 30 for row in found.indices)
    same = greedy_k_centre(torch.ones(1, 10, 3, device=DEVICE), 4)
    assert same.radii.item() == pytest.approx(0, abs=1e-3)


def test_progress_is_told_and_can_stop_it(monkeypatch):
    monkeypatch.setattr(coreset, "CPU_CANDIDATE_ELEMENTS", 1)
    seen = []
    greedy_k_centre(torch.from_numpy(vectors(2, 3000, 6)).to(DEVICE), 600, on_pick=lambda *at: seen.append(at))
    assert seen[-1] == (600, 600)
    assert len(seen) > 3
    assert seen == sorted(seen)

    def stop(done, total):
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        greedy_k_centre(torch.from_numpy(vectors(2, 3000, 6)).to(DEVICE), 600, on_pick=stop)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_vectors_without_distances_are_refused_and_do_not_run_forever(value):
    x = torch.from_numpy(vectors(2, 300, 4)).to(DEVICE)
    x[1, 7, 2] = value
    with pytest.raises(TrainingError, match="not finite"):
        greedy_k_centre(x, 40)


def test_the_estimate_grows_with_the_work():
    device = torch.device(DEVICE)
    assert 0 < estimate_seconds(4, 500, 8, 10, device) < estimate_seconds(4, 50_000, 64, 10_000, device)


def test_going_on_from_kept_vectors_is_the_longer_selection():
    """The first 8 picks kept, 12 more picked: as 20 at once; the radius is over all."""
    vectors = torch.randn(3, 200, 6, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    whole = greedy_k_centre(vectors, 20)
    kept = vectors.gather(1, whole.indices[:, :8, None].expand(-1, -1, 6))
    more = greedy_k_centre(vectors, 12, kept=kept)
    assert torch.equal(more.indices, whole.indices[:, 8:])
    torch.testing.assert_close(more.radii, whole.radii)

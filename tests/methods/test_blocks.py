"""What is computed block by block does not depend on the blocks; on a GPU they are as large as its memory allows.

The tensors lie on a CPU, and the sizes of the blocks are those of a GPU with little or much free memory.
"""

import pytest
import torch

from admodels.methods import coreset, eigen, neighbours
from admodels.methods.coreset import greedy_k_centre
from admodels.methods.eigen import eigh
from admodels.methods.neighbours import nearest_distances, searchable
from admodels.methods.padim import PadimLearner
from admodels.methods.padim_isvd import IncrementalPca, OneShotPca, PadimIsvdConfig, SummedPca
from admodels.runtime import memory
from tests.conftest import DEVICE

HERE, CUDA = torch.device(DEVICE), torch.device("cuda")
FREE = (0, 2**20, 2**34)


@pytest.fixture(autouse=True)
def several_threads():
    """On a CPU, some blocks are computed side by side."""
    torch.set_num_threads(3)


@pytest.fixture
def on_a_gpu(monkeypatch):
    """With so much free, blocks are a GPU's from now on; what each is asked for: rows, bytes and the rows given."""

    def become(n_free):
        asked = []

        def rows(n, row_bytes, device, *sizes):
            given = memory.rows_at_once(n, row_bytes, CUDA, *sizes)
            asked.append((n, row_bytes, given))
            return given

        monkeypatch.setattr(memory, "free_bytes", lambda device: n_free)
        for module in (coreset, eigen, neighbours):
            monkeypatch.setattr(module, "rows_at_once", rows)
        return asked

    return become


def noise(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(0)).to(HERE)


@pytest.mark.parametrize("n_free", FREE)
def test_nearest_distances(n_free, on_a_gpu, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", 3 * 50 * 7)
    queries, keys = noise(3, 1000, 8), searchable(noise(3, 50, 8))
    expected = nearest_distances(queries, keys)
    asked = on_a_gpu(n_free)
    torch.testing.assert_close(nearest_distances(queries, keys), expected)
    assert asked == [(1000, 3 * 50 * 4, max(7, min(2**30, n_free // 8) // (3 * 50 * 4)))]


@pytest.mark.parametrize("n_free", FREE)
def test_the_coreset(n_free, on_a_gpu, monkeypatch):
    monkeypatch.setattr(coreset, "BLOCK_ELEMENTS", 500)
    monkeypatch.setattr(coreset, "CPU_CANDIDATE_ELEMENTS", 1)
    monkeypatch.setattr(coreset, "MIN_CANDIDATES", 20)
    vectors = noise(3, 2000, 16)
    expected = greedy_k_centre(vectors, 100)
    asked = on_a_gpu(n_free)
    found = greedy_k_centre(vectors, 100)
    assert torch.equal(found.indices, expected.indices)
    torch.testing.assert_close(found.radii, expected.radii)
    room = n_free // 8
    for _, row_bytes, given in asked:
        assert row_bytes % 12 == 0  # of all three patches, in single precision
        assert given * row_bytes <= room or given <= 500 // 3


def test_candidates_are_bounded_where_there_is_more_memory_than_they_need(on_a_gpu):
    vectors = torch.empty(1, 10**6, 64, device="meta")
    selection = object.__new__(coreset._Selection)
    selection.vectors, selection.squared, selection.norms = vectors, vectors[..., 0], vectors[..., 0]
    selection.rows = torch.empty(1, device="meta")
    asked = on_a_gpu(2**34)
    selection.choose_candidates()
    assert selection.near.nbytes == coreset.GPU_CANDIDATE_BYTES
    assert len(asked) == 1


LEARNERS = {
    "padim": lambda: PadimLearner(torch.arange(12), 0.3, HERE),
    "summed": lambda: SummedPca(PadimIsvdConfig(n_components=4), HERE),
    "incremental": lambda: IncrementalPca(PadimIsvdConfig(n_components=4, step=8), HERE),
    "in one go": lambda: OneShotPca(PadimIsvdConfig(n_components=4, solver="eigh"), HERE),
}


@pytest.mark.parametrize("n_images", [20, 100])
@pytest.mark.parametrize("learner", LEARNERS)
def test_what_is_learned_at_each_position(learner, n_images, on_a_gpu):
    def learned():
        made = LEARNERS[learner]()
        made.add_vectors(noise(n_images, 300, 12) + 1)
        return made.finish()

    def distances(state):
        x = noise(5, 300, 12)
        if "whitening" in state:
            return torch.einsum("pij,npj->npi", state["whitening"], x - state["mean"]).norm(dim=2)
        return torch.einsum("pkm,npm->npk", state["projection"], x - state["mean"]).norm(dim=2)

    expected = learned()
    for n_free in FREE:
        asked = on_a_gpu(n_free)
        found = learned()
        # Which way an eigenvector points is left open.
        torch.testing.assert_close(distances(found), distances(expected), rtol=1e-4, atol=1e-4)
        assert asked
        for n, row_bytes, given in asked:
            assert n == 300
            assert row_bytes >= eigen.N_COPIES * 12 * 12 * 4 or learner != "padim"
            assert given * row_bytes <= min(2**30, n_free // 8) or given <= -(-300 // torch.get_num_threads())


def test_matrices_of_any_block_have_the_same_eigenvalues(on_a_gpu):
    """Up to rounding: where in memory a matrix begins decides in which order some libraries add up."""
    x = noise(70, 9, 9)
    g = torch.bmm(x.mT, x)
    expected, _ = eigh(g)
    for n_free in FREE:
        on_a_gpu(n_free)
        found, vectors = eigh(g)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(torch.bmm(g, vectors), vectors * found[:, None], rtol=1e-4, atol=1e-4)

"""PaDiM-iSVD against the paper's equations, computed independently in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from admodels.errors import OptionError
from admodels.methods.feature_maps import realign
from admodels.methods.padim_isvd import SOLVERS, IncrementalPca, OneShotPca, PadimIsvdConfig, PadimIsvdScorer, SummedPca
from admodels.pictures.images import decode
from tests.conftest import DEVICE

HERE = torch.device(DEVICE)
P, M = 5, 12


def vectors(n, rank, seed=0, noise=0.0):
    """(n, P, M) in float64: affine of the given rank at every position, with a mean well away from zero."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(P, rank, M)) * np.linspace(3, 1, rank)[None, :, None]
    x = np.einsum("npr,prm->npm", rng.normal(size=(n, P, rank)), basis) + rng.normal(size=(P, M)) * 2 + 3
    return x + noise * rng.normal(size=x.shape)


def incremental_learner(config):
    return SummedPca if config.solver == "auto" else IncrementalPca


def learn(x, config, splits=None, learner=None):
    made = (learner or incremental_learner(config))(config, HERE)
    for part in np.split(x, splits or []):
        if len(part):
            made.add_vectors(torch.from_numpy(part))
    return made.finish()


def distances(x, state):
    z = torch.einsum("pkm,npm->npk", state["projection"], torch.from_numpy(x).to(state["mean"]) - state["mean"])
    return z.double().square().sum(-1).sqrt().numpy()


def mahalanobis(x, train):
    """Exact, with the pseudo-inverse of the sample covariance (eq. 1 to 3)."""
    out = np.empty(x.shape[:2])
    for p in range(P):
        inverse = np.linalg.pinv(np.cov(train[:, p].T), rcond=1e-10, hermitian=True)
        delta = x[:, p] - train[:, p].mean(0)
        out[:, p] = np.sqrt(np.einsum("nm,mk,nk->n", delta, inverse, delta).clip(0))
    return out


def config(**options):
    return PadimIsvdConfig(**({"dtype": "float64", "n_components": 8, "step": 8, "shrinkage": 0} | options))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("incremental", [True, False])
def test_with_enough_dimensions_it_is_the_exact_mahalanobis_distance(solver, incremental):
    train, test = vectors(60, rank=4), vectors(10, rank=4, seed=0)
    learner = None if incremental else OneShotPca
    # The mean takes a dimension of its own, since the Gram matrix is not centred.
    state = learn(train, config(n_components=6, solver=solver), learner=learner)
    np.testing.assert_allclose(distances(test, state), mahalanobis(test, train), rtol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_full_dimensions_on_full_rank_data(solver):
    train, test = vectors(80, rank=M), vectors(10, rank=M, seed=2)
    state = learn(train, config(n_components=M, solver=solver))
    np.testing.assert_allclose(distances(test, state), mahalanobis(test, train), rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_incremental_equals_one_shot_on_low_rank_data(solver):
    train, test = vectors(100, rank=3), vectors(8, rank=3, seed=0)
    incremental = learn(train, config(n_components=5, solver=solver))
    one_shot = learn(train, config(n_components=5, solver="eigh"), learner=OneShotPca)
    np.testing.assert_allclose(distances(test, incremental), distances(test, one_shot), rtol=1e-5)


def test_one_shot_is_scikit_learns_pca():
    train, test = vectors(50, rank=M), vectors(6, rank=M, seed=3)
    state = learn(train, config(n_components=5, solver="svd"), learner=OneShotPca)
    for p in range(P):
        pca = PCA(5, whiten=True, svd_solver="full").fit(train[:, p])
        expected = np.linalg.norm(pca.transform(test[:, p]), axis=1)
        np.testing.assert_allclose(distances(test, state)[:, p], expected, rtol=1e-8)


def test_exact_solvers_follow_the_papers_steps():
    """Equations 4 to 9, literally, one position at a time."""
    k, step = 4, 6
    train, test = vectors(40, rank=M, noise=0.1), vectors(5, rank=M, seed=4)
    expected = np.empty(test.shape[:2])
    for p in range(P):
        x = train[:, p].T  # columns are vectors
        u, s, _ = np.linalg.svd(x[:, : k + step], full_matrices=False)
        for first in range(k + step, x.shape[1], step):
            w = np.concatenate([u[:, :k] * s[:k], x[:, first : first + step]], axis=1)  # eq. 6
            u, s, _ = np.linalg.svd(w, full_matrices=False)
        u, s, n, mean = u[:, :k], s[:k], x.shape[1], x.mean(1)
        middle = np.diag(s**2) / (n - 1) - n / (n - 1) * np.outer(u.T @ mean, u.T @ mean)  # eq. 9
        r, variances, _ = np.linalg.svd(middle)
        z = (test[:, p] - mean) @ (u @ r) / np.sqrt(variances)
        expected[:, p] = np.linalg.norm(z, axis=1)
    for solver in ("eigh", "svd"):
        state = learn(train, config(n_components=k, step=step, solver=solver))
        np.testing.assert_allclose(distances(test, state), expected, rtol=1e-7)


def test_the_subspace_iteration_is_close_to_the_exact_decomposition():
    train, test = vectors(200, rank=5, noise=0.3), vectors(20, rank=5, noise=0.3, seed=5)
    exact = distances(test, learn(train, config(n_components=6, step=16, solver="eigh")))
    quick = distances(test, learn(train, config(n_components=6, step=16, solver="gram")))
    assert np.abs(quick - exact).mean() < 0.02 * exact.mean()


@settings(max_examples=25)
@given(st.lists(st.integers(0, 70), max_size=6), st.sampled_from(SOLVERS))
def test_any_split_into_batches_gives_the_same_result(cuts, solver):
    train = vectors(70, rank=M)
    whole = learn(train, config(solver=solver))
    split = learn(train, config(solver=solver), splits=sorted(cuts))
    for name, tensor in whole.items():
        # Only the running sum is added up in another order.
        torch.testing.assert_close(split[name], tensor, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_single_precision_agrees_with_double(solver):
    train, test = vectors(60, rank=M, noise=0.1), vectors(10, rank=M, seed=6)
    double = distances(test, learn(train, config(solver=solver)))
    single = distances(test, learn(train, config(solver=solver, dtype="float32")))
    np.testing.assert_allclose(single, double, rtol=5e-2)


def test_a_later_direction_is_found():
    """The sketch has no room left over from the start, and the first pictures are all alike."""
    first = np.repeat(vectors(1, rank=2), 20, axis=0)
    later = vectors(40, rank=2, seed=7)
    train = np.concatenate([first, later])
    test = vectors(6, rank=2, seed=7)
    state = learn(train, config(n_components=5))
    np.testing.assert_allclose(distances(test, state), mahalanobis(test, train), rtol=1e-3)


def test_fewer_pictures_than_dimensions():
    train, test = vectors(4, rank=M), vectors(5, rank=M, seed=8)
    for solver in SOLVERS:
        state = learn(train, config(n_components=8, solver=solver))
        assert all(torch.isfinite(t).all() for t in state.values())
        np.testing.assert_allclose(distances(test, state), mahalanobis(test, train), rtol=1e-4)


def test_update_goes_on_where_the_fit_ended():
    before, more, test = vectors(50, rank=3), vectors(30, rank=3, seed=0), vectors(8, rank=3, seed=0)
    train = np.concatenate([before, more])
    for shrinkage in (0, 5):
        options = config(n_components=5, shrinkage=shrinkage)
        resumed = IncrementalPca(options, HERE, resume_from=learn(before, options))
        resumed.add_vectors(torch.from_numpy(more))
        state = resumed.finish()
        assert state["n_images"] == 80
        np.testing.assert_allclose(distances(test, state), distances(test, learn(train, options)), rtol=1e-5)


def real_like(n, m, seed=0, late=0):
    """(n, P, m): variances that fall over four decades, a mean, and in the last `late` a direction of its own."""
    rng = np.random.default_rng(seed)
    scales = np.logspace(1, -1, m)
    turn = np.linalg.qr(np.random.default_rng(9).normal(size=(P, m, m)))[0]
    x = np.einsum("npr,prm->npm", rng.normal(size=(n, P, m)) * scales, turn) + 3
    if late:
        x[-late:] += 8 * rng.normal(size=(late, P, 1)) * np.random.default_rng(8).normal(size=(P, m))
    return x


@pytest.mark.parametrize("kind", ["random", "real", "late"])
@pytest.mark.parametrize("k", [3, 16, 48, 96])
@pytest.mark.parametrize("step", [1, 16, 64])
def test_auto_is_as_if_all_pictures_came_in_one_step(step, k, kind):
    m, rng = 110, np.random.default_rng(3)
    train = rng.normal(size=(150, P, m)) if kind == "random" else real_like(150, m, late=6 if kind == "late" else 0)
    test = rng.normal(size=(5, P, m)) if kind == "random" else real_like(5, m, seed=1, late=2 if kind == "late" else 0)
    options = config(n_components=k, step=step, solver="auto")
    state = learn(train, options, splits=[1, 70])
    one_step = learn(train, config(n_components=k, step=150, solver="svd"))
    np.testing.assert_allclose(distances(test, state), distances(test, one_step), rtol=2e-2)


@pytest.mark.parametrize("n", [2, 63, 64, 65, 130])
def test_auto_with_any_number_of_pictures(n):
    train, test = real_like(n, 100), real_like(4, 100, seed=1)
    for k in (5, 70):
        state = learn(train, config(n_components=k, solver="auto"))
        one_step = learn(train, config(n_components=k, step=n, solver="svd"))
        np.testing.assert_allclose(distances(test, state), distances(test, one_step), rtol=1e-3)


def test_auto_on_too_many_channels_for_their_products_is_the_papers_update():
    """Where m×m products would be too many: a sketch whose every update is exact."""
    train, test = real_like(150, 120), real_like(5, 120, seed=1)
    for k, step in ((4, 96), (20, 16), (60, 8)):  # searched for; decomposed; decomposed
        found = learn(train, config(n_components=k, step=step, solver="auto"), learner=IncrementalPca)
        exact = learn(train, config(n_components=k, step=step, solver="eigh"), learner=IncrementalPca)
        np.testing.assert_allclose(distances(test, found), distances(test, exact), rtol=1e-3)


def test_an_update_of_sums_goes_on_from_what_is_kept():
    before, more, test = vectors(70, rank=4), vectors(70, rank=4, seed=1), vectors(8, rank=4)
    before, more = before - before.mean(0), more - more.mean(0)  # one mean, so that both have the same subspace
    for shrinkage in (0, 5):
        options = config(n_components=8, shrinkage=shrinkage, solver="auto")
        resumed = SummedPca(options, HERE, resume_from=learn(before, options))
        untouched = resumed.finish()
        np.testing.assert_allclose(distances(test, untouched), distances(test, learn(before, options)), rtol=1e-6)
        resumed = SummedPca(options, HERE, resume_from=learn(before, options))
        resumed.add_vectors(torch.from_numpy(more))
        state = resumed.finish()
        assert state["n_images"] == 140
        whole = learn(np.concatenate([before, more]), options)
        np.testing.assert_allclose(distances(test, state), distances(test, whole), rtol=1e-5)


def test_a_constant_position_has_no_distance():
    """Such as a black border: the search finds no basis there."""
    train = real_like(90, 100)
    train[:, 2] = 7.0
    state = learn(train, config(n_components=5, solver="auto", dtype="float32"))
    found = distances(train[:3], state)
    assert np.isfinite(found).all()
    assert found[:, 2].max() == 0


def test_shrinkage_weighs_the_mean_variance_as_so_many_pictures():
    train, test = vectors(40, rank=M), vectors(5, rank=M, seed=9)
    state = learn(train, config(n_components=4, shrinkage=10, solver="svd"), learner=OneShotPca)
    for p in range(P):
        pca = PCA(4, svd_solver="full").fit(train[:, p])
        variances = (40 * pca.explained_variance_ + 10 * pca.explained_variance_.mean()) / 50
        expected = np.linalg.norm(pca.transform(test[:, p]) / np.sqrt(variances), axis=1)
        np.testing.assert_allclose(distances(test, state)[:, p], expected, rtol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
def test_memory_does_not_grow_with_the_pictures(solver):
    learner = incremental_learner(config(solver=solver))(config(solver=solver), HERE)
    sizes = set()
    for seed in range(6):
        learner.add_vectors(torch.from_numpy(vectors(80, rank=M, seed=seed)))
        held = vars(learner) | vars(getattr(learner, "moments", learner))
        sizes.add(sum(t.nbytes for t in held.values() if isinstance(t, torch.Tensor)))
    assert len(sizes) == 1


@pytest.mark.parametrize("blur", [False, True])
def test_the_score_is_the_largest_distance_of_the_patches(isvd, specks, blur):
    pixels = [isvd.working_shape_.prepare(decode(item.path).pixels) for item in specks.test]
    state, shape = isvd.state_, isvd.working_shape_
    with torch.inference_mode():
        encoded = isvd.method.encode(torch.from_numpy(np.stack(pixels)))
        patches = PadimIsvdScorer(state["projection"], state["offset"], None)(encoded)
        scored = PadimIsvdScorer(state["projection"], state["offset"], shape if blur else None)(encoded)
    torch.testing.assert_close(patches.scores, patches.maps.amax((1, 2)))
    assert torch.equal(scored.scores, patches.scores)
    torch.testing.assert_close(scored.maps, realign(patches.maps, shape.cropped) if blur else patches.maps)


def test_the_score_is_the_one_predicted(isvd, specks):
    pixels = [isvd.working_shape_.prepare(decode(item.path).pixels) for item in specks.test]
    scores, _ = isvd.score_batch(torch.from_numpy(np.stack(pixels)))
    assert isvd.predict(specks.test[0].path).score == pytest.approx(float(scores[0]), rel=1e-4)


def test_more_dimensions_than_channels_are_refused():
    with pytest.raises(OptionError, match="176 feature channels"):
        PadimIsvdConfig(n_components=177)

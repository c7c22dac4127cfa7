"""PaDiM against sample mean, covariance and inverse in NumPy."""

import numpy as np
import pytest
import torch
from sklearn.covariance import oas

import admodels
from admodels.methods.moments import IMAGES_PER_UPDATE
from admodels.methods.padim import PadimLearner, _shrunk, _unshrunk
from admodels.pictures.images import decode
from tests.conftest import DEVICE
from tests.methods import reference
from tests.methods.test_fapm import encoded


def learn(x, resume_from=None, cuts=(), shrinkage=0.0):
    learner = PadimLearner(torch.arange(x.shape[2]), shrinkage, torch.device(DEVICE), resume_from)
    for part in np.split(x, list(cuts)):
        learner.add_vectors(torch.from_numpy(part).to(DEVICE))
    return learner.finish()


def mahalanobis(x, state):
    z = torch.einsum("pkc,npc->npk", state["whitening"], torch.from_numpy(x) - state["mean"])
    return z.square().sum(-1).sqrt().numpy()


def vectors(n, rng):
    return (rng.normal(size=(n, 5, 7)) @ rng.normal(size=(7, 7)) + 20).astype(np.float32)


def expected_distances(x, train, shrinkage=0.0):
    out, n = np.empty(x.shape[:2]), len(train)
    for p in range(x.shape[1]):
        covariance = np.cov(train[:, p].T.astype(np.float64))
        by_oas = oas(train[:, p].astype(np.float64))[0] * n / (n - 1)
        inverse = np.linalg.inv((1 - shrinkage) * covariance + shrinkage * by_oas + 0.01 * np.eye(x.shape[2]))
        delta = x[:, p] - train[:, p].mean(0)
        out[:, p] = np.sqrt(np.einsum("nc,cd,nd->n", delta, inverse, delta))
    return out


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("n", [3, 40, 3 * IMAGES_PER_UPDATE + 5])
def test_it_is_the_mahalanobis_distance(n, shrinkage, rng):
    train = vectors(n, rng)
    test = train[:3] + 0.3
    state = learn(train, cuts=(1, n // 2), shrinkage=shrinkage)
    expected = expected_distances(test, train, shrinkage)
    np.testing.assert_allclose(mahalanobis(test, state), expected, rtol=5e-3)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("n", [4, 35, 100])
def test_an_update_is_a_fit_on_all(n, shrinkage, rng):
    train = vectors(n + 25, rng)
    state = learn(train[n:], resume_from=learn(train[:n], shrinkage=shrinkage), shrinkage=shrinkage)
    assert state["n_images"] == n + 25
    whole = learn(train, shrinkage=shrinkage)
    torch.testing.assert_close(state["mean"], whole["mean"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mahalanobis(train[:4], state), mahalanobis(train[:4], whole), rtol=5e-3)


@pytest.mark.parametrize("spread", [0.0, 1e-3, 0.1, 1.0])
def test_shrinking_can_be_undone(spread, rng):
    """Also of what is a sphere, nearly: OAS then takes the mean variance alone."""
    turned = np.linalg.qr(rng.normal(size=(4, 7, 7)))[0]
    eigenvalues = 3 + spread * rng.uniform(-2, 2, size=(4, 7))
    covariance = torch.from_numpy(np.einsum("pij,pj,pkj->pik", turned, eigenvalues, turned))
    covariance[0] = 0
    for shrinkage in (0.0, 0.3, 0.9):
        for n in (2, 30, 1000):
            found = _unshrunk(_shrunk(covariance, n, shrinkage), n, shrinkage)
            torch.testing.assert_close(found, covariance, rtol=1e-8, atol=1e-8)


def test_real_pictures_score_as_in_the_independent_computation(normals, specks):
    detector = admodels.create("padim", device=DEVICE, image_size=64, n_features=30, shrinkage=0).fit(normals)
    train = [m.numpy() for m in encoded(detector, normals)]
    maps = encoded(detector, [item.path for item in specks.test])
    scores, anomaly_maps = reference.padim(
        train, [m.numpy() for m in maps], detector.state_["channels"].numpy(), (64, 64)
    )
    with torch.inference_mode():
        ours = detector.fitted_.scorer(maps)
    np.testing.assert_allclose(ours[0], scores, rtol=1e-2)
    np.testing.assert_allclose(ours[1], anomaly_maps, rtol=2e-2, atol=2e-2)


def test_the_same_channels_are_chosen_every_time():
    first, again = admodels.create("padim"), admodels.create("padim")
    channels = first.method._channels()
    assert torch.equal(channels, again.method._channels())
    assert len(set(channels.tolist())) == 100
    assert len(admodels.create("padim", n_features=2000).method._channels()) == 176


def test_channels_outside_the_backbone_are_refused(normals):
    detector = admodels.create("padim", device=DEVICE, image_size=64, n_features=8).fit(normals)
    state = detector.state_ | {"channels": torch.full((8,), 400)}
    with pytest.raises(ValueError, match="outside"):
        detector.method.scorer(state, detector.working_shape_)


def test_the_score_does_not_depend_on_the_pictures_own_size(normals, specks):
    """It is the largest value of the map at the working size, not of the one resized to the picture."""
    detector = admodels.create("padim", device=DEVICE, image_size=64, n_features=20).fit(normals[:12], n_folds=0)
    picture = decode(specks.test[0].path).pixels
    for times in (1, 3):
        shown = picture.repeat(times, 0).repeat(times, 1)
        prepared = torch.from_numpy(detector.working_shape_.prepare(shown)[None])
        score, anomaly_map = detector.score_batch(prepared)
        prediction = detector.predict(shown)
        assert prediction.anomaly_map.shape == shown.shape[:2]
        assert prediction.score == pytest.approx(float(score), rel=1e-4)
        assert float(score) == float(anomaly_map.max())

"""PatchCore against scikit-learn's neighbours and the paper's eq. 7."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.neighbors import NearestNeighbors

import admodels
from admodels.methods.patchcore import PatchCoreConfig, concatenated, key_count
from admodels.pictures.images import decode
from tests.conftest import DEVICE
from tests.methods import reference
from tests.methods.test_fapm import encoded


@pytest.mark.parametrize("options", [{}, {"n_neighbors": 1}, {"coreset_ratio": 0.001}], ids=str)
def test_scores_and_maps_are_those_of_the_paper(options, normals, specks):
    detector = admodels.create("patchcore", device=DEVICE, **({"image_size": 64, "coreset_ratio": 0.1} | options))
    detector.fit(normals)
    maps = encoded(detector, [item.path for item in specks.test[:4]])
    with torch.inference_mode():
        scores, anomaly_maps = detector.fitted_.scorer(maps)[:2]
        vectors = concatenated(maps, detector.config).double().numpy()
    memory = detector.state_["keys"].double().numpy()
    n_neighbors = min(detector.config.n_neighbors, len(memory))
    index = NearestNeighbors(algorithm="brute").fit(memory)
    for image, score, found in zip(vectors, scores, anomaly_maps, strict=True):
        distances, nearest = (a[:, 0] for a in index.kneighbors(image, 1))
        winner = distances.argmax()
        around = index.kneighbors(memory[nearest[winner]][None], n_neighbors, return_distance=False)[0]
        others = np.linalg.norm(image[winner] - memory[around], axis=1)
        weight = 1 - np.exp(distances[winner] - others.max()) / np.exp(others - others.max()).sum()
        expected = distances[winner] * (weight if n_neighbors > 1 else 1)
        assert score == pytest.approx(expected, rel=1e-3)
        large = reference.enlarge(distances.reshape(1, 8, 8), (64, 64))[0]
        np.testing.assert_allclose(found, gaussian_filter(large, 4), rtol=1e-3)


def test_the_memory_is_the_greedy_selection(normals, monkeypatch):
    """Without a projection, the vectors kept are those of the plain greedy rule."""
    monkeypatch.setattr("admodels.methods.patchcore.random_projection", torch.eye)
    detector = admodels.create("patchcore", device=DEVICE, image_size=64, coreset_ratio=0.05).fit(
        normals[:10], n_folds=2
    )
    batch = np.stack([detector.working_shape_.prepare(decode(p).pixels) for p in normals[:10]])
    vectors = concatenated(detector.method.encode(torch.from_numpy(batch)), detector.config).flatten(0, 1).numpy()
    expected = vectors[reference.greedy_k_centre(vectors, key_count(0.05, len(vectors)))]
    np.testing.assert_allclose(detector.state_["keys"].numpy(), expected, rtol=1e-3, atol=1e-3)


def test_the_projection_keeps_distances(rng):
    from admodels.methods.patchcore import random_projection

    x = torch.from_numpy(rng.normal(size=(60, 400)).astype(np.float32))
    ratio = torch.pdist(x @ random_projection(400)) / torch.pdist(x)
    assert 0.9 < ratio.mean() < 1.1
    assert ratio.std() < 0.1
    assert torch.equal(random_projection(40), torch.eye(40))


def test_an_update_keeps_as_many_as_a_fit_on_all(normals):
    detector = admodels.create("patchcore", device=DEVICE, image_size=64, coreset_ratio=0.1).fit(normals[:12])
    old = {row.tobytes() for row in detector.state_["keys"].numpy()}
    detector.update(normals[12:])
    n_vectors = 64 * detector.fit_report_.n_learned
    assert detector.state_["n_vectors"] == n_vectors
    assert len(detector.state_["keys"]) == key_count(0.1, n_vectors)
    assert 0 < sum(row.tobytes() in old for row in detector.state_["keys"].numpy()) < len(detector.state_["keys"])


def test_layers_are_checked():
    with pytest.raises(admodels.OptionError, match="4,8,16"):
        PatchCoreConfig(layers="3")

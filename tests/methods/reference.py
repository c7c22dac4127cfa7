"""PatchCore and PaDiM as published, in NumPy, SciPy and scikit-learn, one plain step after another.

Nothing of the library is used, so that the library can be held against it. Feature maps are float32 N×C×h×w.
"""

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter, zoom
from sklearn.neighbors import NearestNeighbors


def greedy_k_centre(vectors, n_keys, first=0):
    """Indices of the vectors that the greedy rule takes, every distance computed anew for every pick."""
    nearest, picks = np.full(len(vectors), np.inf), [first]
    while len(picks) < n_keys:
        nearest = np.minimum(nearest, np.square(vectors - vectors[picks[-1]]).sum(1))
        picks.append(int(nearest.argmax()))
    return np.array(picks)


def enlarge(maps, size):
    """Bilinear, pixel centres aligned."""
    factors = (1,) * (maps.ndim - 2) + (size[0] / maps.shape[-2], size[1] / maps.shape[-1])
    return zoom(maps, factors, order=1, mode="nearest", grid_mode=True)


def smooth_map(patch_maps, size):
    """Upsampled and blurred with sigma 4."""
    return np.stack([gaussian_filter(m, 4) for m in enlarge(patch_maps, size)])


def patch_vectors(layers, average):
    """Concatenated at the first map's size: (N, h·w, C)."""
    if average:  # zeros around the map, as an average pooling with padding has
        layers = [np.stack([[uniform_filter(c, 3, mode="constant") for c in image] for image in m]) for m in layers]
    x = np.concatenate([enlarge(m, layers[0].shape[-2:]) for m in layers], axis=1)
    return x.transpose(0, 2, 3, 1).reshape(len(x), -1, x.shape[1])


def patchcore(train, test, ratio, size, projection, n_neighbors=9, select=greedy_k_centre):
    """Image scores and maps of `test`; the random projection is given, since it decides what is kept."""
    vectors = patch_vectors(train, average=True).reshape(-1, sum(m.shape[1] for m in train))
    memory = vectors[select(vectors @ projection, max(1, round(ratio * len(vectors))))]
    index = NearestNeighbors(algorithm="brute").fit(memory)
    scores, maps = [], []
    for image in patch_vectors(test, average=True):
        distance, nearest = (a[:, 0] for a in index.kneighbors(image, 1))
        winner = distance.argmax()
        around = index.kneighbors(memory[nearest[winner]][None], n_neighbors, return_distance=False)[0]
        others = np.exp(np.linalg.norm(image[winner] - memory[around], axis=1).astype(np.float64))
        scores.append(distance[winner] * (1 - np.exp(np.float64(distance[winner])) / others.sum()))
        maps.append(distance.reshape(train[0].shape[-2:]))
    return np.array(scores), smooth_map(np.stack(maps), size)


def padim(train, test, channels, size):
    """Image scores and maps of `test`, from the given channels."""
    learned, x = (patch_vectors(m, average=False)[:, :, channels].astype(np.float64) for m in (train, test))
    distances = np.empty(x.shape[:2])
    for p in range(x.shape[1]):
        inverse = np.linalg.inv(np.cov(learned[:, p].T) + 0.01 * np.eye(len(channels)))
        delta = x[:, p] - learned[:, p].mean(0)
        distances[:, p] = np.sqrt(np.einsum("nc,cd,nd->n", delta, inverse, delta))
    maps = smooth_map(distances.reshape(-1, *train[0].shape[-2:]), size)
    return maps.reshape(len(maps), -1).max(1), maps

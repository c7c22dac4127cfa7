"""The picture's border: a picture that differs from the good ones by noise alone is not judged by its outermost ring.

Networks pad with zeros, so that what they see at the border is noisier than elsewhere.
"""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import binom

import admodels
from tests.conftest import DEVICE

SIDE, RING, N_GOOD, N_NEW = 96, 8, 24, 60


def grain(rng, n):
    """Grey pictures of n grainy surfaces without any structure, uint8 H×W×3."""
    noise = [gaussian_filter(rng.normal(size=(SIDE, SIDE)), 1.5) for _ in range(n)]
    return [np.repeat(np.clip(128 + 120 * a, 0, 255).astype(np.uint8)[..., None], 3, 2) for a in noise]


# PaDiM-iSVD's score is that of the map before it is blurred.
@pytest.mark.parametrize(
    ("method", "options"), [("fapm", {}), ("padim", {}), ("padim_isvd", {"blur": False}), ("patchcore", {})]
)
def test_the_score_of_noise_comes_from_the_outermost_ring_no_more_often_than_by_chance(method, options, rng):
    detector = admodels.create(method, device=DEVICE, image_size=SIDE, **options).fit(grain(rng, N_GOOD))
    n_in_ring = 0
    for prediction in detector.predict_batch(grain(rng, N_NEW)):
        y, x = np.unravel_index(prediction.anomaly_map.argmax(), (SIDE, SIDE))
        n_in_ring += min(y, x, SIDE - 1 - y, SIDE - 1 - x) < RING
    by_chance = 1 - ((SIDE - 2 * RING) / SIDE) ** 2
    assert n_in_ring <= binom.ppf(0.99, N_NEW, by_chance)

"""Which frames of a camera show something new."""

import numpy as np
import pytest

from admodels.pictures import decode, glance, is_alike


@pytest.fixture(scope="module")
def part(specks):
    """A real part on a larger, even ground, as a camera sees it."""
    frame = np.full((480, 640, 3), 120, np.uint8)
    pixels = decode(specks.train[0]).pixels[:128, :128]
    frame[180:308, 250:378] = pixels
    return frame


def as_8_bit(values):
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def test_noise_and_exposure_are_nothing_new(part, rng):
    seen = glance(part)
    assert seen.shape == (48, 48, 3)
    assert is_alike(seen, seen)
    assert is_alike(seen, glance(as_8_bit(part + rng.normal(0, 6, part.shape))))
    assert is_alike(seen, glance(as_8_bit(part.astype(float) + 20)))


def test_a_part_that_was_moved_turned_or_taken_away_is_new(part):
    seen = glance(part)
    moved = np.roll(part, 20, axis=1)  # a thirtieth of the width
    taken_away = np.full_like(part, 120)
    turned = part.copy()
    turned[180:308, 250:378] = 255 - part[180:308, 250:378]
    for other in (moved, taken_away, turned):
        assert not is_alike(seen, glance(other))
        assert not is_alike(glance(other), seen)

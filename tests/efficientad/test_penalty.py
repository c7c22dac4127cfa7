"""Pictures of anything: made here with natural statistics, or from a folder."""

import numpy as np
import pytest

import admodels
from admodels.efficientad.penalty import PenaltyPictures
from admodels.pictures.generated import fractal_noise, generate


def test_generated_pictures_have_edges_textures_and_a_natural_spectrum():
    rng = np.random.default_rng(0)
    pictures = np.stack([generate((128, 128), rng) for _ in range(12)]).astype(float)
    assert pictures.std((1, 2, 3)).min() > 10
    power = (np.abs(np.fft.fft2(pictures.mean(3) - pictures.mean((1, 2, 3))[:, None, None])) ** 2).mean(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    inside = (frequency > 0.03) & (frequency < 0.3)
    slope = np.polyfit(np.log(frequency[inside]), np.log(power[inside]), 1)[0]
    # Photographs fall with about the second power of the frequency (Field, 1987).
    assert -3 < slope < -1.2


def test_fractal_noise_has_the_slope_asked_for():
    rng = np.random.default_rng(0)
    noise = np.stack([fractal_noise((128, 128), rng, 1.0) for _ in range(20)])
    assert noise.std() == pytest.approx(1, abs=0.05)
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    inside = (frequency > 0.03) & (frequency < 0.4)
    assert np.polyfit(np.log(frequency[inside]), np.log(power[inside]), 1)[0] == pytest.approx(-2, abs=0.1)


def test_a_third_is_grey_and_the_seed_decides():
    first, again = (PenaltyPictures("generated", (32, 40), np.random.default_rng(3)).draw(40) for _ in "ab")
    assert (first == again).all()
    assert first.shape == (40, 32, 40, 3)
    grey = (first[..., :1] == first).all((1, 2, 3)).mean()
    assert 0.1 < grey < 0.55


def test_a_folder_can_be_named(normals, tmp_path):
    rng = np.random.default_rng(0)
    assert PenaltyPictures(str(normals[0].parent), (48, 64), rng).draw(3).shape == (3, 48, 64, 3)
    with pytest.raises(admodels.OptionError, match="not a folder"):
        PenaltyPictures(str(tmp_path / "nowhere"), (32, 32), rng)
    with pytest.raises(admodels.OptionError, match="a folder without pictures"):
        PenaltyPictures(str(tmp_path), (32, 32), rng)

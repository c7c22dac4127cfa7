"""Pictures of anything, on which EfficientAD's student must not follow its teacher (the paper's pretraining penalty).

By default they are made here, so that nothing is downloaded: dead leaves (Lee, Mumford and Huang, "Occlusion models for
natural images", 2001: shapes that cover each other, as many of each size as in photographs) filled with fractal noise,
whose spectrum falls like that of photographs.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from admodels.errors import OptionError
from admodels.images import decode, list_images, resize

N_LEAVES = 120
RADIUS_RATIOS = (0.02, 0.5)  # of the picture's shorter side
GRAY_PROBABILITY = 0.3  # the paper's


def penalty_pictures(source: str, n: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """`n` pictures, uint8 (n, H, W, 3).

    Args:
        source: "generated", or a folder: its pictures are brought to twice the size and cut in the middle (appendix A).

    Raises:
        OptionError: the folder holds no pictures.
        ImageError: one of them cannot be read.
    """
    if source == "generated":
        pictures = [generate(size, rng) for _ in range(n)]
    else:
        found = _listed(source)
        pictures = [_middle(decode(found[i]).pixels, size) for i in rng.integers(len(found), size=n)]
    return np.stack([_gray(p) if rng.random() < GRAY_PROBABILITY else p for p in pictures])


def generate(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """One picture of dead leaves, each with a colour and a texture of its own; uint8 (H, W, 3)."""
    height, width = size
    leaves = Image.new("I", (width, height), 0)
    draw = ImageDraw.Draw(leaves)
    smallest, largest = (ratio * min(size) for ratio in RADIUS_RATIOS)
    for leaf in range(1, N_LEAVES):
        # As many of each size as in photographs: the density of radii falls with the cube.
        u = rng.random()
        radius = (smallest**-2 - u * (smallest**-2 - largest**-2)) ** -0.5
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        if rng.random() < 0.5:
            stretch = rng.uniform(0.4, 1)
            draw.ellipse((x - radius, y - stretch * radius, x + radius, y + stretch * radius), fill=leaf)
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
            corners = [(float(x + radius * np.cos(a)), float(y + radius * np.sin(a))) for a in angles]
            draw.polygon(corners, fill=leaf)
    which = np.asarray(leaves)
    colours = rng.uniform(0, 255, (N_LEAVES, 1)) + rng.normal(0, 30, (N_LEAVES, 3))  # mostly muted, as in photographs
    strengths = rng.uniform(0, 60, N_LEAVES) * (rng.random(N_LEAVES) < 0.7)
    noise = np.stack([fractal_noise(size, rng, slope) for slope in rng.uniform(0.3, 2.0, 3)])
    texture = noise[rng.integers(3, size=N_LEAVES)[which], np.arange(height)[:, None], np.arange(width)]
    light = 1 + 0.2 * fractal_noise(size, rng, 2.0)
    shown = (colours[which] + (strengths[which] * texture)[..., None]) * light[..., None]
    return np.clip(shown, 0, 255).astype(np.uint8)


def fractal_noise(size: tuple[int, int], rng: np.random.Generator, slope: float) -> np.ndarray:
    """Noise whose amplitude falls with the frequency to the power `slope`; mean 0, variance 1."""
    fy, fx = np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal(size)) * frequency**-slope
    noise = np.fft.irfft2(spectrum, size)
    return noise / max(noise.std(), 1e-12)


def _listed(source: str) -> Sequence[Path]:
    folder = Path(source).expanduser()
    found = list_images(folder) if folder.is_dir() else []
    if not found:
        raise OptionError(
            f"penalty_images is {source!r}, {'a folder without pictures' if folder.is_dir() else 'not a folder'}; "
            "expected generated, none, or a folder of pictures of anything."
        )
    return found


def _middle(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return resize(pixels, (2 * size[0], 2 * size[1]), size)


def _gray(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))

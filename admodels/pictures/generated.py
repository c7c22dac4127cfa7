"""Generated pictures: dead leaves filled with fractal noise, whose spectrum falls like that of photographs.

Lee, Mumford and Huang, "Occlusion models for natural images", 2001: shapes that cover each other, as many of each size
as in photographs.
"""

import numpy as np
from PIL import Image, ImageDraw

N_LEAVES = 120
RADIUS_RATIOS = (0.02, 0.5)  # of the picture's shorter side


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

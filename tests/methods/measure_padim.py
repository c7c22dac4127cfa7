"""PaDiM against the textbook, from the pictures on: image AUROC of both on many sets.

    python -m tests.methods.measure_padim ROOT[@N]... [--seeds 3] [--cache DIR]

The textbook shares nothing with the library but the network's weights: pictures squeezed to 256×256 by Pillow, coarse
maps repeated to the size of the fine one, 100 channels drawn at random, NumPy's covariance and inverse with 0.01 on the
diagonal, the map of distances enlarged and blurred by SciPy, its largest value the score. The channels decide much, so
that several draws are shown; ours is with `shrinkage` 0 (as published) and with the default.
"""

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter, zoom
from sklearn.metrics import roc_auc_score

import admodels
from admodels.runtime.backbones import get_backbone
from admodels.runtime.memory import keep_freed_memory
from tests.evaluation.measure_accuracy import measured, sets

SIDE, N_CHANNELS, BLOCK = 256, 100, 64


def main() -> None:
    """Print a row for each set."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("roots", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path)
    asked = parser.parse_args()
    keep_freed_memory()
    console, table = Console(width=120), Table("set", "textbook", "ours, shrinkage 0", "ours", title="image AUROC")
    for name, data, train in sets(asked.roots):
        ours = [
            measured(admodels.create("padim", **options), data, train, asked.cache)["image_auroc"]
            for options in ({"shrinkage": 0}, {})
        ]
        labels = [item.is_defective for item in data.test]
        learned, tested = vectors(train), vectors([item.path for item in data.test])
        textbook = [roc_auc_score(labels, scores(learned, tested, seed)) for seed in range(asked.seeds)]
        table.add_row(name, " ".join(f"{a:.3f}" for a in textbook), *(f"{a:.3f}" for a in ours))
        console.print(table)


def vectors(paths: list[Path]) -> np.ndarray:
    """float16 (N, h, w, C)."""
    network, found = get_backbone("efficientnet_lite0", torch.device("cpu"), "float32"), []
    for first in range(0, len(paths), 8):
        pictures = [
            np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
            for path in paths[first : first + 8]
        ]
        with torch.inference_mode():
            maps = [m.permute(0, 2, 3, 1).numpy() for m in network.features(torch.from_numpy(np.stack(pictures)))]
        times = [maps[0].shape[1] // m.shape[1] for m in maps]
        same = [m.repeat(n, axis=1).repeat(n, axis=2) for m, n in zip(maps, times, strict=True)]
        found.append(np.concatenate(same, axis=-1).astype(np.float16))
    return np.concatenate(found)


def scores(learned: np.ndarray, tested: np.ndarray, seed: int) -> list[float]:
    """Of the tested pictures."""
    channels = random.Random(seed).sample(range(learned.shape[-1]), N_CHANNELS)
    n_test, height, width, _ = tested.shape
    distances = np.empty((n_test, height * width))
    flat = [x.reshape(len(x), height * width, -1) for x in (learned, tested)]
    for first in range(0, height * width, BLOCK):
        x, y = (f[:, first : first + BLOCK, channels].astype(np.float64).transpose(1, 0, 2) for f in flat)
        mean = x.mean(1, keepdims=True)
        covariance = (x - mean).transpose(0, 2, 1) @ (x - mean) / (x.shape[1] - 1)
        inverse = np.linalg.inv(covariance + 0.01 * np.eye(N_CHANNELS))
        delta = y - mean
        distances[:, first : first + BLOCK] = np.sqrt((delta @ inverse * delta).sum(-1)).T
    maps = zoom(
        distances.reshape(n_test, height, width),
        (1, SIDE / height, SIDE / width),
        order=1,
        mode="nearest",
        grid_mode=True,
    )
    return [gaussian_filter(m, 4).max() for m in maps]


if __name__ == "__main__":
    main()

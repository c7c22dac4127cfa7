"""PatchCore and PaDiM against the textbook, from the pictures on: image AUROC of both on many sets.

    python -m tests.methods.measure_textbook patchcore|padim ROOT[@N]... [--seeds 3] [--cache DIR]

The textbook shares nothing with the library but the network's weights: pictures squeezed to 256×256 by Pillow, and the
published algorithms in NumPy, SciPy and scikit-learn. What they draw at random (PaDiM its 100 channels, PatchCore the
projection that its selection looks at) decides much, so that several draws are shown. Our PaDiM is shown as published
(`shrinkage` 0) and as it is by default.
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
from tests.methods import reference

SIDE, N_CHANNELS, BLOCK = 256, 100, 64


def main() -> None:
    """Print a row for each set."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("method", choices=("patchcore", "padim"))
    parser.add_argument("roots", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path)
    asked = parser.parse_args()
    keep_freed_memory()
    settings = {"patchcore": {"ours": {}}, "padim": {"ours, shrinkage 0": {"shrinkage": 0}, "ours": {}}}[asked.method]
    textbook = {"patchcore": patchcore, "padim": padim}[asked.method]
    console, table = Console(width=120), Table("set", "textbook", *settings, title=f"{asked.method}, image AUROC")
    for name, data, train in sets(asked.roots):
        ours = [
            measured(admodels.create(asked.method, **options), data, train, asked.cache)["image_auroc"]
            for options in settings.values()
        ]
        labels = [item.is_defective for item in data.test]
        learned, tested = feature_maps(train), feature_maps([item.path for item in data.test])
        found = [roc_auc_score(labels, textbook(learned, tested, seed)) for seed in range(asked.seeds)]
        table.add_row(name, " ".join(f"{a:.3f}" for a in found), *(f"{a:.3f}" for a in ours))
        console.print(table)


def feature_maps(paths: list[Path]) -> list[np.ndarray]:
    """Of each layer float32 (N, C, h, w), from fine to coarse."""
    network, found = get_backbone("efficientnet_lite0", torch.device("cpu"), "float32"), []
    for first in range(0, len(paths), 8):
        pictures = [
            np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
            for path in paths[first : first + 8]
        ]
        found.append([m.numpy() for m in network.features(torch.from_numpy(np.stack(pictures)))])
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def patchcore(learned: list[np.ndarray], tested: list[np.ndarray], seed: int) -> np.ndarray:
    """Scores of the tested pictures; 1 % of the vectors are kept, by distances after a projection to 128 dimensions."""
    length = sum(m.shape[1] for m in learned[1:])
    projection = np.random.default_rng(seed).normal(size=(length, 128)).astype(np.float32)
    return reference.patchcore(learned[1:], tested[1:], 0.01, (SIDE, SIDE), projection)[0]


def padim(learned: list[np.ndarray], tested: list[np.ndarray], seed: int) -> list[float]:
    """Scores of the tested pictures; coarse maps are repeated to the size of the fine one."""
    channels = random.Random(seed).sample(range(sum(m.shape[1] for m in learned)), N_CHANNELS)
    return padim_scores(vectors(learned), vectors(tested), channels)


def vectors(maps: list[np.ndarray]) -> np.ndarray:
    """float32 (N, h, w, C)."""
    times = [maps[0].shape[2] // m.shape[2] for m in maps]
    same = [m.repeat(n, axis=2).repeat(n, axis=3) for m, n in zip(maps, times, strict=True)]
    return np.concatenate(same, axis=1).transpose(0, 2, 3, 1)


def padim_scores(learned: np.ndarray, tested: np.ndarray, channels: list[int]) -> list[float]:
    """From vectors of all channels: the largest values of the blurred maps of Mahalanobis distances."""
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

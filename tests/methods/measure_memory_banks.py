"""Measure FAPM, PatchCore and PaDiM against each other and against the published algorithms, and print one table.

    python -m tests.methods.measure_memory_banks MAGNETIC_TILE PIPED

Both folders are in the MVTec AD layout; the second holds one category in each of its folders. Pictures are looked at
as in the papers: 256 pixels squeezed to a square, the middle 224 kept. PatchCore is fitted on 200 normals, the others
on all. Takes about a quarter of an hour on two cores.
"""

import statistics
import time
from pathlib import Path

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

import admodels
from admodels.core.method import BATCH_SIZE
from admodels.evaluation.accuracy import evaluate
from admodels.evaluation.datasets import load_dataset, read_mask
from admodels.evaluation.metrics import auroc
from admodels.evaluation.timing import measure
from admodels.methods.patchcore import random_projection
from admodels.pictures.images import read_batches, resize
from admodels.runtime.memory import keep_freed_memory
from tests.methods import reference

PAPER = {"image_size": 256, "crop": 224, "keep_aspect": False}
N_PATCHCORE = 200


def main(magnetic_tile: Path, piped: Path) -> None:
    """Print the table."""
    keep_freed_memory()
    data = load_dataset(magnetic_tile)
    table = Table("what", "measured", title="Magnetic Tile and PIPED, Lite0, 256 to 224, float32")
    console = Console(width=150)

    def run(method, n_train=None, **options):
        detector = admodels.create(method, **(PAPER | options))
        result = evaluate(detector, data, n_train=n_train)
        name = " ".join([method, *(f"{k}={v}" for k, v in options.items()), f"({n_train or len(data.train)} normals)"])
        console.print(f"{name}: {figures(result)}")
        return detector, result

    fapm, all_normals = run("fapm")
    plain = run("fapm", adaptive=False)[1]
    few = run("fapm", N_PATCHCORE)[1]
    one_detector, one = run("patchcore", N_PATCHCORE)
    ten_detector, ten = run("patchcore", N_PATCHCORE, coreset_ratio=0.1)
    padim_detector, padim = run("padim", N_PATCHCORE)
    table.add_row("FAPM, all normals", figures(all_normals))
    table.add_row(f"FAPM, {N_PATCHCORE} normals", figures(few))
    table.add_row("PatchCore 1 %", figures(one))
    table.add_row("PatchCore 10 %", figures(ten))
    table.add_row("PaDiM", figures(padim))

    train, test, masks = features(fapm, data)
    select_seconds = []

    def timed_greedy(vectors, n_keys):
        started = time.perf_counter()
        picks = reference.greedy_k_centre(vectors, n_keys)
        select_seconds.append(time.perf_counter() - started)
        return picks

    size = fapm.working_shape_.cropped
    labels = np.array([item.is_defective for item in data.test])
    projection = random_projection(train[1].shape[1] + train[2].shape[1]).numpy()
    published = reference.patchcore(train[1:], test[1:], 0.01, size, projection, select=timed_greedy)
    ours = scores_of(one_detector, data)
    table.add_row("PatchCore 1 %, independent computation, same projection", accuracy(labels, masks, *published))
    table.add_row("PatchCore 1 %, ours on the same maps", accuracy(labels, masks, *ours))
    channels = padim_detector.state_["channels"].numpy()
    table.add_row(
        "PaDiM, independent computation", accuracy(labels, masks, *reference.padim(train, test, channels, size))
    )
    table.add_row("PaDiM, ours on the same maps", accuracy(labels, masks, *scores_of(padim_detector, data)))

    table.add_row("FAPM fit against PatchCore 1 % fit", f"{one.fit_seconds / few.fit_seconds:.2f}× faster")
    direct = few.feature_seconds + select_seconds[0]
    table.add_row(
        "FAPM fit against features + direct greedy selection",
        f"{direct / few.fit_seconds:.1f}× faster ({direct:.1f} s against {few.fit_seconds:.1f} s)",
    )
    fast, slow, network = predict_seconds(fapm, ten_detector, data)
    table.add_row("FAPM predict against PatchCore 10 % predict", f"{slow / fast:.2f}× faster")
    table.add_row("FAPM predict over the backbone's forward", f"{fast / network:.2f}")
    gain = 100 * (all_normals.image_auroc - plain.image_auroc)
    table.add_row(
        "adaptive (E) against plain (D)",
        f"{gain:+.2f} points image AUROC at {all_normals.model_mib / plain.model_mib - 1:+.0%} memory",
    )
    kinds = [folder for folder in sorted(piped.iterdir()) if (folder / "train").is_dir()]
    found = [evaluate(admodels.create("fapm"), load_dataset(kind)).image_auroc for kind in kinds]
    listed = ", ".join(f"{kind.name} {value:.4f}" for kind, value in zip(kinds, found, strict=True))
    table.add_row("FAPM on PIPED, defaults, image AUROC", f"{listed}; mean {np.mean(found):.4f}")
    console.print(table)


def figures(result) -> str:
    """One line for one evaluation."""
    return (
        f"image / pixel AUROC {result.image_auroc:.4f} / {result.pixel_auroc:.4f}, fit {result.fit_seconds:.1f} s "
        f"(features {result.feature_seconds:.1f} s), {result.predict_fps:.0f} FPS with decoding, "
        f"{result.model_mib:.1f} MiB"
    )


def features(detector, data):
    """Feature maps of the pictures that a fit on `N_PATCHCORE` normals learns from, of the test pictures, and masks."""
    chosen = sorted(np.random.default_rng(0).permutation(len(data.train))[:N_PATCHCORE])
    shape = detector.working_shape_

    def maps(paths):
        batches = [detector.method.encode(torch.from_numpy(b)) for b in read_batches(paths, shape.prepare, BATCH_SIZE)]
        return [torch.cat(parts).numpy() for parts in zip(*batches, strict=True)]

    masks = []
    for item in data.test:
        whole = read_mask(item.masks) if item.masks else np.zeros((8, 8), dtype=bool)
        small = resize(np.repeat(whole[..., None], 3, 2).astype(np.uint8) * 255, shape.resized, shape.cropped)
        masks.append(small[..., 0] > 127)
    return maps([data.train[i] for i in chosen]), maps([item.path for item in data.test]), np.stack(masks)


def scores_of(detector, data):
    """Image scores and maps at the working shape."""
    batches = read_batches([item.path for item in data.test], detector.working_shape_.prepare, BATCH_SIZE)
    found = [detector.score_batch(torch.from_numpy(batch)) for batch in batches]
    return [torch.cat(parts).numpy() for parts in zip(*found, strict=True)]


def accuracy(labels, masks, scores, maps) -> str:
    """Image and pixel AUROC; every third pixel counts, which is enough for four digits."""
    return f"image / pixel AUROC {auroc(labels, scores):.4f} / {auroc(masks.ravel()[::3], maps.ravel()[::3]):.4f}"


def predict_seconds(fapm, patchcore, data, n_rounds: int = 9):
    """Seconds for one picture at batch 8, interleaved: both predictions, and the backbone."""
    paths = [item.path for item in data.test[: 4 * BATCH_SIZE]]
    batches = [torch.from_numpy(b) for b in read_batches(paths, fapm.working_shape_.prepare, BATCH_SIZE)]
    runs = (
        lambda: [fapm.score_batch(b) for b in batches],
        lambda: [patchcore.score_batch(b) for b in batches],
        lambda: [fapm.method.backbone.features(b) for b in batches],
    )
    seconds = [[measure(run, fapm.device, 1)[0] for run in runs] for _ in range(n_rounds)]
    return [statistics.median(column) / len(paths) for column in zip(*seconds, strict=True)]


if __name__ == "__main__":
    typer.run(main)

"""Which setting of a method finds most on a set that it was not chosen on: all settings on all sets, leaving
one set out.

    python -m tests.evaluation.measure_accuracy METHOD SETTINGS.json ROOT[@N]... [--cache DIR] [--json OUT.json]

SETTINGS.json names settings: {"name": {"option": value}}. ROOT is a data set or a folder of them; @N fits on N of its
good pictures, chosen by seed 0. Feature maps depend on network, size and pictures alone: they are kept in DIR as
float16 and shared by all settings. Measured are image AUROC, the part of the defective pictures found at 1 %, 5 % and
10 % false alarms and, where there are masks, pixel AUROC and AUPRO (up to 30 %) of a model of all good pictures. No
pictures are held out: the thresholds for these rates are set, by the same rule, from the test's own good pictures, and
there is none for a rate that they are too few for. So detection here compares settings; `evaluate` says what a user
gets.

Leave-one-set-out: for each set, the setting with the best mean on all other sets is taken. The mean of what those
settings reach on the sets left out is what a default chosen in this way can be expected to reach on a new set.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import admodels
from admodels.core.calibration import conformal_threshold, n_needed
from admodels.core.detector import Detector
from admodels.evaluation.accuracy import PIXEL_SIDE, map_and_mask
from admodels.evaluation.datasets import Dataset, find_datasets
from admodels.evaluation.metrics import PixelCurve, auroc
from admodels.evaluation.rates import RATES
from admodels.files import write_text
from admodels.pictures.images import content_digest, decode, inspect_set
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.memory import keep_freed_memory

BATCH = 8
FOUND = {f"found_at_{rate:g}": rate for rate in RATES}  # measure to false-alarm rate


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("method")
    parser.add_argument("settings", type=Path)
    parser.add_argument("roots", nargs="+")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    keep_freed_memory()
    console = Console(width=200)
    settings = json.loads(asked.settings.read_text(encoding="utf-8"))
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for name, data, train in sets(asked.roots):
        found[name] = {
            setting: measured(admodels.create(asked.method, **options), data, train, asked.cache)
            for setting, options in settings.items()
        }
        console.print(name, {s: round(row["image_auroc"], 3) for s, row in found[name].items()}, soft_wrap=True)
        if asked.json is not None:
            write_text(asked.json, json.dumps(found, indent=2) + "\n")
    for key in ("image_auroc", *FOUND, "pixel_auroc", "aupro"):
        console.print(table(key, found, list(settings)))


def sets(roots: list[str]) -> Iterator[tuple[str, Dataset, list[Path]]]:
    """Name, data and good pictures to learn from, of every set."""
    for given in roots:
        root, _, n = given.partition("@")
        for name, data in find_datasets(root).items():
            train = data.train
            if n and int(n) < len(train):
                chosen = np.random.default_rng(0).permutation(len(train))[: int(n)]
                train = [train[i] for i in sorted(chosen)]
            yield f"{name}{f', {n} good' if n else ''}", data, train


def measured(detector: Detector, data: Dataset, train: list[Path], cache: Path | None) -> dict[str, float | None]:
    """Image AUROC, detection rates, pixel AUROC and AUPRO of a model of all good pictures."""
    method, looked_at = detector.method, inspect_set(train)
    shape = detector.shape_for(looked_at)
    learner = method.learner(shape, len(train))
    with torch.inference_mode():
        for encoded, _ in batches(detector, shape, train, cache):
            learner.add(encoded)
        scorer = method.scorer(learner.finish(), shape)
        scores, pixels, has_masks = [], PixelCurve(), any(item.masks for item in data.test)
        encoded_and_sizes = batches(detector, shape, [item.path for item in data.test], cache)
        done = 0
        for encoded, sizes in encoded_and_sizes:
            scored = scorer(encoded).cpu()
            scores += scored.scores.tolist()
            for item, anomaly_map, size in zip(data.test[done:], scored.maps, sizes, strict=False):
                if has_masks and (item.masks or not item.is_defective):
                    pixels.add(*map_and_mask(item, shape.to_original(anomaly_map, size), PIXEL_SIDE))
            done += len(sizes)
    labels = np.array([item.is_defective for item in data.test])
    found = {key: found_at(labels, np.array(scores), rate) for key, rate in FOUND.items()}
    return {
        "image_auroc": auroc(labels, np.array(scores)),
        **found,
        "pixel_auroc": pixels.auroc(),
        "aupro": pixels.aupro(0.3),
    }


def found_at(labels: np.ndarray, scores: np.ndarray, rate: float) -> float | None:
    """Detection rate at the threshold for a false-alarm rate from the test's good pictures; None with too few."""
    if not labels.any() or (~labels).sum() < n_needed(rate):
        return None
    return float((scores[labels] > conformal_threshold(scores[~labels], rate)).mean())


def batches(
    detector: Detector, shape: WorkingShape, paths: list[Path], cache: Path | None
) -> Iterator[tuple[list[Tensor], list[tuple[int, int]]]]:
    """Feature maps of some pictures at a time, and the pictures' sizes."""
    about = f"{detector.network_name} {detector.dtype} {shape}"
    for first in range(0, len(paths), BATCH):
        part = paths[first : first + BATCH]
        key = hashlib.sha256((about + "".join(content_digest(path).hex() for path in part)).encode()).hexdigest()
        file = cache / f"{key}.pt" if cache is not None else None
        if file is None or not file.is_file():
            decoded = [decode(path, value_range=shape.value_range).pixels for path in part]
            encoded = detector.method.encode(torch.from_numpy(np.stack([shape.prepare(p) for p in decoded])))
            kept = [m.half() for m in encoded], [p.shape[:2] for p in decoded]
            if file is None:
                yield encoded, kept[1]
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(kept, file)
        maps, sizes = torch.load(file, weights_only=True)
        yield [m.float().to(detector.device) for m in maps], sizes


def table(key: str, found: dict[str, dict[str, dict[str, float | None]]], settings: list[str]) -> Table:
    """A row for each set, the mean, the worst, and what leaving one set out says."""
    known = {name: row for name, row in found.items() if row[settings[0]][key] is not None}
    shown = Table("set", *settings, title=key)
    for name, row in known.items():
        shown.add_row(name, *(f"{row[s][key]:.3f}" for s in settings))
    columns = {s: [row[s][key] for row in known.values()] for s in settings}
    if len(known) > 1:
        shown.add_row("mean", *(f"{mean(columns[s]):.3f}" for s in settings))
        shown.add_row("worst", *(f"{min(columns[s]):.3f}" for s in settings))
        chosen = [
            max(settings, key=lambda s: mean(v for j, v in enumerate(columns[s]) if j != i)) for i in range(len(known))
        ]
        left_out = mean(columns[s][i] for i, s in enumerate(chosen))
        times = ", ".join(f"{s}: {chosen.count(s)}" for s in settings if s in chosen)
        shown.caption = f"leave-one-set-out: {left_out:.4f} (chosen {times})"
    return shown


if __name__ == "__main__":
    main()

"""Whether anything that can be measured without defects tells which method and size will find most on a set.

    python -m tests.evaluation.measure_signals ROOT[@N]... [--cache DIR] [--json OUT.json]

For every set and candidate: the image AUROC on the test's own defects, and three signals from good pictures alone, a
fifth of them held out. `drawn`: AUROC of the held-out pictures against the same with a scratch or a spot drawn on
them. `margin`: how far those lie from the held-out scores, in their standard deviations, median. `spread`: the negative
coefficient of variation of the held-out scores. And one of the set: how much nearer the nearest vector is anywhere than
at the same place (`unaligned`, FAPM's mean distance over PatchCore's).

A signal is worth something where choosing by it on each set beats always taking the candidate that is best on the other
sets.
"""

import argparse
import json
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import admodels
from admodels.core.calibration import split_held_out
from admodels.evaluation.metrics import auroc
from admodels.files import write_text
from admodels.pictures import defects
from admodels.pictures.images import decode, inspect_set
from admodels.runtime.memory import keep_freed_memory
from tests.evaluation.measure_accuracy import BATCH, batches, measured, sets

CANDIDATES = {
    "fapm": ("fapm", {}),
    "fapm 384": ("fapm", {"image_size": 384}),
    "patchcore": ("patchcore", {}),
    "padim": ("padim", {}),
    "padim_isvd": ("padim_isvd", {}),
}
SIGNALS = ("drawn", "margin", "spread")
MAX_HELD_OUT = 40


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("roots", nargs="+")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    keep_freed_memory()
    console, found = Console(width=200), {}
    for name, data, train in sets(asked.roots):
        row = {}
        for candidate, (method, options) in CANDIDATES.items():
            detector = admodels.create(method, **options)
            row[candidate] = {"auroc": measured(detector, data, train, asked.cache)["image_auroc"]}
            row[candidate] |= signals(detector, train, asked.cache)
        found[name] = row
        unaligned = row["fapm"]["distance"] / row["patchcore"]["distance"]
        said = {c: {k: round(v, 3) for k, v in of.items()} for c, of in row.items()}
        console.print(name, f"unaligned {unaligned:.3f}", said, soft_wrap=True)
        if asked.json is not None:
            write_text(asked.json, json.dumps(found, indent=2) + "\n")
    console.print(table(found))


def signals(detector: admodels.Detector, train: list[Path], cache: Path | None) -> dict[str, float]:
    """What good pictures alone say of a candidate; `distance` is the mean of the held-out maps."""
    method, shape = detector.method, detector.shape_for(inspect_set(train))
    learned, held_out = split_held_out(list(range(len(train))), 0.2, 0)
    held_out = held_out[:MAX_HELD_OUT]
    learner = method.learner(shape, len(learned))
    rng = np.random.default_rng(0)
    good, drawn, distances = [], [], []
    with torch.inference_mode():
        for encoded, _ in batches(detector, shape, [train[i] for i in learned], cache):
            learner.add(encoded)
        scorer = method.scorer(learner.finish(), shape)
        for first in range(0, len(held_out), BATCH):
            pictures = [decode(train[i], value_range=shape.value_range).pixels for i in held_out[first : first + BATCH]]
            with_defects = [
                defects.lay_over(p, draw(p.shape[:2], rng, p))
                for p in pictures
                for draw in (defects.scratch, defects.spot)
            ]
            scored = scorer(method.encode(torch.from_numpy(np.stack([shape.prepare(p) for p in pictures]))))
            good += scored.scores.tolist()
            distances.append(float(scored.maps.mean()))
            batch = torch.from_numpy(np.stack([shape.prepare(p) for p in with_defects]))
            drawn += scorer(method.encode(batch)).scores.tolist()
    labels = np.array([False] * len(good) + [True] * len(drawn))
    return {
        "drawn": auroc(labels, np.array(good + drawn)),
        "margin": float((np.median(drawn) - np.mean(good)) / np.std(good)),
        "spread": -float(np.std(good) / np.mean(good)),
        "distance": mean(distances),
    }


def table(found: dict[str, dict[str, dict[str, float]]]) -> Table:
    """What each way of choosing reaches: by a signal on the set itself, and the best on all other sets."""
    ways = ("best on the others", *SIGNALS, "best in hindsight")
    shown = Table("set", *ways, title="image AUROC of what is chosen")
    reached = {way: [] for way in ways}
    for name, row in found.items():
        others = [of for other, of in found.items() if other != name] or [row]
        chosen = {signal: max(CANDIDATES, key=lambda c: row[c][signal]) for signal in SIGNALS}
        chosen["best on the others"] = max(CANDIDATES, key=lambda c: mean(of[c]["auroc"] for of in others))
        chosen["best in hindsight"] = max(CANDIDATES, key=lambda c: row[c]["auroc"])
        for way in ways:
            reached[way].append(row[chosen[way]]["auroc"])
        shown.add_row(name, *(f"{chosen[way]} {row[chosen[way]]['auroc']:.3f}" for way in ways))
    shown.add_row("mean", *(f"{mean(reached[way]):.4f}" for way in ways))
    return shown


if __name__ == "__main__":
    main()

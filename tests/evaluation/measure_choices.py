"""Which method stands behind each of the app's words for choosing one: `demo/tabs/choices.py`.

    python -m tests.evaluation.measure_choices ROOT[@N]... [--scene SCENE]... [--json OUT.json]

Three scenes are made of each set's own pictures, and every candidate learns the good ones and scores the others:

- `as they are`: how long a fit takes and a prediction of one picture, the candidates in turn, the shortest of three.
- `anywhere`: each picture is turned by a multiple of 90° and lies at a place drawn at random on a canvas of one and a
  half times its side, whose rest repeats the picture's border.
- `large`: each picture is glued together from as many of the set's as make it 512 pixels wide or more; in a defective
  one, a single one of them is defective.

Printed are image AUROCs, and means over the sets. ROOT@N learns from N of the good pictures, chosen by seed 0.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import numpy as np
from rich.console import Console
from rich.table import Table

import admodels
from admodels.evaluation.metrics import auroc
from admodels.files import write_text
from admodels.pictures.images import decode
from admodels.runtime.memory import keep_freed_memory
from tests.evaluation.measure_accuracy import sets

CANVAS, LARGE_SIDE, N_LARGE, N_LARGE_TEST, MAX_TEST = 1.5, 512, 24, 20, 40
ONE_MEMORY = {"patch_wise": False}
TILED = {"image_size": 512, "tile_size": 256}
CANDIDATES: dict[str, dict[str, tuple[str, dict]]] = {
    "as they are": {
        "fapm": ("fapm", {}),
        "fapm 8,16": ("fapm", {"layers": "8,16"}),
        "fapm 16": ("fapm", {"layers": "16"}),
        "fapm 192 px": ("fapm", {"image_size": 192}),
        "patchcore": ("patchcore", {}),
        "padim_isvd": ("padim_isvd", {}),
    },
    "anywhere": {
        "fapm": ("fapm", {}),
        "fapm grid 3": ("fapm", {"grid": 3}),
        "fapm one memory": ("fapm", ONE_MEMORY),
        "fapm one memory, 1 %": ("fapm", {**ONE_MEMORY, "coreset_ratio": 0.01}),
        "patchcore": ("patchcore", {}),
        "patchcore 10 %": ("patchcore", {"coreset_ratio": 0.1}),
        "padim_isvd": ("padim_isvd", {}),
    },
    "large": {
        "fapm": ("fapm", {}),
        "fapm 512": ("fapm", {"image_size": 512}),
        "four tiles of fapm": ("tiled", {**TILED, "stride": 256, "method": "fapm"}),
        "four tiles of fapm, maximum": ("tiled", {**TILED, "stride": 256, "method": "fapm", "score_merge": "max"}),
        "nine tiles of fapm": ("tiled", {**TILED, "stride": 128, "method": "fapm"}),
        "nine tiles of fapm, maximum": ("tiled", {**TILED, "stride": 128, "method": "fapm", "score_merge": "max"}),
        "patchcore 512": ("patchcore", {"image_size": 512}),
        "four tiles of padim_isvd": ("tiled", {**TILED, "stride": 256, "method": "padim_isvd"}),
    },
}
# To learn from, to score, and which of these are defective.
Pictures = tuple[list[np.ndarray], list[np.ndarray], np.ndarray]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("roots", nargs="+")
    parser.add_argument("--scene", action="append", choices=tuple(CANDIDATES))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    keep_freed_memory()
    console, found = Console(width=200), {}
    for scene in asked.scene or CANDIDATES:
        rows: dict[str, dict[str, float]] = {}
        for name, data, train in sets(asked.roots):
            rng = np.random.default_rng(0)
            good = [pixels(path) for path in train]
            test = [(pixels(item.path), item.is_defective) for item in data.test]
            if scene == "as they are":
                row = seconds(good)
            else:
                row = accuracies(scene, (anywhere if scene == "anywhere" else large)(good, test, rng))
            rows[name] = row
            console.print(scene, name, {c: round(v, 4) for c, v in row.items()}, soft_wrap=True)
        found[scene] = rows
        console.print(table(scene, rows))
        if asked.json is not None:
            write_text(asked.json, json.dumps(found, indent=2) + "\n")


def pixels(path: Path) -> np.ndarray:
    """A picture's pixels, uint8 (H, W, 3)."""
    return decode(path).pixels


def seconds(good: list[np.ndarray]) -> dict[str, float]:
    """Of each candidate, the time of a fit, and of a prediction as `<candidate>, one picture`."""
    detectors = {name: admodels.create(key, **more) for name, (key, more) in CANDIDATES["as they are"].items()}
    found: dict[str, float] = {}

    def keep(name: str, work: Callable[[], object]) -> None:
        started = time.perf_counter()
        work()
        found[name] = min(found.get(name, np.inf), time.perf_counter() - started)

    for _ in range(3):
        for name, detector in detectors.items():
            keep(name, lambda d=detector: d.fit(good))
    for _ in range(30):
        for name, detector in detectors.items():
            keep(f"{name}, one picture", lambda d=detector: d.predict(good[0]))
    return found


def accuracies(scene: str, pictures: Pictures) -> dict[str, float]:
    """Of each candidate, the image AUROC."""
    good, test, labels = pictures
    found = {}
    for name, (key, options) in CANDIDATES[scene].items():
        predictions = admodels.create(key, **options).fit(good).predict_batch(test)
        found[name] = auroc(labels, np.array([p.score for p in predictions]))
    return found


def anywhere(good: list[np.ndarray], test: list[tuple[np.ndarray, bool]], rng: np.random.Generator) -> Pictures:
    """The same pictures, turned, at places drawn at random."""
    test = [item for kind in (False, True) for item in [t for t in test if t[1] == kind][:MAX_TEST]]
    placed = [_placed(picture, rng) for picture, _ in test]
    return [_placed(picture, rng) for picture in good], placed, np.array([bad for _, bad in test])


def _placed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    turned = np.rot90(picture, rng.integers(4))
    sides = np.array(turned.shape[:2])
    free = (sides * (CANVAS - 1)).astype(int)
    first = [int(rng.integers(n + 1)) for n in free]
    around = [(a, int(n) - a) for a, n in zip(first, free, strict=True)]
    return np.ascontiguousarray(np.pad(turned, [*around, (0, 0)], mode="edge"))


def large(good: list[np.ndarray], test: list[tuple[np.ndarray, bool]], rng: np.random.Generator) -> Pictures:
    """Large pictures, each glued together from several; a defective one holds one that is defective."""
    n = -(-LARGE_SIDE // min(good[0].shape[:2]))
    fine, bad = [p for p, is_bad in test if not is_bad], [p for p, is_bad in test if is_bad]

    def glued(parts: list[np.ndarray], one: np.ndarray | None = None) -> np.ndarray:
        cells = [parts[i] for i in rng.choice(len(parts), n * n, replace=len(parts) < n * n)]
        if one is not None:
            cells[rng.integers(n * n)] = one
        return np.concatenate([np.concatenate(cells[i * n : (i + 1) * n], axis=1) for i in range(n)])

    whole = [glued(fine) for _ in range(N_LARGE_TEST)]
    broken = [glued(fine, bad[i % len(bad)]) for i in range(N_LARGE_TEST)]
    labels = np.repeat([False, True], N_LARGE_TEST)
    return [glued(good) for _ in range(N_LARGE)], whole + broken, labels


def table(scene: str, rows: dict[str, dict[str, float]]) -> Table:
    """A row for each set, and their mean."""
    names = list(next(iter(rows.values())))
    shown = Table("", *names, title=scene)
    for name, row in rows.items():
        shown.add_row(name, *(f"{row[c]:.4f}" for c in names))
    shown.add_row("mean", *(f"{mean(row[c] for row in rows.values()):.4f}" for c in names))
    return shown


if __name__ == "__main__":
    main()

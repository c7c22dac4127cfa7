"""What is called drift on real pictures, and what is not.

    python -m tests.core.measure_drift ROOT[@N]... [--methods fapm,padim_isvd]

The good pictures of each set are shuffled by each of several seeds: N (60, or half of them) are given to the fit, up to
60 of the rest are new. Four questions, each of batches of the new ones: as they are (random batches of 8 or more); with
a usual share of the test's defective pictures among them; all of them changed, brighter or shifted say; and batches of
defective pictures alone, one for each kind of defect. A change counts as one that raises scores where at least 10 %
more of the pictures exceed every good picture kept aside, or rank above those in three of four pairs.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageFilter
from rich.console import Console
from rich.table import Table

import admodels
from admodels.core.calibration import Calibration
from admodels.core.drift import MIN_GROUP, drift_of, rank_sum
from admodels.evaluation.datasets import Dataset, find_datasets
from admodels.evaluation.robustness import CHANGES
from admodels.pictures.images import ImageLike, decode
from admodels.runtime.memory import keep_freed_memory

N_SEEDS, N_FIT, MAX_NEW, MAX_KIND, N_CHANGED = 4, 60, 60, 30, 24
N_BATCHES = 100  # of each seed
SHARE = (0.05, 0.4)  # of defective pictures in a mixed batch

Found = tuple[np.ndarray, np.ndarray]  # scores and backgrounds


def _brighter(pixels: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(np.rint(pixels * factor), 0, 255).astype(np.uint8)


def _gradient(pixels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(pixels * np.linspace(0.85, 1.15, pixels.shape[1])[None, :, None]), 0, 255).astype(np.uint8)


def _defocused(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.0)))


def _shifted(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    down, right = round(0.05 * height), round(0.05 * width)
    return np.pad(pixels, ((down, 0), (right, 0), (0, 0)), mode="reflect")[:height, :width]


ALL_CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = CHANGES | {
    "5 % brighter": lambda pixels: _brighter(pixels, 1.05),
    "20 % brighter": lambda pixels: _brighter(pixels, 1.2),
    "light from one side": _gradient,
    "defocused": _defocused,
    "shifted by 5 %": _shifted,
}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("roots", nargs="+")
    parser.add_argument("--methods", default="fapm,padim_isvd")
    asked = parser.parse_args()
    keep_freed_memory()
    console = Console(width=180)
    columns = (
        "method",
        "set",
        "ordinary",
        "with defects",
        "defects alone",
        "changes that raise scores",
        "other changes",
    )
    shown, total = Table(*columns, title="called drift"), {}
    for method in asked.methods.split(","):
        for root in asked.roots:
            folder, _, n = root.partition("@")
            for name, data in find_datasets(folder).items():
                called, n_of = measured(method, name, data, int(n or N_FIT))
                shown.add_row(method, name, *(f"{called[k]} of {n_of[k]}" for k in KINDS))
                console.print(method, name, dict(called), dict(n_of), soft_wrap=True)
                for kind in KINDS:
                    before = total.get(kind, (0, 0))
                    total[kind] = before[0] + called[kind], before[1] + n_of[kind]
    shown.add_row("all", "", *("{} of {}".format(*total[kind]) for kind in KINDS))
    console.print(shown)


KINDS = ("ordinary", "mixed", "defective", "raised", "not raised")


def measured(method: str, name: str, data: Dataset, n_fit: int) -> tuple[Counter, Counter]:
    """How many batches of one set are called drift, and of how many, by kind of batch."""
    good = [*data.train, *(item.path for item in data.test if not item.is_defective)]
    called, n_of = Counter(), Counter()
    for seed in range(N_SEEDS):
        rng = np.random.default_rng(seed)
        shuffled = [good[i] for i in rng.permutation(len(good))]
        n_first = min(n_fit, len(good) // 2)
        detector = admodels.create(method).fit(shuffled[:n_first], seed=seed)
        calibration, new = detector.calibration_, shuffled[n_first : n_first + MAX_NEW]
        ordinary = scored(detector, new)

        def count(kind: str, batch: Found, calibration: Calibration = calibration) -> bool:
            is_drift = drift_of(calibration, *batch).is_drift
            called[kind] += is_drift
            n_of[kind] += 1
            return is_drift

        for _ in range(N_BATCHES):
            count("ordinary", some(rng, ordinary, int(rng.integers(MIN_GROUP, len(new) + 1))))
        kinds: dict[str, list[ImageLike]] = {}
        for item in data.test:
            if item.is_defective and len(kinds.setdefault(item.kind, [])) < MAX_KIND:
                kinds[item.kind].append(item.path)
        for kind, images in kinds.items():
            defective = scored(detector, images)
            for _ in range(N_BATCHES // len(kinds)):
                n = int(rng.integers(MIN_GROUP, min(len(new), 40) + 1))
                n_bad = min(max(1, round(n * rng.uniform(*SHARE))), len(images))
                parts = zip(some(rng, ordinary, n - n_bad), some(rng, defective, n_bad), strict=True)
                count("mixed", tuple(np.concatenate(part) for part in parts))
            if len(images) >= MIN_GROUP and count("defective", defective):
                print(f"  {method} {name}, seed {seed}: {len(images)} of {kind} alone")
        if seed == 0:
            pixels = [decode(image).pixels for image in new[:N_CHANGED]]
            base = np.mean(ordinary[0] > calibration.scores[-1])
            for change, of in ALL_CHANGES.items():
                changed = scored(detector, [of(picture) for picture in pixels])
                n_more = np.mean(changed[0] > calibration.scores[-1]) - base
                is_raised = n_more >= 0.1 or rank_sum(changed[0], calibration.scores)[0] >= 0.75
                if not count("raised" if is_raised else "not raised", changed) and is_raised:
                    print(f"  {method} {name}: {change} raises scores and is not called drift")
    return called, n_of


def scored(detector: admodels.Detector, images: Sequence[ImageLike]) -> Found:
    """Scores and backgrounds."""
    found = detector.predict_batch(images)
    return np.array([p.score for p in found]), np.array([p.background for p in found])


def some(rng: np.random.Generator, batch: Found, n: int) -> Found:
    """A random part of a batch."""
    chosen = rng.permutation(len(batch[0]))[:n]
    return batch[0][chosen], batch[1][chosen]


if __name__ == "__main__":
    main()

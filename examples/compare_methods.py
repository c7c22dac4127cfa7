"""Measure every method on the example pictures and write `methods.json`, which the app's "Which method?" shows.

    python -m examples.compare_methods

The pictures to learn from are cut into three folds: a fold's 8, the set's 12 good and its 8 defective test pictures
are the test, the other 16 good ones are given to the fit. Accuracies, times and sizes are means over the six fits.
"""

import json
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

import admodels
from admodels.evaluation import Dataset, TestImage, evaluate, load_dataset, measure_speed
from admodels.runtime import keep_freed_memory

EXAMPLES = Path(__file__).resolve().parent
SETS = ("pa_brg02_rl", "pa_brg03_tl")
N_FOLDS = 3
# What a visitor would not wait for is cut short, and its title says so.
SHORT = {"efficientad": ({"max_minutes": 0.5}, ", half a minute")}


def main() -> None:
    """Measure, print, write."""
    keep_freed_memory()
    rows, conditions = [], ""
    for key, cls in admodels.METHODS.items():
        results, seconds = [], []
        options, more = SHORT.get(key, ({}, ""))
        for name in SETS:
            data = load_dataset(EXAMPLES / name)
            for fold in range(N_FOLDS):
                good = [TestImage(path, "good") for path in data.train[fold::N_FOLDS]]
                learned = [path for i, path in enumerate(data.train) if i % N_FOLDS != fold]
                detector = admodels.create(key, **options)
                test = Dataset(data.root, learned, [*good, *data.test], data.layout)
                results.append(evaluate(detector, test, robustness=False))
                speed = measure_speed(detector, learned[:1])
                seconds.append(speed.network.p50)
                conditions = conditions or speed.conditions  # of the first method, whose network most of them share
        rows.append(
            {
                "method": key,
                "title": cls.title + more,
                "image_auroc": round(mean(r.image_auroc for r in results), 4),
                "pixel_auroc": round(mean(r.pixel_auroc for r in results), 4),
                "fit_seconds": round(mean(r.fit_seconds for r in results), 2),
                "predict_fps": round(1 / mean(seconds), 1),
                "model_mib": round(mean(r.model_mib for r in results), 2),
            }
        )
    content = {
        "what": "the two example sets, 16 good pictures given to each fit, mean of six fits",
        "conditions": conditions,
        "methods": rows,
    }
    (EXAMPLES / "methods.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    table = Table(*rows[0], title=f"{content['what']}; {conditions}")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

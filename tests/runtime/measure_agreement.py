"""Whether engines agree, on whole data sets: scores and verdicts of all test pictures, with PyTorch and with OpenVINO.

    python -m tests.runtime.measure_agreement ROOT[@N]... [--method fapm]

`ROOT@N` learns from N of its good pictures. Each model is fitted with PyTorch in float32, saved, and loaded with both.
"""

import argparse
import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

import admodels
from admodels.runtime.memory import keep_freed_memory
from tests.evaluation.measure_accuracy import sets


def main() -> None:
    """Print a row for each set and method."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("roots", nargs="+")
    parser.add_argument("--method", action="append")
    asked = parser.parse_args()
    keep_freed_memory()
    console, name = Console(width=110), f"measure-agreement-{os.getpid()}"
    table = Table("set", "method", "pictures", "largest relative difference", "other verdicts")
    for title, data, train in sets(asked.roots):
        for method in asked.method or ["fapm"]:
            os.environ["ADMODELS_ENGINE"] = "torch"
            detector = admodels.create(method, device="cpu", precision="float32").fit(train)
            admodels.save(detector, name)
            try:
                n, apart, other = compared(name, [item.path for item in data.test])
            finally:
                admodels.LOCAL.delete(name)
            table.add_row(title, method, str(n), f"{apart:.1e}", str(other))
            console.print(table)


def compared(name: str, paths: list[Path]) -> tuple[int, float, int]:
    """How many pictures, the largest difference of their scores as a part of the score, and verdicts that differ."""
    found = []
    for engine in ("torch", "openvino"):
        os.environ["ADMODELS_ENGINE"] = engine
        detector = admodels.load(name, device="cpu")
        found.append([(p.score, p.is_anomalous) for p in detector.predict_stream(paths)])
    pairs = list(zip(*found, strict=True))
    apart = max(abs(a - b) / abs(a) for (a, _), (b, _) in pairs)
    return len(pairs), apart, sum(a != b for (_, a), (_, b) in pairs)


if __name__ == "__main__":
    main()

"""`benchmark gpu`: what a machine makes of everything that computes here, into one file."""

from pathlib import Path
from typing import Any

import admodels
from admodels.cli.terminal import Rows, say, warn
from admodels.evaluation.gpu_benchmark import GpuBenchmark

KEY = "gpu"  # in place of a method
FILE = Path("figures.json")


def benchmark_gpu(file: Path, device: str, minutes: float) -> None:
    """Measure, print and keep each part; what the file has already is not measured again."""
    running = GpuBenchmark(admodels.DETECTORS, file, device=device)
    for name, found in running.run(60 * minutes):
        say(f"{name}: {_in_short(found)}")
    table = Rows("", "fit, pictures/s", "predict, ms at batch 1", "p95", "pictures/s at the largest batch", "MiB")
    for name, found in running.found.items():
        if name.startswith("method ") and "error" not in found:
            predicted = list(found["predict"].values())
            first, last = predicted[0]["network"], predicted[-1]["network"]
            table.add_row(
                name.removeprefix("method "),
                f"{found['fit_pictures_per_second']:,.1f}",
                f"{first['p50_ms']:.2f}",
                f"{first['p95_ms']:.2f}",
                f"{last['per_second']:,.1f}",
                f"{found['fit_peak_mib']:,}",
            )
    say(table)
    say(f"Written to {file}.")
    if running.missing:
        warn(f"not measured: {', '.join(running.missing)}. Run the same command again to go on.")


def _in_short(found: dict[str, Any]) -> str:
    if "error" in found:
        return found["error"]
    if "fit_seconds" in found:
        return f"fit {found['fit_pictures_per_second']:,.1f} pictures/s"
    if "pictures_per_second" in found:
        rows = found["pictures_per_second"]
        return "; ".join(f"{batch}: {row}" for batch, row in rows.items())
    return ", ".join(f"{name} {value}" for name, value in found.items() if isinstance(value, str | int | float))

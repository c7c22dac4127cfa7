"""All methods on one data set: accuracy, time, memory and size side by side."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from admodels.core.detector import Detector
from admodels.errors import AdmodelsError
from admodels.evaluation.accuracy import evaluate
from admodels.evaluation.datasets import load_dataset
from admodels.evaluation.report import RATE_COLUMNS, rate_cells
from admodels.evaluation.timing import measure_speed
from admodels.files import write_text
from admodels.runtime.memory import keep_freed_memory

Row = dict[str, Any]


def compare(
    create: Callable[..., Detector],
    requests: dict[str, tuple[str, dict[str, Any]]],
    data: Path,
    *,
    device: str = "auto",
    n_train: int | None = None,
    seed: int = 0,
    on_row: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Evaluate and time each method in a process of its own, so that its peak memory is its own.

    Args:
        create: builds a detector by method, device and options; of a module, since a process imports it by name.
        requests: name to method and options.
        data: a data set in any known layout.
        on_row: called with every row as soon as it is there.

    Returns:
        For each name the fields of `Evaluation`, and `speed`: those of `Speed` at batch 1.

    Raises:
        AdmodelsError: as the method itself raises it, or a process died, most likely because it ran out of memory.
    """
    rows = []
    spawn = multiprocessing.get_context("spawn")  # a fork would begin with all that this process holds
    for name, (method, options) in requests.items():
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            try:
                row = pool.submit(_measured, create, method, options, data, device, n_train, seed).result()
            except BrokenProcessPool as error:
                raise AdmodelsError(
                    f"{name}: its process was stopped, most likely because it ran out of memory. Use --n-train or "
                    "other options."
                ) from error
        rows.append({"name": name, **row})
        if on_row is not None:
            on_row(rows[-1])
    return rows


def write_scatter(path: Path, rows: list[Row]) -> None:
    """Image AUROC against milliseconds a picture, size of the mark by the model's, as one HTML file."""
    import plotly.graph_objects as go  # here, since it takes a while that only a figure needs

    latency = [row["speed"]["network"]["p50"] * 1e3 for row in rows]
    figure = go.Figure(
        go.Scatter(
            x=latency,
            y=[row["image_auroc"] for row in rows],
            mode="markers+text",
            text=[row["name"] for row in rows],
            textposition="top center",
            marker={"size": [10 + row["model_mib"] ** 0.5 for row in rows], "color": "#0d9488"},
            customdata=[[row["model_mib"], row["fit_seconds"], *rate_cells(row, _figure)] for row in rows],
            hovertemplate="%{text}<br>image AUROC %{y:.4f}<br>%{x:.1f} ms<br>model %{customdata[0]:.1f} MiB<br>"
            "fit %{customdata[1]:.1f} s<br>"
            + "<br>".join(f"{title}: %{{customdata[{2 + i}]}}" for i, title in enumerate(RATE_COLUMNS))
            + "<extra></extra>",
        )
    )
    figure.update_layout(
        title={"text": rows[0]["speed"]["conditions"], "font": {"size": 12}},
        xaxis={"title": "ms a picture (network, score, map; p50)", "rangemode": "tozero"},
        yaxis={"title": "image AUROC"},
        template="plotly_white",
    )
    write_text(path, figure.to_html())


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _measured(
    create: Callable[..., Detector],
    method: str,
    options: dict[str, Any],
    data: Path,
    device: str,
    n_train: int | None,
    seed: int,
) -> Row:
    """Runs in a process of its own."""
    keep_freed_memory()
    detector, dataset = create(method, device=device, **options), load_dataset(data)
    result = asdict(evaluate(detector, dataset, n_train=n_train, seed=seed, robustness=False))
    return result | {"speed": asdict(measure_speed(detector, [dataset.test[0].path]))}

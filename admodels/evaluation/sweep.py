"""Evaluate a method on every category of a data set, resuming where it stopped; averages and the paper's table."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from admodels.core.detector import Detector
from admodels.core.method import DetectorConfig, Method
from admodels.core.results import OnProgress, Progress
from admodels.errors import DataError
from admodels.evaluation import report
from admodels.evaluation.accuracy import PIXEL_SIDE, Evaluation, evaluate
from admodels.evaluation.datasets import Dataset
from admodels.evaluation.published import OBJECTS, PUBLISHED, TEXTURES
from admodels.evaluation.rates import RATES, found_at
from admodels.evaluation.robustness import Shift
from admodels.files import named_files, write_text
from admodels.runtime.cluster import Cluster

MEASURES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO 30 %"}
ADDED_LATER = {"at_rates"}  # fields that results of earlier versions lack; they are read all the same


def sweep(
    new_detector: Callable[[], Detector],
    datasets: dict[str, Dataset],
    folder: Path,
    *,
    n_train: int | None = None,
    seed: int = 0,
    pixel_side: int | None = PIXEL_SIDE,
    robustness: bool = True,
    on_ray: bool = False,
    on_category: Callable[[str, dict[str, Any], bool], None] | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, dict[str, Any]]:
    """Evaluate every category; each result is written to `folder/<category>.json` before the next begins.

    Where a category's name can be no file's, or is another's up to case, a digest of it is part of the file's name.

    A category whose file is there, from the same request, is not evaluated again.

    Args:
        new_detector: makes an unfitted detector.
        on_ray: run categories as tasks on a Ray cluster (`runtime.cluster.Cluster`); `on_progress` is then told of
            categories.
        on_category: called with name, result and whether it was there already.

    Returns:
        For each category the fields of `Evaluation`, and `mistakes`: the worst ones as small pictures.

    Raises:
        DataError: the folder cannot be made, or holds results of another request.
        OutputError: a result cannot be written into it.
    """
    detector = new_detector()
    asked = {"n_train": n_train, "seed": seed, "pixel_side": pixel_side, "robustness": robustness}
    request = {"method": detector.key, "options": detector.config.stored(), **asked}
    results: dict[str, dict[str, Any]] = {}

    files = {name: folder / file for name, file in named_files(datasets, ".json").items()}

    def take(name: str, result: dict[str, Any], was_there: bool) -> None:
        if not was_there:
            write_text(files[name], json.dumps({"request": request, "result": result}, indent=2) + "\n")
        results[name] = result
        if on_category is not None:
            on_category(name, result, was_there)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = {name: _read(files[name], request) for name in datasets}
        wanted = [name for name in datasets if found[name] is None]
        for name, result in found.items():
            if result is not None:
                take(name, result, True)
        if on_ray:
            started = time.perf_counter()

            def told(n_done: int) -> None:
                if on_progress is not None:
                    on_progress(Progress("categories", n_done, len(wanted), time.perf_counter() - started))

            with Cluster(use_gpu=detector.device.type == "cuda") as cluster:
                given = (type(detector.method), detector.config, str(detector.device), asked, cluster.n_threads)
                for i, result in cluster.run(_measured_by_worker, [(datasets[n], *given) for n in wanted], told):
                    take(wanted[i], result, False)
        else:
            for name in wanted:
                take(name, _measured(new_detector(), datasets[name], asked, on_progress), False)
    except OSError as error:
        raise DataError(f"results could not be written to {folder} ({error}). Choose another folder.") from error
    return {name: results[name] for name in datasets}


def _measured(
    detector: Detector, data: Dataset, asked: dict[str, Any], on_progress: OnProgress | None
) -> dict[str, Any]:
    measured = evaluate(detector, data, **asked, on_progress=on_progress)
    return asdict(measured) | {"mistakes": report.mistakes(detector, data.test, measured)}


def _measured_by_worker(
    data: Dataset, method: type[Method], config: DetectorConfig, device: str, asked: dict[str, Any], n_threads: int
) -> dict[str, Any]:
    """In a task of a cluster."""
    torch.set_num_threads(n_threads)
    return _measured(Detector(method(config, device=device)), data, asked, None)


def averages(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means of the measures over all categories, and over MVTec's textures and objects where all of them are there.

    Returns:
        The keys of `MEASURES`, and `at_rates` with rate, detection_rate and false_alarm_rate; None where one category
        has no figure.
    """
    groups = {"textures": TEXTURES, "objects": OBJECTS}
    present = {title: names for title, names in groups.items() if set(names) <= set(results)}
    rows = {}
    for title, names in (present | {"all": tuple(results)}).items():
        found = [results[name] for name in names]
        rows[title] = {key: _mean([result[key] for result in found]) for key in MEASURES}
        rows[title]["at_rates"] = []
        for rate in RATES:
            detections, false_alarms = zip(*(found_at(result, rate) for result in found), strict=True)
            means = {"detection_rate": _mean(detections), "false_alarm_rate": _mean(false_alarms)}
            rows[title]["at_rates"].append({"rate": rate, **means})
    return rows


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else mean(values)


def table_rows(results: dict[str, dict[str, Any]], reference: str | None = None) -> list[list[str]]:
    """A header and one row for each category and average: ours in percent with the interval, then the paper's.

    At each false-alarm rate stand what was found and the false alarms that occurred.

    The paper's averages stand beside ours only where all of its categories were measured.
    """
    published = PUBLISHED[reference].rows if reference else {}
    if set(results) != {*TEXTURES, *OBJECTS}:  # the paper's averages are over these, and comparable with no others
        published = {name: row for name, row in published.items() if name in results}
    header = ["category", *MEASURES.values(), *report.RATE_COLUMNS, "fit s", "FPS"]
    header += [f"{title} (paper)" for title in MEASURES.values()] if reference else []
    rows = [header]
    for name, found in [*results.items(), *averages(results).items()]:  # a category may be called "all" too
        interval = found.get("image_auroc_ci")
        cells = [name, *(_percent(found[key]) for key in MEASURES)]
        if interval:
            cells[1] += f" [{_percent(interval[0])}, {_percent(interval[1])}]"
        cells += report.rate_cells(found, _percent)
        cells += [f"{found[key]:.1f}" if key in found else "" for key in ("fit_seconds", "predict_fps")]
        if reference:
            cells += [
                "–" if value is None else f"{value:.1f}" for value in published.get(name, (None,) * len(MEASURES))
            ]
        rows.append(cells)
    return rows


def write_report(path: Path, results: dict[str, dict[str, Any]], conditions: str, reference: str | None = None) -> None:
    """One HTML file that needs no other: the table, how it was measured, robustness and worst mistakes by category."""
    any_result = next(iter(results.values()))
    options = ", ".join(f"{key}={value}" for key, value in any_result["options"].items())
    paragraphs = [
        f"Figures in percent; in brackets the 95 % bootstrap interval over the test pictures. {conditions}.",
        *([f"Paper: {PUBLISHED[reference].source}."] if reference else []),
        f"Options: {options}.",
        report.RATE_COLUMNS_SAID,
        "Robustness: pictures scored again after a small change; σ is the standard deviation of the held-out normals' "
        "scores.",
    ]
    categories = [
        {
            "name": name,
            "mistakes": result["mistakes"],
            "threshold": result["threshold"],
            "robustness": report.robustness_rows([Shift(**row) for row in result["robustness"]]),
        }
        for name, result in results.items()
    ]
    page = report.TEMPLATES.get_template("sweep.html").render(
        title=f"{any_result['method']} on {len(results)} categories",
        rows=table_rows(results, reference),
        paragraphs=paragraphs,
        categories=categories,
    )
    write_text(path, page)


def _read(file: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_bytes())
        result = content["result"]
        complete = set(Evaluation.__dataclass_fields__) - ADDED_LATER | {"mistakes"} <= set(result)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error!r}). Delete it, and it will be measured again.") from error
    if content.get("request") != request or not complete:
        raise DataError(
            f"{file} holds the result of another request (other options, seed or number of pictures). "
            "Choose another folder, or delete the files there."
        )
    return result


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.1f}"

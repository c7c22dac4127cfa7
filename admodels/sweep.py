"""Evaluate a method on every category of a data set, resuming where it stopped, and write what was found."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from html import escape
from pathlib import Path
from statistics import mean
from typing import Any

from PIL import Image

from admodels.base import Detector
from admodels.datasets import Dataset, TestImage
from admodels.errors import DataError
from admodels.evaluation import PIXEL_SIDE, Evaluation, evaluate
from admodels.images import decode
from admodels.published import OBJECTS, PUBLISHED, TEXTURES
from admodels.render import overlay, shrink
from admodels.results import OnProgress, Prediction

MEASURES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro_30": "AUPRO 30 %"}
N_MISTAKES = 4
PICTURE_SIDE = 220


def sweep(
    new_detector: Callable[[], Detector],
    datasets: dict[str, Dataset],
    folder: Path,
    *,
    n_train: int | None = None,
    seed: int = 0,
    pixel_side: int | None = PIXEL_SIDE,
    on_category: Callable[[str, dict[str, Any], bool], None] | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, dict[str, Any]]:
    """Evaluate every category; each result is written to `folder/<category>.json` before the next begins.

    A category whose file is there, from the same request, is not evaluated again.

    Args:
        new_detector: makes an unfitted detector.
        on_category: called with name, result and whether it was there already.

    Returns:
        For each category the fields of `Evaluation`, and `mistakes`: the worst ones as small pictures.

    Raises:
        DataError: the folder cannot be written, or holds results of another request.
    """
    detector = new_detector()
    request = {
        "method": detector.key,
        "options": asdict(detector.config),
        "n_train": n_train,
        "seed": seed,
        "pixel_side": pixel_side,
    }
    results = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in datasets.items():
            file = folder / f"{name}.json"
            found = _read(file, request)
            if found is None:
                mistakes = _Mistakes()
                measured = evaluate(
                    new_detector(),
                    data,
                    n_train=n_train,
                    seed=seed,
                    pixel_side=pixel_side,
                    on_prediction=mistakes.add,
                    on_progress=on_progress,
                )
                results[name] = asdict(measured) | {"mistakes": mistakes.listed()}
                part = file.with_suffix(".part")
                part.write_text(json.dumps({"request": request, "result": results[name]}, indent=2) + "\n")
                part.replace(file)  # a file that is there is whole
            else:
                results[name] = found
            if on_category is not None:
                on_category(name, results[name], found is not None)
    except OSError as error:
        raise DataError(f"results could not be written to {folder} ({error}). Choose another folder.") from error
    return results


def averages(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Means of the measures over all categories, and over MVTec's textures and objects where all of them are there."""
    groups = {"textures": TEXTURES, "objects": OBJECTS}
    present = {title: names for title, names in groups.items() if set(names) <= set(results)}
    rows = {}
    for title, names in (present | {"all": tuple(results)}).items():
        rows[title] = {
            key: mean(values) if None not in (values := [results[name][key] for name in names]) else None
            for key in MEASURES
        }
    return rows


def table_rows(results: dict[str, dict[str, Any]], reference: str | None = None) -> list[list[str]]:
    """A header and one row for each category and average: ours in percent with the interval, then the paper's."""
    published = PUBLISHED[reference].rows if reference else {}
    header = ["category", *MEASURES.values(), "fit s", "FPS"]
    header += [f"{title} (paper)" for title in MEASURES.values()] if reference else []
    rows = [header]
    for name, found in (results | averages(results)).items():
        interval = found.get("image_auroc_interval")
        cells = [name, *(_percent(found[key]) for key in MEASURES)]
        if interval:
            cells[1] += f" [{_percent(interval[0])}, {_percent(interval[1])}]"
        cells += [f"{found[key]:.1f}" if key in found else "" for key in ("fit_seconds", "predict_fps")]
        if reference:
            cells += [
                "–" if value is None else f"{value:.1f}" for value in published.get(name, (None,) * len(MEASURES))
            ]
        rows.append(cells)
    return rows


def write_report(path: Path, results: dict[str, dict[str, Any]], conditions: str, reference: str | None = None) -> None:
    """One HTML file that needs no other: the table, how it was measured, and the worst mistakes of every category."""
    header, *rows = table_rows(results, reference)
    any_result = next(iter(results.values()))
    options = ", ".join(f"{key}={value}" for key, value in any_result["options"].items())
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    source = f"<p>Paper: {escape(PUBLISHED[reference].source)}.</p>" if reference else ""
    pictures = "".join(_section(name, result) for name, result in results.items())
    path.write_text(
        f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(any_result["method"])}</title>
<meta name="viewport" content="width=device-width"><style>
body {{ font-family: system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1e293b; }}
.scroll {{ overflow-x: auto; }} table {{ border-collapse: collapse; }}
td, th {{ padding: .3rem .7rem; border-bottom: 1px solid #e2e8f0; text-align: left; white-space: nowrap; }}
td {{ font-variant-numeric: tabular-nums; }} p {{ max-width: 75ch; overflow-wrap: anywhere; }}
figure {{ display: inline-block; margin: 0 1rem 1rem 0; }} figcaption {{ font-size: .85rem; max-width: 240px; }}
img {{ border-radius: 6px; max-width: 100%; }}
</style><h1>{escape(any_result["method"])} on {len(results)} categories</h1>
<div class="scroll"><table><tr>{head}</tr>{body}</table></div>
<p>Figures in percent; in brackets the 95 % bootstrap interval over the test pictures. {escape(conditions)}.</p>{source}
<p>Options: {escape(options)}.</p>{pictures}</html>
"""
    )


def _section(name: str, result: dict[str, Any]) -> str:
    figures = "".join(
        f'<figure><img alt="heatmap of {escape(item["name"])}" src="data:image/jpeg;base64,{item["picture"]}">'
        f"<figcaption>{escape(item['name'])}: {escape(item['kind'])}, score {item['score']:.4g} "
        f"{'above' if item['score'] > result['threshold'] else 'not above'} {result['threshold']:.4g}</figcaption>"
        "</figure>"
        for item in result["mistakes"]
    )
    return f"<h2>{escape(name)}: worst mistakes at the threshold</h2>{figures or '<p>None.</p>'}"


class _Mistakes:
    """The pictures on the wrong side of the threshold that lie farthest from it."""

    def __init__(self) -> None:
        self._worst: list[tuple[float, TestImage, Prediction]] = []

    def add(self, item: TestImage, prediction: Prediction) -> None:
        if prediction.is_anomalous != item.is_defective:
            self._worst.append((abs(prediction.score - prediction.threshold), item, prediction))
            self._worst = sorted(self._worst, key=lambda entry: -entry[0])[:N_MISTAKES]

    def listed(self) -> list[dict[str, Any]]:
        """With their heatmaps as JPEG in base64."""
        return [
            {
                "name": item.path.name,
                "kind": item.kind,
                "score": prediction.score,
                "picture": _jpeg(overlay(decode(item.path).pixels, prediction)),
            }
            for _, item, prediction in self._worst
        ]


def _jpeg(pixels: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(shrink(pixels, PICTURE_SIDE)).save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


def _read(file: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text())
        result = content["result"]
        complete = set(Evaluation.__dataclass_fields__) | {"mistakes"} <= set(result)
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

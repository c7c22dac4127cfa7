"""What an evaluation found as one HTML file that needs no other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from admodels.core.detector import Detector
from admodels.evaluation.accuracy import Accuracy
from admodels.evaluation.datasets import TestImage
from admodels.evaluation.robustness import Shift
from admodels.pictures.render import as_address, as_jpeg, overlay

N_MISTAKES = 4
PICTURE_SIDE = 220

# Names of files and models are text, whatever they look like.
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of plain text under a header, named by their first cell, as HTML."""
    return str(TEMPLATES.get_template("pieces.html").module.table(rows))


def mistakes(
    detector: Detector, test: Sequence[TestImage], accuracy: Accuracy, n: int = N_MISTAKES
) -> list[dict[str, Any]]:
    """The worst mistakes at the threshold: name, kind, score, and the heatmap as an address that holds it."""
    found = []
    for position in accuracy.mistakes(n):
        item, decoded = test[position], detector.read(test[position].path)
        shown = overlay(decoded.pixels, detector.predict_decoded([decoded])[0])
        score = accuracy.pictures[position].score
        found.append(
            {
                "name": item.path.name,
                "kind": item.kind,
                "score": score,
                "picture": as_address(as_jpeg(shown, PICTURE_SIDE)),
            }
        )
    return found


def evaluation_page(
    title: str,
    facts: Sequence[tuple[str, str]],
    paragraphs: Sequence[str],
    figures: Sequence[Any],
    found: Sequence[dict[str, Any]],
    accuracy: Accuracy,
) -> str:
    """One model on one set of labelled pictures: figures, curves, worst mistakes, robustness, every raw score.

    Args:
        facts: label and value, as plain text.
        figures: Plotly figures; the library that draws them is put into the page once.
        found: what `mistakes` gave.
    """
    drawn = [
        figure.to_html(full_html=False, include_plotlyjs=i == 0, config={"responsive": True})
        for i, figure in enumerate(figures)
    ]
    return TEMPLATES.get_template("evaluation.html").render(
        title=title,
        facts=[["measure", "value"], *facts],
        paragraphs=paragraphs,
        figures=drawn,
        found=found,
        threshold=accuracy.threshold,
        robustness=robustness_rows(accuracy.robustness),
        scores=[["picture", "kind", "raw score"], *([p.name, p.kind, f"{p.score:.6g}"] for p in accuracy.pictures)],
    )


def robustness_rows(shifts: Sequence[Shift]) -> list[list[str]]:
    """The robustness check as a table, its header first."""
    rows = [["change", "scores move by", "on average, either way", "new alarms", "lost alarms"]]
    for item in shifts:
        moved = [_spreads(item.mean_shift, "+"), _spreads(item.mean_absolute_shift, "")]
        n = len(item.before)
        rows.append([item.change, *moved, f"{item.n_new_alarms} of {n}", f"{item.n_lost_alarms} of {n}"])
    return rows


def _spreads(value: float | None, sign: str) -> str:
    return "–" if value is None else f"{value:{sign}.2f} σ"

"""What an evaluation found as one HTML file that needs no other."""

from collections.abc import Sequence
from html import escape
from typing import Any

from admodels.core.detector import Detector
from admodels.evaluation.accuracy import Accuracy
from admodels.evaluation.datasets import TestImage
from admodels.evaluation.robustness import Shift
from admodels.pictures.render import as_address, as_jpeg, overlay

N_MISTAKES = 4
PICTURE_SIDE = 220

STYLE = """
body { font-family: system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1e293b; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: .5rem 0; }
td, th { padding: .3rem .7rem; border-bottom: 1px solid #e2e8f0; text-align: left; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; } p { max-width: 75ch; overflow-wrap: anywhere; }
figure { display: inline-block; margin: 0 1rem 1rem 0; } figcaption { font-size: .85rem; max-width: 240px; }
img { border-radius: 6px; max-width: 100%; }
"""


def page(title: str, body: str) -> str:
    """A whole document around `body`, which is HTML already."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<h1>{escape(title)}</h1>{body}</html>\n"
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of plain text under a header, named by their first cell; scrolls in its own box where it is too wide."""
    header, *others = rows
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th>{escape(first)}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in others
    )
    return f'<div class="scroll" tabindex="0"><table class="figures"><tr>{head}</tr>{body}</table></div>'


def paragraph(text: str) -> str:
    """Plain text as a paragraph."""
    return f"<p>{escape(text)}</p>"


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
    drawn = "".join(
        figure.to_html(full_html=False, include_plotlyjs=i == 0, config={"responsive": True})
        for i, figure in enumerate(figures)
    )
    scores = [["picture", "kind", "raw score"], *([p.name, p.kind, f"{p.score:.6g}"] for p in accuracy.pictures)]
    parts = [
        table([["measure", "value"], *facts]),
        *map(paragraph, paragraphs),
        drawn,
        "<h2>Worst mistakes at the threshold</h2>",
        mistakes_section(found, accuracy.threshold),
        "<h2>Robustness</h2>",
        table(robustness_rows(accuracy.robustness)),
        "<h2>Raw scores</h2>",
        table(scores),
    ]
    return page(title, "".join(parts))


def mistakes_section(found: Sequence[dict[str, Any]], threshold: float) -> str:
    """What `mistakes` gave, as pictures with captions."""
    figures = "".join(
        f'<figure><img alt="heatmap of {escape(item["name"])}" src="{item["picture"]}">'
        f"<figcaption>{escape(item['name'])}: {escape(item['kind'])}, score {item['score']:.4g} "
        f"{'above' if item['score'] > threshold else 'not above'} {threshold:.4g}</figcaption>"
        "</figure>"
        for item in found
    )
    return f"<div>{figures or '<p>None.</p>'}</div>"


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

"""What an evaluation found as one HTML file that needs no other."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from admodels.core.calibration import n_needed
from admodels.core.detector import Detector
from admodels.evaluation.accuracy import Accuracy
from admodels.evaluation.datasets import TestImage
from admodels.evaluation.rates import RATES, AtRate, found_at
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
        rates=rate_rows(accuracy.at_rates),
        rates_said=rates_statement(accuracy.at_rates),
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


def percent(rate: float) -> str:
    """A false-alarm rate in few characters, such as "1 %" or "1.1 %"."""
    return f"{100 * rate:.2g} %"


RATE_COLUMNS = tuple(f"found / false alarms at {percent(rate)}" for rate in RATES)

RATE_COLUMNS_SAID = (
    "Found / false alarms: the fraction of the defective pictures that is found, and of the good ones that alarms, at "
    "the threshold that the model sets from the good pictures it kept aside for that rate; – where these are too few "
    "for it, or where an earlier version measured."
)


def rate_cells(row: Mapping[str, Any], shown: Callable[[float | None], str]) -> list[str]:
    """The cells under `RATE_COLUMNS` for an evaluation's fields, or an average's.

    Args:
        shown: writes a fraction, or None.
    """
    found = (found_at(row, rate) for rate in RATES)
    return [" / ".join(map(shown, pair)) if pair != (None, None) else "–" for pair in found]


def rate_rows(at_rates: Sequence[AtRate]) -> list[list[str]]:
    """What the threshold for each false-alarm rate finds, in counts, as a table, its header first."""
    rows = [["rate", "found", "false alarms", "threshold"]]
    for at in at_rates:
        counts = [_count(at.n_found, at.n_defective), _count(at.n_false_alarms, at.n_good)]
        rows.append([percent(at.rate), *counts, "–" if at.threshold is None else f"{at.threshold:.4g}"])
    return rows


def rates_statement(at_rates: Sequence[AtRate]) -> str:
    """Where the thresholds of `rate_rows` are from, and which rates the held-out normals are too few for."""
    said = "Each threshold is the one the model sets from the good pictures it kept aside, for that false-alarm rate."
    missing = [at for at in at_rates if not at.is_promised]
    if not missing:
        return said
    least = next(at for at in at_rates if at.rate not in RATES)
    takes = " and ".join(f"{percent(at.rate)} takes {n_needed(at.rate)}" for at in missing)
    n = missing[0].n_held_out
    return f"{said} {takes} good pictures kept aside; there are {n}, enough for {percent(least.rate)} at best."


def _count(n_hits: int | None, n: int) -> str:
    return "–" if n_hits is None or n == 0 else f"{n_hits} of {n}: {n_hits / n:.0%}"


def _spreads(value: float | None, sign: str) -> str:
    return "–" if value is None else f"{value:{sign}.2f} σ"

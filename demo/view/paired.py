"""Two models on the same labelled pictures, as HTML and as a table."""

from typing import Any

from admodels.core import Verdict, size_text
from admodels.evaluation import Paired, count_rows, table
from demo.view import text

COLUMNS = (
    "right",
    "picture",
    "truly",
    "score",
    "threshold",
    "verdict",
    "other: score",
    "other: threshold",
    "other: verdict",
)
# By whether the picture is defective, and whether the model is right.
OUTCOMES = {(True, True): "found", (True, False): "missed", (False, True): "no alarm", (False, False): "false alarm"}
THIS_OTHER = ("this model", "the other model")


def summary(statement: str, models: list[dict[str, Any]], verdicts: Paired, notes: tuple[str, ...]) -> str:
    """The headline, both models side by side, and on how many pictures each alone is right.

    Args:
        models: what the API says of the current model and of the other one.
    """
    warnings = "".join(text.note(said, "warning") for said in notes)
    who = "<h4>Who is right</h4>" + table(count_rows(verdicts, "this one", "the other"))
    return text.headline(statement) + warnings + _figures(models) + who


def _figures(models: list[dict[str, Any]]) -> str:
    rows = [["", *(f"{who}: {row['model']}" for who, row in zip(THIS_OTHER, models, strict=True))]]
    rows.append(["method", *(row["title"] for row in models)])
    rows.append(["image AUROC", *(text.figure(row["image_auroc"]) for row in models)])
    rows.append(["95 % interval", *(_interval(row["image_auroc_ci"]) for row in models)])
    if any(row["pixel_auroc"] is not None for row in models):
        rows.append(["pixel AUROC", *(text.figure(row["pixel_auroc"]) for row in models)])
        rows.append(["AUPRO to 30 %", *(text.figure(row["aupro"]) for row in models)])
    rows.append(["missed", *(_of(row["n_missed"], row["n_defective"]) for row in models)])
    rows.append(["false alarms", *(_of(row["n_false_alarms"], row["n_good"]) for row in models)])
    rows.append(["threshold", *(f"{row['threshold']:.4g}" for row in models)])
    rows.append(["time for a picture", *(f"{row['milliseconds']:.3g} ms" for row in models)])
    rows.append(["FPS", *(f"{row['fps']:.3g}" for row in models)])
    rows.append(["model size", *(size_text(row["model_mib"]) for row in models)])
    timed = "Times are of network, score and map of one picture, measured one model after the other."
    return table(rows) + text.note(timed)


def differing(pictures: list[dict[str, Any]], heatmaps: list[tuple[str, str]], labels: tuple[str, str], n: int) -> str:
    """The first pictures on which the verdicts differ, with both heatmaps; nothing where there are none.

    Args:
        pictures: what the API says of them.
        heatmaps: of each, both as addresses that hold them.
        n: how many pictures there are on which the verdicts differ.
    """
    if not pictures:
        return ""
    drawn = []
    for row, pair in zip(pictures, heatmaps, strict=True):
        sides = []
        for of_model, address, label in zip(row["verdicts"], pair, labels, strict=True):
            score, threshold = text.distinct(of_model["score"], of_model["threshold"])
            outcome = OUTCOMES[row["is_defective"], of_model["is_right"]]
            said = f"{score}, threshold {threshold}"
            sides.append((label, address, "✓" if of_model["is_right"] else "✗", outcome, said))
        drawn.append((row["name"], row["kind"], sides))
    title = "Where they differ" if n == len(pictures) else f"Where they differ: {len(pictures)} of {n} pictures"
    said = "Left this model, right the other one. Both colour a pixel by how rare its value is in good pictures."
    return f"<h4>{title}</h4>" + text.note(said) + text.differences(drawn)


def every_picture(pictures: list[dict[str, Any]]) -> list[list[Any]]:
    """A row for each picture, in the order of COLUMNS."""
    rows = []
    for row in pictures:
        line: list[Any] = [_who(*(of_model["is_right"] for of_model in row["verdicts"])), row["name"], row["kind"]]
        for of_model in row["verdicts"]:
            numbers = (float(f"{of_model[name]:.6g}") for name in ("score", "threshold"))
            line += [*numbers, text.in_words(Verdict(of_model["verdict"]))]
        rows.append(line)
    return rows


def _who(this: bool, other: bool) -> str:
    if this == other:
        return "both" if this else "neither"
    return "this" if this else "other"


def _interval(value: tuple[float, float] | None) -> str:
    return f"{value[0]:.3f} to {value[1]:.3f}" if value else "–"


def _of(n: int, n_all: int) -> str:
    return f"{n} of {n_all}" if n_all else "–"

"""Results as small pieces of HTML, from templates that escape whatever is filled in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from admodels import METHODS, Calibration, Detector, Estimate, Prediction
from admodels.core import Drift, Verdict, size_text
from admodels.evaluation import (
    Accuracy,
    Quantiles,
    Speed,
    conditions,
    percent,
    rate_interval,
    rate_rows,
    rates_statement,
    robustness_rows,
    table,
)
from admodels.models import LOCAL_PREFIX, ModelInfo
from admodels.pictures import ImageSet, as_address, as_jpeg, colour_table, picture_name
from admodels.tiling import TileGrid

PICTURE_SIDE = 640
NEXT = "Next: open Inspect and drop pictures of other parts, good and defective ones."
NEXT_LIVE = "Next: look live. Hold parts in front of the camera, good and defective ones."
NO_RESULT = "The result will appear here."
# A sign, since colours alone say nothing to some.
SIGNS = {Verdict.GOOD: "✓", Verdict.BORDERLINE: "?", Verdict.SUSPECTED: "✗"}
WORDS = {Verdict.GOOD: "Good", Verdict.BORDERLINE: "Borderline", Verdict.SUSPECTED: "Defect suspected"}
N_REGIONS = 5  # said of a picture

_TEMPLATES = FileSystemLoader(Path(__file__).parent / "templates")
_PIECES = Environment(loader=_TEMPLATES, autoescape=True, undefined=StrictUndefined).get_template("pieces.html").module


def _piece(name: str, *given: Any) -> str:
    # A plain string: pieces are put together as they are, and not escaped once more.
    return str(getattr(_PIECES, name)(*given))


def head(device: str, duplicate: str) -> str:
    """The page's head.

    Args:
        duplicate: on a Space that visitors share, the address that duplicates it; empty elsewhere.
    """
    return _piece("head", device, duplicate)


def facts(pairs: list[tuple[str, str]]) -> str:
    """A grid of labelled values that wraps on a narrow window."""
    return _piece("facts", pairs)


def note(message: str, kind: str = "note") -> str:
    """One paragraph; kind is "note", "warning" or "error"."""
    return _piece("note", message.splitlines(), kind)


def picture(pixels: np.ndarray, words: str) -> str:
    """A picture as wide as its column, and what it shows in words; no file is left behind."""
    return _piece("picture", as_address(as_jpeg(pixels, PICTURE_SIDE)), words)


def icon(address: str, height: int) -> str:
    """A small picture in a table."""
    return _piece("icon", address, height)


def headline(words: str) -> str:
    """What matters most of a result."""
    return _piece("headline", words)


def differences(pictures: list[tuple[str, str, list[tuple[str, ...]]]]) -> str:
    """Pictures that two models judge differently, side by side.

    Args:
        pictures: name, what it truly is, and for each model its label, the heatmap as an address that holds it, a sign,
            whether it is right in a word or two, and its score in words.
    """
    return _piece("differences", pictures)


def example_card(name: str, strip: Path) -> str:
    """What an example shows: a good picture, a defective one, and its heatmap."""
    return _piece("example", name, as_address(strip.read_bytes()))


def tiles(grid: TileGrid, one_model: bool) -> str:
    """What a grid of tiles means."""
    height, width = grid.tile
    overlap = [side - step for side, step in zip(grid.tile, _steps(grid), strict=True)]
    models = "one model for all of them" if one_model else f"{grid.n_tiles} models"
    overlapping = f", overlapping by {overlap[1]}×{overlap[0]}" if any(overlap) else ", side by side"
    cost = grid.n_tiles * height * width / (grid.size[0] * grid.size[1])
    return note(
        f"{len(grid.rows)} × {len(grid.columns)} tiles of {width}×{height} px{overlapping}: {models}. A picture is "
        f"resized to {grid.size[1]}×{grid.size[0]} px and costs {cost:.1f} times as much as it would whole. Drawn "
        "brighter where tiles overlap, dotted where seams are smoothed."
    )


def _steps(grid: TileGrid) -> tuple[int, int]:
    return tuple(
        starts[1] - starts[0] if len(starts) > 1 else side
        for starts, side in zip((grid.rows, grid.columns), grid.tile, strict=True)
    )


def tile_scores(scores: np.ndarray, merge: str) -> str:
    """The scores of the tiles in their places, and what each adds to the picture's."""
    total, largest = float(scores.sum()), float(scores.max())
    low = float(scores.min())
    rows = []
    for row in scores.tolist():
        line = []
        for value in row:
            share = f"{value / total:.0%}" if merge == "mean" and total > 0 else "decides" if value == largest else ""
            line.append((f"{value:.3g}", share, f"{(value - low) / max(largest - low, 1e-12):.2f}"))
        rows.append(line)
    said = "each adds its part to the mean" if merge == "mean" else "the largest is the picture's"
    return note(f"Scores of the tiles, {said}:") + _piece("tile_scores", rows)


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 0.1:
        return "less than 0.1 s"
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def distinct(*values: float, digits: int = 4) -> list[str]:
    """Numbers with so many digits, or as many more as it takes that different ones look different."""
    for more in range(digits, 18):  # 17 tell any two floats apart
        shown = [f"{value:.{more}g}" for value in values]
        if len(set(shown)) == len(set(values)):
            break
    return shown


def picked(images: ImageSet, source: str) -> str:
    """What was found in the chosen pictures: how many, what cannot be read, what is there twice."""
    n = len(images.images)
    parts = [note(f"{n} good picture{'s' if n != 1 else ''} from {source}.")]
    if images.errors:
        listed = "\n".join(f"• {error}" for error in images.errors)
        parts.append(note(f"{len(images.errors)} cannot be used and will be left out:\n{listed}", "warning"))
    if images.duplicates:
        groups = "; ".join(
            ", ".join(picture_name(images.images[i], i) for i in group) for group in images.duplicates[:5]
        )
        copies = "1 exact copy" if images.n_duplicates == 1 else f"{images.n_duplicates} exact copies"
        parts.append(note(f"{copies}: {groups}. They are held out together.", "warning"))
    return "".join(parts) + "".join(note(notice, "warning") for notice in images.notices)


def captured(shots: list[tuple[str, str]], n_wanted: int, n_alike: int) -> str:
    """Pictures that a camera took, the last one first, and how many frames were passed over.

    Args:
        shots: name and small picture, as an address, of each.
        n_wanted: how many there are to be; 0 where no more are taken.
    """
    n = len(shots)
    many = f"of {n_wanted}" if n_wanted else f"picture{'s' if n != 1 else ''}"
    said = ""
    if n_alike:
        said = f"{n_alike} frame{'s' if n_alike != 1 else ''} passed over: no different from the picture before. "
    said += "Turn the part, or take the next one." if n_wanted else "Delete what is not good, then press Train."
    return _piece("captured", n, many, shots[::-1], 0 < n_wanted <= n) + note(said)


def estimate(value: Estimate) -> str:
    """The estimate shown before a fit."""
    warning = note(value.warning, "error") if value.warning else ""
    notice = note(value.notice, "warning") if value.notice else ""
    return (
        warning
        + notice
        + facts(
            [
                ("learn from", f"{value.n_learned} pictures"),
                ("hold out", f"{value.n_held_out} pictures"),
                ("time", duration(value.seconds) if value.seconds < 0.1 else f"about {duration(value.seconds)}"),
                ("peak memory", f"about {size_text(value.peak_memory_mib)}"),
                ("model size", size_text(value.model_mib)),
            ]
        )
    )


def fit_summary(detector: Detector, seconds: Mapping[int, float], what_next: str = NEXT) -> str:
    """What a fit did, with the threshold and how it was set, how fast the model is, and what to do next.

    Args:
        seconds: batch size to the median time of a batch.
        what_next: the sentence about what to do next.
    """
    report, calibration = detector.fit_report_, detector.calibration_
    body = facts(
        [
            ("method", detector.title),
            ("learned from", f"{report.n_learned} pictures"),
            ("held out", f"{report.n_held_out} pictures{', then learned' if report.n_learned_later else ''}"),
            *((label, value) for label, value in detector.details().items() if label == "training"),
            ("time", duration(report.seconds)),
            ("training speed", f"{report.images_per_second:.1f} pictures/s"),
            ("model size", size_text(detector.model_mib)),
            ("peak memory", size_text(report.peak_memory_mib)),
            ("threshold", f"{calibration.threshold:.4g}"),
            *((f"predicts, batch {n}", f"{n / taken:.3g} FPS") for n, taken in seconds.items()),
        ]
    )
    where = conditions(detector, detector.working_shape_, 1)
    measured = note(f"FPS of network, score and map, without reading and resizing; {where}.")
    more = "".join(note(f"{label}: {value}") for label, value in detector.details().items())
    notices = "".join(note(notice, "warning") for notice in report.notices)
    return (
        body + note(calibration.statement) + notices + note(what_next) + _piece("details", "Details", more + measured)
    )


def will_train(title: str, options: Mapping[str, Any], changed: str, summary: str) -> str:
    """What a fit will train, before it starts.

    Args:
        options: those that are not at their defaults.
        changed: the word that was chosen, where it stands for other options than these; else empty.
        summary: the method's sentence, where it was chosen by name; else empty.
    """
    with_options = ", ".join(f"{name.replace('_', ' ')} {_as_chosen(value)}" for name, value in options.items())
    said = f"Train makes a model with {title}{f': {with_options}' if with_options else ''}."
    if changed:
        said += f" You changed this from “{changed}”."
    return note(f"{said} {summary}".rstrip())


def _as_chosen(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def time_left(seconds: float) -> str:
    """How long something still takes, no more exactly than anybody can know."""
    if seconds < 59.5:
        return f"about {max(round(seconds), 1)} s left"
    if seconds < 3570:
        return f"about {round(seconds / 60)} min left"
    return f"about {seconds / 3600:.1f} h left"


def apart(names: list[str]) -> str:
    """Good pictures that are unlike the others; nothing where there are none."""
    if not names:
        return ""
    who, them = (names[0], "it") if len(names) == 1 else (", ".join(names), "them")
    stands = "stands" if len(names) == 1 else "stand"
    return note(
        f"{who} {stands} apart from the other good pictures. Look at {them} below: a defective picture among the good "
        "ones makes a model miss such defects.",
        "warning",
    )


def chooser(measured: dict) -> str:
    """What each method is good at: its sentence, and figures from `examples/compare_methods.py`."""
    rows = [["", "image AUROC", "pixel AUROC", "fit", "predict", "model"]]
    for row in measured["methods"]:
        figures = (
            f"{row['image_auroc']:.3f}",
            f"{row['pixel_auroc']:.3f}",
            duration(row["fit_seconds"]),
            f"{row['predict_fps']:.0f} FPS",
            size_text(row["model_mib"]),
        )
        rows.append([row["title"], *figures])
    methods = "".join(note(f"{cls.title}: {cls.summary}") for cls in METHODS.values())
    return table(rows) + note(f"Measured on {measured['what']}; {measured['conditions']}.") + methods


def in_words(verdict: Verdict) -> str:
    """A verdict with its sign."""
    return f"{SIGNS[verdict]} {WORDS[verdict]}"


def found(verdicts: list[Verdict]) -> str:
    """In how many pictures something was found; of one picture its verdict says it."""
    n, n_suspected, n_borderline = len(verdicts), *map(verdicts.count, (Verdict.SUSPECTED, Verdict.BORDERLINE))
    if n == 1:
        return ""
    worst = max(verdicts, key=list(SIGNS).index)
    more = f", {n_borderline} borderline" if n_borderline else ""
    return _piece("found", worst.value, SIGNS[worst], f"{n_suspected or 'None'} of {n}", f"suspected{more}")


def drift(value: Drift | None) -> str:
    """That pictures as a group are unlike the good ones, and what to do; nothing where they are not."""
    if value is None or not value.is_drift:
        return ""
    return note(f"{value.statement} If these parts are good, add them to the model.", "warning")


def verdict(name: str, prediction: Prediction, label: str, n_kept_aside: int, place: int = -1) -> str:
    """The verdict on one picture, in words and by a sign, never by colour alone.

    Args:
        n_kept_aside: how many good pictures its score is compared with.
        place: of the picture in the gallery, which marks it; -1 where it is not there.
    """
    said = prediction.verdict
    below = round(prediction.rarer_than * n_kept_aside)
    of_them = f"all {n_kept_aside}" if below == n_kept_aside else f"{below} of {n_kept_aside}"
    score, threshold = distinct(prediction.score, prediction.threshold)
    body = facts(
        [
            ("score", score),
            ("threshold", f"{threshold}, not exceeded" if prediction.score == prediction.threshold else threshold),
            ("more unusual than", f"{of_them} good pictures"),
            ("p-value", f"{prediction.p_value:.3g}"),
        ]
    )
    notices = "".join(note(text, "warning") for text in prediction.notices)
    headline = _piece("verdict", said.value, SIGNS[said], WORDS[said], name, label, place)
    more = ""
    if said is Verdict.BORDERLINE:
        more = note("Below the threshold, but at most 5 % of good pictures score as high. Look at it yourself.")
    return headline + body + more + regions(prediction) + notices


def regions(prediction: Prediction) -> str:
    """Where and how large what was found is, of a picture that is suspected; in pixels of the original."""
    if not prediction.is_anomalous:
        return ""
    there = prediction.regions
    if not there:
        return note("No pixel is above the pixel threshold; the hottest place has a ring.")
    rows = [["at x, y", "size, px", "area, px", "peak"]]
    for r in there[:N_REGIONS]:
        size = f"{r.right - r.left}×{r.bottom - r.top}"
        rows.append([f"{r.left}, {r.top}", size, f"{r.area:,}", f"{r.peak:.3g}"])
    more = note(f"and {len(there) - N_REGIONS} smaller ones") if len(there) > N_REGIONS else ""
    return table(rows) + more


def colour_bar(prediction: Prediction, of_this_picture: bool = False) -> str:
    """The heatmap's colours with the values they stand for; the same for every picture of a model.

    Args:
        of_this_picture: the scale is its own, which no other picture has.
    """
    low, high = prediction.scale
    at = min(max((prediction.map_threshold - low) / (high - low), 0.0), 1.0)
    if of_this_picture:
        least, most = distinct(low, high, digits=3)
        ends = [(least, "lowest here"), (most, "highest here")]
        inside = f"{at:.1%}" if low < prediction.map_threshold < high else ""
        return _colour_bar(ends, inside) + note(
            "The colours are scaled to this picture: do not compare them with others."
        )
    usual, threshold, most = distinct(low, prediction.map_threshold, high, digits=3)
    labels = [(usual, "normal"), (threshold, "pixel threshold"), (most, "strongly unusual")]
    return _colour_bar(labels, f"{at:.1%}")


def rarity_bar(smallest: float) -> str:
    """The colours of a comparison: how rare a pixel's value is in good pictures kept aside, whatever the model."""
    return _colour_bar([("p = 1", "normal"), (f"{smallest**0.5:.2g}", ""), (f"{smallest:.2g}", "rarer than any seen")])


def _colour_bar(labels: list[tuple[str, str]], at: str = "") -> str:
    colours = [*colour_table()[::32].tolist(), colour_table()[-1].tolist()]
    return _piece("colour_bar", ", ".join(f"rgb({r},{g},{b})" for r, g, b in colours), labels, at)


def painted(result: dict[str, Any], sizes: list[int]) -> str:
    """Whether a painted defect was found, and how small: `result` of `inspect_painted`, and all sizes tried."""
    if result["good_alarms"]:
        return note(
            "This picture raises an alarm even without the defect, so the test says nothing. Choose another good "
            "picture.",
            "warning",
        )
    down_to, where = result["found_down_to"], "on it" if result["is_hottest"] else "somewhere else"
    if down_to is None:
        said = f"✗ Missed: the defect ({result['pixels']} px) was not found."
    elif down_to == sizes[-1]:
        said = f"✓ Found, and down to {down_to} px, the smallest that was tried."
    else:
        missed = sizes[sizes.index(down_to) + 1]
        said = f"✓ Found, and down to {down_to} px; at {missed} px the picture looks good."
    return note(f"{said} The hottest place of the heatmap is {where}.")


def picture_time(seconds: float, n: int) -> str:
    """How long this upload took, said beside its result; not a figure to quote."""
    return note(
        f"{n / seconds:.3g} FPS in this upload ({seconds / n * 1e3:.0f} ms a picture), reading and drawing included."
    )


def speed(values: list[Speed]) -> str:
    """Speed to quote at one or several batch sizes, with what was timed and on what."""
    rows = [["ms for each picture", *(f"batch {value.batch_size}" for value in values)]]
    rows.append(["network, score, map: FPS", *(f"{value.fps(value.network):.1f}" for value in values)])
    rows.append(["mean · p50 · p95", *(_milliseconds(value.network, value.batch_size) for value in values)])
    rows.append(["bytes to overlay: FPS", *(f"{value.fps(value.end_to_end):.1f}" for value in values)])
    rows.append(["mean · p50 · p95", *(_milliseconds(value.end_to_end, value.batch_size) for value in values)])
    for name in values[0].stages:
        rows.append([f"of it {name}", *(f"{v.stages[name].p50 / v.batch_size * 1e3:.1f}" for v in values)])
    repeats = " and ".join(str(value.n_repeats) for value in values)
    batches = " and ".join(str(value.batch_size) for value in values)
    conditions = values[0].conditions.replace(f"batch {values[0].batch_size}", f"batch {batches}")
    return table(rows) + note(
        f"{conditions}; warm, synchronised, {repeats} repetitions. “Network, score, map” leaves out decoding "
        "and resizing (the EfficientAD paper's protocol); “bytes to overlay” is end to end, its stages are medians."
    )


def _milliseconds(quantiles: Quantiles, batch_size: int) -> str:
    values = (quantiles.mean, quantiles.p50, quantiles.p95)
    return " · ".join(f"{value / batch_size * 1e3:.1f}" for value in values)


def accuracy_facts(value: Accuracy) -> list[tuple[str, str]]:
    """What labelled pictures said, label to value."""
    interval = value.image_auroc_ci
    n_defective = int(value.labels.sum())
    n_good = len(value.labels) - n_defective
    shown = [
        ("pictures", f"{n_good} good, {n_defective} defective"),
        ("image AUROC", figure(value.image_auroc)),
        ("95 % interval", f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "–"),
        ("average precision", figure(value.average_precision)),
        ("largest F1, chosen on the test labels", figure(value.f1_max)),
        ("pixel AUROC", figure(value.pixel_auroc)),
        ("AUPRO to 30 %", figure(value.aupro)),
        ("AUPRO to 5 %", figure(value.aupro_5)),
    ]
    alarms = value.scores > value.threshold
    shown.append(_rate("false alarms at the threshold", int(alarms[~value.labels].sum()), n_good))
    shown.append(_rate("missed at the threshold", int((~alarms)[value.labels].sum()), n_defective))
    return shown


def accuracy_headline(value: Accuracy) -> str:
    """What the threshold in use does to these pictures, in one line, and what the best one would do."""
    alarms, n_defective = value.scores > value.threshold, int(value.labels.sum())
    n_found, n_false = int(alarms[value.labels].sum()), int(alarms[~value.labels].sum())
    n_good = len(value.labels) - n_defective
    parts = [f"{n_found} of {n_defective} defective pictures found"] if n_defective else []
    parts += [f"{n_false} of {n_good} good pictures alarm"] if n_good else []
    is_right = n_found == n_defective and not n_false
    kind = Verdict.GOOD if is_right else Verdict.SUSPECTED
    said = _piece("found", kind.value, SIGNS[kind], ", ".join(parts), "")
    best = value.fewer_errors()
    if best is not None:
        alarming = f"{best[2]} false alarm{'s' if best[2] != 1 else ''}"
        said += note(
            f"With threshold {best[0]:.4g}: {best[1]} missed, {alarming}. It is chosen on these very pictures, so "
            "expect a little more on others."
        )
    return said


def accuracy(value: Accuracy, calibration: Calibration, notes: tuple[str, ...]) -> str:
    """The result of an evaluation."""
    warnings = "".join(note(said, "warning") for said in notes)
    shown = facts(accuracy_facts(value)) + note(f"Threshold {value.threshold:.4g}. {calibration.statement}")
    return accuracy_headline(value) + warnings + shown + at_rates(value)


def at_rates(value: Accuracy) -> str:
    """What each false-alarm rate finds, and costs, as a table."""
    # On a narrow window a browser would break "10 %" in two.
    rows = [[cell.replace(" %", "\N{NO-BREAK SPACE}%") for cell in row] for row in rate_rows(value.at_rates)]
    said = note(rates_statement(value.at_rates))
    return "<h4>What each false-alarm rate finds</h4>" + table(rows) + said


def last_evaluation(value: Accuracy) -> str:
    """The same in one sentence, for where a rate is chosen."""
    n_defective = int(value.labels.sum())
    n_good = len(value.labels) - n_defective
    parts = []
    for at in value.at_rates:
        if at.is_promised:
            found = [f"{at.n_found} found"] if n_defective else []
            alarms = [f"{at.n_false_alarms} false alarm{'s' if at.n_false_alarms != 1 else ''}"] if n_good else []
            parts.append(f"at {percent(at.rate)}, {' and '.join(found + alarms)}")
    return note(f"Last evaluation, {n_defective} defective and {n_good} good pictures: {'; '.join(parts)}.")


def robustness(value: Accuracy) -> str:
    """The robustness check as a table."""
    said = (
        "The same pictures scored again after small changes that make no part defective. σ is the standard deviation "
        "of the scores of good pictures kept aside; a change that moves scores by several σ will cause false alarms."
    )
    return "<h4>Robustness</h4>" + note(said) + table(robustness_rows(value.robustness))


def figure(value: float | None) -> str:
    """A measure between 0 and 1; a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def _rate(label: str, n_hits: int, n: int) -> tuple[str, str]:
    if n == 0:
        return label, "–"
    low, high = rate_interval(n_hits, n)
    return f"{label}, 95 % interval {low:.0%} to {high:.0%}", f"{n_hits} of {n}: {n_hits / n:.0%}"


def chip(
    label: str,
    calibration: Calibration,
    seconds: Mapping[int, float],
    is_kept: bool,
    threshold_moved: bool,
    done: Sequence[str] = (),
) -> str:
    """The model that pictures are scored with, in one line.

    Args:
        seconds: batch size to the median time of a batch; empty where it was not measured.
        is_kept: whether it is saved as it is, here or on the Hub.
        threshold_moved: since it was fitted, loaded or saved.
        done: steps that were taken with it, "inspected" and "evaluated".
    """
    state = "saved" if is_kept else "threshold changed, not saved" if threshold_moved else ""
    fps = [f"{n / taken:.3g} FPS at batch {n}" for n, taken in seconds.items()]
    figures = [f"threshold {calibration.threshold:.4g}", *fps[:1]]
    more = [*fps[1:], f"{len(calibration.scores)} good pictures kept aside"]
    return _piece("chip", label, figures, more, state, " ".join(done))


def chip_without_model() -> str:
    """The same where there is none."""
    return _piece("chip", "", [], [], "", "")


def no_model() -> str:
    """What a tab says that needs a model, where there is none."""
    return note("No model yet: train one in the Train tab, or load one in the Models tab.", "warning")


def compared(name: str, rows: list[dict]) -> str:
    """Two models' verdicts on one picture, and what each costs."""
    lines = [["", *(row["model"] for row in rows)]]
    lines.append(["verdict", *(in_words(Verdict(row["verdict"])) for row in rows)])
    judged = [distinct(row["score"], row["threshold"]) for row in rows]
    lines.append(["score", *(score for score, _ in judged)])
    lines.append(["threshold", *(threshold for _, threshold in judged)])
    lines.append(["p-value", *(f"{row['p_value']:.4g}" for row in rows)])
    lines.append(["time for the picture", *(f"{row['milliseconds']:.0f} ms" for row in rows)])
    lines.append(["model size", *(size_text(row["model_mib"]) for row in rows)])
    lines.append(["time of the fit", *(duration(row["fit_seconds"]) for row in rows)])
    return note(name) + table(lines)


def hub_model(row: dict[str, Any]) -> str:
    """What is known of one model of the gallery; the fields of `HubModel`."""
    fps, size = row["predict_fps"], row["size_mib"]
    shown = [
        ("method", row["method"] or "–"),
        ("category", row["category"] or "–"),
        ("image AUROC", figure(row["image_auroc"])),
        ("measured on", _measured_on(row) or "–"),
        ("FPS where it was pushed", "–" if fps is None else f"{fps:.1f}"),
        ("size", "–" if size is None else size_text(size)),
        ("licence", row["licence"] or "–"),
    ]
    return facts(shown) + note(row["reference"])


def model_cards(rows: Mapping[str, dict[str, Any]], pictures: Mapping[str, str]) -> str:
    """Models that a search found as cards to choose one of.

    Args:
        rows: by name; the fields of `HubModel`.
        pictures: by name, the addresses of those previews that are there.
    """
    shown = []
    for name, row in rows.items():
        on, fps, size, downloads = _measured_on(row), row["predict_fps"], row["size_mib"], row["downloads"]
        if row["image_auroc"] is None:
            accuracy = "" if name.startswith(LOCAL_PREFIX) else "accuracy not measured"
        else:
            accuracy = f"image AUROC {figure(row['image_auroc'])}{f' on {on}' if on else ''}"
        more = [
            "saved on this machine" if name.startswith(LOCAL_PREFIX) else "private" if row["is_private"] else "",
            "" if fps is None else f"{fps:.3g} FPS where it was pushed",
            "" if size is None else size_text(size),
            row["licence"] or "",
            "" if downloads is None else f"{downloads} download{'s' if downloads != 1 else ''}",
            row["updated"],
        ]
        shown.append(
            {
                "name": name,
                "picture": pictures.get(name, ""),
                "instead": "no preview",
                "what": " · ".join(filter(None, (row["method"], row["category"]))) or "method not stated",
                "accuracy": accuracy,
                "more": " · ".join(filter(None, more)),
            }
        )
    return _piece("model_cards", shown)


def _measured_on(row: dict[str, Any]) -> str:
    """What the accuracy of a model of the Hub was measured on; empty where its card does not say."""
    on, n = row["measured_on"], row["n_test"]
    return ", ".join(filter(None, (on, f"{n} pictures" if n else "")))


def models(found: list[ModelInfo], current: str) -> str:
    """The saved models as cards."""
    if not found:
        return note("No saved models yet. Fit one, then save it under a name.")
    return _piece(
        "cards",
        [
            (
                info.name,
                f"{info.title}{' · in use' if info.name == current else ''}",
                f"{info.n_learned} learned, {info.n_held_out} held out · threshold {info.threshold:.4g} · "
                f"{size_text(info.size_mib)} · saved {info.saved_at[:16].replace('T', ' ')} UTC",
            )
            for info in found
        ],
    )

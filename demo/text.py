"""Results as small pieces of HTML. Whatever came from a user is escaped."""

from html import escape

from admodels import DETECTORS, Detector, Estimate, Prediction
from admodels.images import ImageSet, picture_name
from admodels.render import colour_table
from admodels.store import ModelInfo
from admodels.timing import Speed


def facts(pairs: list[tuple[str, str]]) -> str:
    """A grid of labelled values that wraps on a narrow window."""
    cells = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in pairs)
    return f'<dl class="facts">{cells}</dl>'


def note(message: str, kind: str = "note") -> str:
    """One paragraph; kind is "note", "warning" or "error"."""
    lines = "<br>".join(escape(message).splitlines())
    return f'<p class="{kind}">{lines}</p>'


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
        parts.append(
            note(f"{images.n_duplicates} exact copies: {groups}. They stay together when held out.", "warning")
        )
    return "".join(parts)


def estimate(value: Estimate) -> str:
    """The estimate shown before a fit."""
    warning = note(value.warning, "error") if value.warning else ""
    return warning + facts(
        [
            ("learn from", f"{value.n_learned} pictures"),
            ("hold out", f"{value.n_held_out} pictures"),
            ("time", f"about {duration(value.seconds)}"),
            ("peak memory", f"about {value.peak_memory_mib:,.0f} MiB"),
            ("model size", f"{value.model_mib:.1f} MiB"),
        ]
    )


def fit_summary(detector: Detector) -> str:
    """What a fit did, with the threshold and how it was set."""
    report, calibration = detector.fit_report_, detector.calibration_
    body = facts(
        [
            ("method", detector.title),
            ("learned from", f"{report.n_learned} pictures"),
            ("held out", f"{report.n_held_out} pictures"),
            ("time", duration(report.seconds)),
            ("speed", f"{report.images_per_second:.1f} pictures/s"),
            ("model size", f"{detector.model_mib:.1f} MiB"),
            ("peak memory", f"{report.peak_memory_mib:,.0f} MiB"),
            ("threshold", f"{calibration.threshold:.4g}"),
        ]
    )
    more = "".join(note(f"{label}: {value}") for label, value in detector.details().items())
    return body + note(calibration.statement, "note" if calibration.supports_rate else "warning") + more


def chooser(measured: dict) -> str:
    """What each method is good at: its sentence, and figures from `examples/compare_methods.py`."""
    head = "".join(f"<th>{label}</th>" for label in ("", "image AUROC", "pixel AUROC", "fit", "predict", "model"))
    rows = []
    for row in measured["methods"]:
        figures = (
            f"{row['image_auroc']:.3f}",
            f"{row['pixel_auroc']:.3f}",
            duration(row["fit_seconds"]),
            f"{row['predict_fps']:.0f} FPS",
            f"{row['model_mib']:.1f} MiB",
        )
        cells = "".join(f"<td>{figure}</td>" for figure in figures)
        rows.append(f"<tr><th>{escape(row['title'])}</th>{cells}</tr>")
    table = f'<div class="scroll"><table class="figures"><tr>{head}</tr>{"".join(rows)}</table></div>'
    methods = "".join(note(f"{cls.title}: {cls.summary}") for cls in DETECTORS.values())
    return table + note(f"Measured on {measured['what']}; {measured['conditions']}.") + methods


def verdict(name: str, prediction: Prediction, label: str) -> str:
    """The verdict on one picture, in words and by a sign, never by colour alone."""
    anomalous = prediction.is_anomalous
    sign, word, kind = ("✗", "Anomalous", "alarm") if anomalous else ("✓", "Looks good", "good")
    body = facts(
        [
            ("raw score", f"{prediction.score:.4g}"),
            ("threshold", f"{prediction.threshold:.4g}"),
            ("rarer than", f"{prediction.rarer_than:.0%} of held-out normals"),
            ("p-value", f"{prediction.p_value:.3g}"),
        ]
    )
    notices = "".join(note(text, "warning") for text in prediction.notices)
    head = f'<p class="verdict {kind}"><span aria-hidden="true">{sign}</span> {word}</p>'
    return f'{head}<p class="note">{escape(name)} · {escape(label)}</p>{body}{notices}'


def colour_bar(prediction: Prediction) -> str:
    """The heatmap's colours with the values they stand for; the same for every picture of a model."""
    stops = ", ".join(f"rgb({r},{g},{b})" for r, g, b in [*colour_table()[::32].tolist(), colour_table()[-1].tolist()])
    low, high = prediction.scale
    return (
        f'<div class="colourbar"><div style="background:linear-gradient(90deg,{stops})"></div>'
        f"<p><span>{low:.3g}<br>usual</span><span>{prediction.map_threshold:.3g}<br>pixel threshold</span>"
        f"<span>{high:.3g}<br>and more</span></p></div>"
    )


def picture_time(seconds: float, n: int) -> str:
    """How long this upload took, said beside its result; not a figure to quote."""
    return note(f"{seconds / n * 1e3:.0f} ms a picture for this upload, reading included.")


def speed(value: Speed) -> str:
    """Speed to quote, with what was timed and on what."""
    network, whole = value.network, value.end_to_end
    body = facts(
        [
            ("network, score, map", f"{value.fps(network):.1f} FPS"),
            ("p50 / p95", f"{network.p50 * 1e3:.1f} / {network.p95 * 1e3:.1f} ms"),
            ("bytes to overlay", f"{value.fps(whole):.1f} FPS"),
            ("p50 / p95 of it", f"{whole.p50 * 1e3:.1f} / {whole.p95 * 1e3:.1f} ms"),
            *((name, f"{quantiles.p50 * 1e3:.1f} ms") for name, quantiles in value.stages.items()),
        ]
    )
    return body + note(
        f"{value.conditions}; warm, synchronised, {value.n_repeats} repetitions. The first two leave out decoding and "
        "resizing (the EfficientAD paper's protocol), the next two are end to end, the rest are its stages (p50)."
    )


def models(found: list[ModelInfo], current: str) -> str:
    """The saved models as cards."""
    if not found:
        return note("No saved models yet. Fit one, then save it under a name.")
    cards = []
    for info in found:
        mark = " · in use" if info.name == current else ""
        cards.append(
            f"<li><strong>{escape(info.name)}</strong><span>{escape(info.title)}{mark}</span>"
            f"<span>{info.n_learned} learned, {info.n_held_out} held out · threshold {info.threshold:.4g} · "
            f"{info.size_mib:.1f} MiB · saved {escape(info.saved_at[:16].replace('T', ' '))} UTC</span></li>"
        )
    return f'<ul class="cards">{"".join(cards)}</ul>'

"""The model card: what a model is, how to use it, how its threshold was set, how accurate and fast it was measured.

Nothing in it is invented: what was not measured is not there. The front matter's fields are given as plain values;
`hub` writes them as the Hub wants them.
"""

import hashlib
import re
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from admodels.core.detector import Detector
from admodels.evaluation.measure import Accuracy

TAG = "admodels"
CATEGORY_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,63}")
LICENCES = (
    "other",
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "openrail",
)
N_BINS, BAR = 12, 24


@dataclass(frozen=True)
class Source:
    """What only the one who pushes knows.

    Attributes:
        category: what the model was fitted on; may be empty.
        licence: of the model.
        data_terms: under which terms its pictures may be used; may be empty.
        dataset: where those pictures are on the Hub, `owner/name`; empty where they are not.
        evaluation: measured with this model, if it was.
        learned_digests: SHA-256 of the pictures that were given to the fit, if they are known.
    """

    category: str = ""
    licence: str = "other"
    data_terms: str = ""
    dataset: str = ""
    evaluation: Accuracy | None = None
    learned_digests: tuple[str, ...] = ()


def metadata(detector: Detector, source: Source, fps: float) -> dict[str, Any]:
    """Fields of the front matter; `results` are those of the model-index, and empty without an evaluation."""
    found = source.evaluation
    measured = (
        [
            ("auroc", "image AUROC", found.image_auroc),
            ("pixel_auroc", "pixel AUROC", found.pixel_auroc),
            ("aupro", "AUPRO to 30 %", found.aupro),
        ]
        if found is not None
        else []
    )
    category = source.category.strip()
    return {
        "library_name": TAG,
        "pipeline_tag": "image-segmentation",  # the Hub has no tag of its own for anomaly detection
        "license": source.licence,
        "tags": [TAG, "anomaly-detection", detector.key, *([category.lower().replace(" ", "-")] if category else [])],
        "datasets": [source.dataset] if source.dataset else None,
        "metrics": [kind for kind, _, value in measured if value is not None],
        "results": [(kind, name, round(value, 4)) for kind, name, value in measured if value is not None],
        TAG: {
            "method": detector.title,
            "category": category,
            "predict_fps": fps,
            "size_mib": round(detector.model_mib, 2),
        },
    }


def body(detector: Detector, source: Source, repo_id: str, speed: str) -> str:
    """The card below the front matter, as Markdown."""
    report, calibration, shape = detector.fit_report_, detector.calibration_, detector.working_shape_
    name = source.category.strip() or repo_id.split("/")[-1]
    height, width = shape.resized
    cut = (
        ""
        if shape.cropped == shape.resized
        else f", of which the middle {shape.cropped[1]}×{shape.cropped[0]} are used"
    )
    scale = ""
    if shape.value_range is not None:
        black, white = shape.value_range
        scale = f" Values of more than 8 bits are read from {black:g} (black) to {white:g} (white)."
    parts = [
        f"# {escape(detector.title)}: {escape(name)}",
        f"Finds what is unusual in pictures of **{escape(name)}**. It learned from {report.n_learned} good pictures "
        "and has seen no defect.",
        "![Heatmap over a picture](preview.png)",
        "## Use",
        "```python\n"
        "import admodels\n\n"
        f'detector = admodels.pull("hf-hub:{repo_id}")\n'
        'prediction = detector.predict("part.png")\n'
        "print(prediction.score, prediction.threshold, prediction.is_anomalous)\n"
        "```",
        "## Pictures",
        f"RGB, upright by EXIF, resized to {width}×{height} px with antialiasing{cut}.{scale} Maps come back at the "
        "picture's own size. Take pictures as those it learned from were taken: same camera, light, distance and "
        "position.",
        "## Threshold",
        f"Raw scores above {calibration.threshold:.6g} count as anomalous. {calibration.statement}",
        f"Scores of the {len(calibration.scores)} held-out good pictures:",
        f"```\n{_histogram(np.array(calibration.scores), calibration.threshold)}\n```",
    ]
    if source.evaluation is not None:
        parts += ["## Accuracy", _accuracy(source.evaluation)]
    parts += [
        "## Speed",
        speed,
        "## Learned from",
        _learned_from(report, source),
        "## Limits",
        "A score says how unusual a picture is among good ones, not how likely a defect is. The false-alarm rate holds "
        "for pictures like the held-out ones; after a change of camera, light or product, fit again. "
        "`probe.png` is a generated picture with its score in `config.json`: who pulls the model scores it again, "
        "to see that it arrived as it was.",
    ]
    return "\n\n".join(parts) + "\n"


def _accuracy(found: Accuracy) -> str:
    interval = found.image_auroc_ci
    rows = [
        ("image AUROC", found.image_auroc, f" (95 %: {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""),
        ("average precision", found.average_precision, ""),
        ("largest F1, chosen on the test labels", found.f1_max, ""),
        ("pixel AUROC", found.pixel_auroc, ""),
        ("AUPRO to 30 %", found.aupro, ""),
        ("false alarms at the threshold", found.false_alarm_rate, ""),
        ("defects found at the threshold", found.detection_rate, ""),
    ]
    lines = [f"| {label} | {value:.3f}{more} |" for label, value, more in rows if value is not None]
    head = f"On {found.n_test} labelled pictures that it did not learn from:\n\n| measure | value |\n|---|---|\n"
    return head + "\n".join(lines)


def _learned_from(report: Any, source: Source) -> str:
    threshold = "each of them held out once, in folds" if report.n_folds else f"and {report.n_held_out} others held out"
    said = f"{report.n_learned} pictures, {threshold} for the threshold."
    if source.learned_digests:
        digest = hashlib.sha256("\n".join(sorted(source.learned_digests)).encode()).hexdigest()
        said += f" SHA-256 of the sorted list of their SHA-256: `{digest}`."
    terms = escape(source.data_terms.strip()) or "not stated by who pushed it"
    return f"{said} The pictures are not here. Their terms: {terms}."


def _histogram(scores: np.ndarray, threshold: float) -> str:
    """Bars of characters, with the threshold's place."""
    low, high = float(scores.min()), max(float(scores.max()), threshold)
    edges = np.linspace(low, high if high > low else low + 1, N_BINS + 1)
    counts, _ = np.histogram(scores, edges)
    lines = []
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        mark = " ← threshold" if left < threshold <= right else ""
        bar = "█" * round(BAR * count / max(counts.max(), 1))
        lines.append(f"{left:10.4g}  {bar} {count}{mark}".rstrip())
    return "\n".join(lines)

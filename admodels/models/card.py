"""The model card: what a model is, how to use it, how its threshold was set, how accurate and fast it was measured.

Nothing in it is invented: what was not measured is not there. Its text is the template beside this file.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.constants import ENDPOINT

from admodels.core.detector import Detector
from admodels.evaluation.accuracy import Accuracy
from admodels.evaluation.report import percent

TAG = "admodels"
CATEGORY_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,63}")
NOT_STATED = "other"  # the licence of a push that names none
LICENCES = (
    NOT_STATED,
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
TEMPLATE = Path(__file__).with_name("card.md.jinja")
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
    licence: str = NOT_STATED
    data_terms: str = ""
    dataset: str = ""
    evaluation: Accuracy | None = None
    learned_digests: tuple[str, ...] = ()


def card(
    detector: Detector, source: Source, repo_id: str, fps: float, speed: str, has_picture: bool = False
) -> ModelCard:
    """The model card with its front matter.

    Args:
        fps: pictures a second; `speed` says it in words, with the conditions of the measurement.
        has_picture: whether the preview's picture lies beside it without the heatmap.
    """
    category, found = source.category.strip(), source.evaluation
    return ModelCard.from_template(
        _metadata(detector, source, repo_id, fps),
        template_path=str(TEMPLATE),
        title=detector.title,
        name=category or repo_id.split("/")[-1],
        repo_id=repo_id,
        has_picture=has_picture,
        report=detector.fit_report_,
        calibration=detector.calibration_,
        shape=detector.working_shape_,
        histogram=_histogram(np.array(detector.calibration_.scores), detector.calibration_.threshold),
        accuracy=_accuracy(found) if found is not None else [],
        n_test=found.n_test if found is not None else 0,
        speed=speed,
        pictures_digest=pictures_digest(source.learned_digests),
        data_terms=source.data_terms.strip(),
    )


def pictures_digest(digests: Sequence[str]) -> str:
    """What tells one set of good pictures from another: SHA-256 over their sorted SHA-256; empty if there are none."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest() if digests else ""


def _metadata(detector: Detector, source: Source, repo_id: str, fps: float) -> ModelCardData:
    """The front matter; its results are those of the model-index, and missing without an evaluation."""
    category, found = source.category.strip(), source.evaluation
    measured = (
        [
            ("roc_auc", "image AUROC", found.image_auroc),  # as the Hub's own metric is called
            ("pixel_auroc", "pixel AUROC", found.pixel_auroc),
            ("aupro", "AUPRO to 30 %", found.aupro),
        ]
        if found is not None
        else []
    )
    results = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type="custom",
            dataset_name=source.category or repo_id,
            metric_type=kind,
            metric_name=label,
            metric_value=round(value, 4),
        )
        for kind, label, value in measured
        if value is not None
    ]
    return ModelCardData(
        library_name=TAG,
        pipeline_tag="image-segmentation",  # the Hub has no tag of its own for anomaly detection
        license=source.licence,
        # The Hub asks for both where it knows no licence of that name.
        license_name="not-stated" if source.licence == NOT_STATED else None,
        license_link=f"{ENDPOINT}/{repo_id}/blob/main/README.md" if source.licence == NOT_STATED else None,
        tags=[TAG, "anomaly-detection", detector.key, *([category.lower().replace(" ", "-")] if category else [])],
        datasets=[source.dataset] if source.dataset else None,
        metrics=[result.metric_type for result in results],
        admodels={
            "method": detector.title,
            "category": category,
            "predict_fps": round(fps, 1),
            "size_mib": round(detector.model_mib, 2),
            # A listing may come without the model-index.
            **({"n_test": found.n_test} if found is not None else {}),
            **(
                {"image_auroc": round(found.image_auroc, 4), "measured_on": source.category or repo_id}
                if found is not None and found.image_auroc is not None
                else {}
            ),
        },
        **({"model_name": repo_id, "eval_results": results} if results else {}),
    )


def _accuracy(found: Accuracy) -> list[tuple[str, str]]:
    """Label and value of each measure that there is."""
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
    for at in found.at_rates:
        label = f"defects found by the threshold for {percent(at.rate)} false alarms"
        occurred = "" if at.false_alarm_rate is None else f" (false alarms that occurred: {at.false_alarm_rate:.3f})"
        rows.append((label, at.detection_rate, occurred))
    return [(label, f"{value:.3f}{more}") for label, value, more in rows if value is not None]


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

"""Numbers to Plotly figures."""

import numpy as np
import plotly.graph_objects as go

from admodels import Calibration
from admodels.core import Verdict, verdict_of
from admodels.evaluation import Accuracy, precision_recall_points, roc_points
from demo.view.text import distinct

# One colour for each meaning; seen on white and on near-black with at least 3:1.
GOOD, BORDERLINE, ALARM = "#0d9488", "#d97706", "#e11d48"
KEPT_ASIDE, CURVE, INK = "#6366f1", "#0284c7", "#7c8594"
OF_VERDICT = {Verdict.GOOD: GOOD, Verdict.BORDERLINE: BORDERLINE, Verdict.SUSPECTED: ALARM}
GRID = "rgba(124,133,148,0.25)"
N_BINS = 24


def score_histogram(
    calibration: Calibration, score: float | None = None, accuracy: Accuracy | None = None
) -> go.Figure:
    """Scores of the good pictures kept aside and the threshold.

    Args:
        score: of one picture, drawn as a line.
        accuracy: labelled pictures, drawn as two more histograms beside that of those.
    """
    threshold = calibration.threshold
    groups = [("good pictures kept aside", KEPT_ASIDE, np.array(calibration.scores))]
    if accuracy is not None:
        groups.append(("good", GOOD, accuracy.scores[~accuracy.labels]))
        groups.append(("defective", ALARM, accuracy.scores[accuracy.labels]))
    values = np.concatenate([*(scores for _, _, scores in groups), [threshold], [] if score is None else [score]])
    low, high = float(values.min()), float(values.max())
    if low == high:
        high = low + max(1e-3 * abs(low), 1e-12)
    figure, most = go.Figure(), 1
    for name, colour, scores in groups:
        counts, edges = np.histogram(scores, bins=N_BINS, range=(low, high))
        most = max(most, int(counts.max()))
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts,
            width=None if accuracy else edges[1] - edges[0],
            name=name,
            marker={"color": colour},
            opacity=0.85,
        )
    margin, middle = 0.08 * (high - low), (low + high) / 2
    figure.add_vline(threshold, line={"color": INK, "width": 2, "dash": "dash"})
    said = distinct(threshold) if score is None else distinct(threshold, score)
    figure.add_annotation(_label(threshold, f"threshold {said[0]}", INK, 1.0, threshold > middle))
    if score is not None:
        colour = OF_VERDICT[verdict_of(score, threshold, calibration.p_value(score))]
        figure.add_vline(score, line={"color": colour, "width": 3})
        figure.add_annotation(_label(score, f"this picture {said[1]}", colour, 1.1, score > middle))
    figure.update_layout(
        **_layout(320 if accuracy else 260, below=104 if accuracy else 44),
        showlegend=accuracy is not None,
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
        bargap=0.04,
        xaxis={
            "title": {"text": "score"},
            "range": [low - margin, high + margin],
            "gridcolor": GRID,
            "zeroline": False,
        },
        yaxis={
            "title": {"text": "pictures" if accuracy else "good pictures kept aside"},
            "gridcolor": GRID,
            "dtick": max(1, -(-most // 5)),
        },
    )
    return figure


def losses(points: list[tuple[int, float]]) -> go.Figure:
    """Loss by training step."""
    steps, values = zip(*points, strict=True)
    figure = go.Figure(go.Scatter(x=steps, y=values, mode="lines", line={"color": CURVE, "width": 2}))
    axis = {"gridcolor": GRID, "zeroline": False}
    figure.update_layout(
        **_layout(220),
        showlegend=False,
        xaxis=axis | {"title": {"text": "step"}},
        yaxis=axis | {"title": {"text": "loss"}},
    )
    return figure


def roc(accuracy: Accuracy) -> go.Figure:
    """False-alarm rate against detection rate of the images, with the current threshold as a point."""
    points = roc_points(accuracy.labels, accuracy.scores)
    return _curve(points, "false-alarm rate", "detection rate", (accuracy.false_alarm_rate, accuracy.detection_rate))


def precision_recall(accuracy: Accuracy) -> go.Figure:
    """Recall against precision of the images, with the current threshold as a point."""
    alarms = accuracy.scores > accuracy.threshold
    precision = float(accuracy.labels[alarms].mean()) if alarms.any() else None
    points = precision_recall_points(accuracy.labels, accuracy.scores)
    return _curve(points, "recall", "precision", (accuracy.detection_rate, precision))


def _curve(
    points: tuple[np.ndarray, np.ndarray] | None, x: str, y: str, at_threshold: tuple[float | None, float | None]
) -> go.Figure:
    figure = go.Figure()
    if points is None:
        figure.add_annotation(x=0.5, y=0.5, text="needs good and defective pictures", showarrow=False)
    else:
        figure.add_scatter(x=points[0], y=points[1], mode="lines", line={"color": CURVE, "width": 3}, hoverinfo="x+y")
        if None not in at_threshold:
            figure.add_scatter(
                x=at_threshold[:1],
                y=at_threshold[1:],
                mode="markers",
                marker={"color": INK, "size": 12, "symbol": "diamond"},
                hovertemplate="current threshold<extra></extra>",
            )
    axis = {"gridcolor": GRID, "zeroline": False, "range": [-0.02, 1.02]}
    figure.update_layout(
        **_layout(280), showlegend=False, xaxis=axis | {"title": {"text": x}}, yaxis=axis | {"title": {"text": y}}
    )
    return figure


def _layout(height: int, below: int = 44) -> dict:
    return {
        "height": height,
        "margin": {"l": 44, "r": 12, "t": 48, "b": below},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, "size": 12},
    }


def _label(x: float, text: str, colour: str, y: float, at_right: bool) -> dict:
    return {
        "xanchor": "right" if at_right else "left",
        "x": x,
        "y": y,
        "yref": "paper",
        "text": text,
        "showarrow": False,
        "font": {"color": colour, "size": 12},
        "bgcolor": "rgba(0,0,0,0)",
        "yanchor": "bottom",
    }

"""Numbers to Plotly figures."""

import numpy as np
import plotly.graph_objects as go

from admodels import Calibration

# Seen on white and on near-black with at least 3:1.
GOOD, ALARM, INK = "#0d9488", "#e11d48", "#7c8594"


def score_histogram(calibration: Calibration, score: float | None = None) -> go.Figure:
    """Raw scores of the held-out normals, the threshold, and one picture's score where there is one."""
    threshold = calibration.threshold
    values = [*calibration.scores, threshold, *([] if score is None else [score])]
    low, high = min(values), max(max(values), min(values) + 1e-6)
    counts, edges = np.histogram(calibration.scores, bins=24, range=(low, high))
    figure = go.Figure(
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2, y=counts, width=edges[1] - edges[0], marker={"color": GOOD}, opacity=0.85
        )
    )
    margin, middle = 0.08 * (high - low), (low + high) / 2
    figure.add_vline(threshold, line={"color": INK, "width": 2, "dash": "dash"})
    figure.add_annotation(_label(threshold, f"threshold {threshold:.4g}", INK, 1.0, threshold > middle))
    if score is not None:
        colour = ALARM if score > threshold else GOOD
        figure.add_vline(score, line={"color": colour, "width": 3})
        figure.add_annotation(_label(score, f"this picture {score:.4g}", colour, 1.1, score > middle))
    figure.update_layout(
        height=260,
        margin={"l": 44, "r": 12, "t": 48, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "size": 12},
        showlegend=False,
        bargap=0.04,
        xaxis={
            "title": {"text": "raw score"},
            "range": [low - margin, high + margin],
            "gridcolor": "rgba(124,133,148,0.25)",
            "zeroline": False,
        },
        yaxis={
            "title": {"text": "held-out normals"},
            "gridcolor": "rgba(124,133,148,0.25)",
            "dtick": max(1, -(-int(counts.max()) // 5)),
        },
    )
    return figure


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

"""Two models on the picture that Inspect shows, with their heatmaps in the same colours."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component

from admodels import Calibration, Detector, NotFittedError, OptionError, Progress, create
from admodels.pictures import ImageSet, content_digest, overlay, rarity
from admodels.tiling import OF_THE_TILES, TiledEnsemble
from demo.errors import shown_errors
from demo.state.cores import CORES
from demo.state.current import Current, Shown, Single
from demo.state.jobs import Tell
from demo.state.server import device_name
from demo.state.session import Session
from demo.state.sessions import SESSIONS
from demo.tabs.scoring import row
from demo.view import text
from demo.view.outputs import filling

Levels = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Controls:
    """The components of the section."""

    section: gr.Accordion
    other: gr.Dropdown
    single: gr.Button
    outputs: dict[str, Component]


def build(shared: dict[str, Any]) -> Controls:
    """Lay out the section.

    Args:
        shared: arguments of an event listener that takes part in what all light work shares.
    """
    with gr.Accordion("Compare with another model", open=False) as section:
        gr.HTML(text.note("Both colour a pixel by how rare its value is in the good pictures that each kept aside."))
        with gr.Row():
            other = gr.Dropdown([], label="Saved model", interactive=True, allow_custom_value=True, scale=3)
            compare_button = gr.Button("Compare", scale=1, min_width=90, elem_classes="beside")
        single = gr.Button("Compare this ensemble with the single model", size="sm", visible=False)
        compared = gr.HTML(elem_id="compared")
        with gr.Row(elem_id="compared-pictures"):
            pictures = [
                gr.Image(visible=False, interactive=False, min_width=320, format="png", elem_classes="whole")
                for _ in "ab"
            ]
        bar = gr.HTML()
    rows = gr.JSON(visible=False)
    outputs = {"compared": compared, "picture": pictures[0], "other_picture": pictures[1], "rarity": bar, "pair": rows}
    with_other, with_single = filling(compare_models, outputs), filling(compare_with_single, outputs)
    beside = {"show_progress_on": compared}
    compare_button.click(**with_other, inputs=other, api_name="compare_models", **beside, **shared)
    single.click(**with_single, api_name="compare_with_single", concurrency_limit=None, **beside)
    return Controls(section, other, single, outputs)


def compare_models(name: str, request: gr.Request) -> dict[str, Any]:
    """Score the picture that is shown with a saved model too; both heatmaps are coloured by their pixels' p-values.

    Args:
        name: a saved model, or hf-hub:owner/name@revision.

    Returns:
        A table, both heatmaps, the colour bar, and for the current and the other model a row with model, score,
        threshold, p_value, is_anomalous, milliseconds, model_mib and fit_seconds.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        shown = _picture_to_compare_on(session, request.session_hash)
        other = SESSIONS.opened(name, session)
        return _compared(shown, other.detector, other.label)


def compare_with_single(
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by its default value
) -> dict[str, Any]:
    """Fit a single model of a tiled ensemble's method on the same pictures, at the ensemble's size, and compare both.

    Returns:
        As `compare_models`.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        current = session.in_use()
        ensemble = current.detector
        if not isinstance(ensemble.method, TiledEnsemble):
            raise OptionError("the current model is a single model. Train a tiled ensemble in the Train tab first.")
        shown = _picture_to_compare_on(session, request.session_hash)
        pictures, single = session.pictures, session.single
        if single is None and not _are_learned(pictures, current):
            raise OptionError(
                "the pictures this ensemble was fitted on are no longer selected. Choose them in the "
                "Train tab, or compare with a saved model."
            )

    def work(tell: Tell) -> Detector:
        def told(at: Progress) -> None:
            tell(at.fraction, f"the single model: {at.stage}")

        config, calibration = ensemble.config, ensemble.calibration_
        same = {name: getattr(config, name) for name in OF_THE_TILES}
        return create(config.method, device=device_name(), **same, **config.member).fit(
            dataclasses.replace(pictures, errors=[]),
            false_alarm_rate=calibration.false_alarm_rate,
            n_folds=calibration.n_folds,
            on_progress=told,
        )

    with shown_errors():
        if single is None:
            session.side_stop.begin()
            single = Single(current, session.run(work, progress))
            session.keep(single)
        return _compared(shown, single.detector, f"single {single.detector.title}")


def _are_learned(pictures: ImageSet | None, current: Current) -> bool:
    return pictures is not None and {content_digest(image) for image in pictures.images} == current.learned


def _picture_to_compare_on(session: Session, page: str) -> Shown:
    session.in_use()
    shown = session.shown_on(page)
    if shown is None:
        raise NotFittedError("no picture to compare on yet. Inspect one first.")
    return shown


def _compared(shown: Shown, other: Detector, label: str) -> dict[str, Any]:
    """The model that a picture is shown with and another one on that picture."""
    decoded = shown.decoded
    found, rows = [], []
    for name, detector in ((shown.current.label, shown.current.detector), (label, other)):
        with CORES.all():  # what is timed is not to depend on what others do
            detector.predict_decoded([decoded])  # the first pass loads what it needs
            started = time.perf_counter()
            prediction = detector.predict_decoded([decoded])[0]
            milliseconds = 1e3 * (time.perf_counter() - started)
        costs = {
            "milliseconds": milliseconds,
            "model_mib": detector.model_mib,
            "fit_seconds": detector.fit_report_.seconds,
        }
        found.append((name, detector.calibration_, prediction))
        rows.append(row(prediction, model=name) | costs)
    smallest, levels = same_colours([calibration for _, calibration, _ in found])
    drawn = {}
    for place, (name, _, prediction), of_model in zip(("picture", "other_picture"), found, levels, strict=True):
        drawn[place] = gr.update(value=overlay(decoded.pixels, prediction, levels=of_model), label=name, visible=True)
    said = text.compared(decoded.name, rows)
    return {"compared": said, **drawn, "rarity": text.rarity_bar(smallest), "pair": rows}


def same_colours(calibrations: Sequence[Calibration]) -> tuple[float, list[Levels]]:
    """Colours that mean the same with each model: how rare a pixel's value is in the good pictures it kept aside.

    Returns:
        The p-value at the hot end of the colours, and for each model the `levels` of `overlay`.
    """
    # The model with fewer held-out pixels cannot tell rarer ones apart; all end where it does.
    smallest = max(1 / (calibration.n_pixels + 1) for calibration in calibrations)
    return smallest, [_levels(calibration, smallest) for calibration in calibrations]


def _levels(calibration: Calibration, smallest: float) -> Levels:
    return lambda values: rarity(calibration.pixel_p_values(values), smallest)

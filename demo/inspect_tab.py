"""The Inspect tab: score pictures with the current model and look at one of them."""

import dataclasses
import time
from typing import Any

import gradio as gr
import numpy as np

from admodels import AdmodelsError, NotFittedError, Prediction
from admodels.datasets import load_dataset
from admodels.images import DecodedImage, ImageLike, decode, picture_name, unpack
from admodels.render import overlay, thumbnail
from admodels.timing import measure_speed
from demo import charts, text
from demo.fit_tab import EXAMPLE_SETS
from demo.session import SESSIONS, Session

MAX_PICTURES = 64


def inspect(
    files: list[str] | None, opacity: float, contour: bool, request: gr.Request
) -> tuple[list, Any, str, str, Any, str, list[dict]]:
    """Score pictures with the current model and show the first one.

    Args:
        files: pictures of any size, or one zip; at most 64.
        opacity: of the heatmap, from 0 to 1.
        contour: draw the edge of what is above the pixel threshold.

    Returns:
        Gallery, slider of picture and heatmap, verdict, colour bar, histogram, speed, and for each picture a row with
        name, score, threshold, p_value, rarer_than and is_anomalous.
    """
    try:
        images = unpack(files or [])
    except AdmodelsError as error:
        raise gr.Error(str(error)) from error
    return _inspect(images, opacity, contour, SESSIONS.of(request))


def inspect_example(name: str, opacity: float, contour: bool, request: gr.Request) -> tuple:
    """Score the defective pictures of an example set."""
    images = [item.path for item in load_dataset(EXAMPLE_SETS[name]).test]
    return _inspect(images, opacity, contour, SESSIONS.of(request))


def select(opacity: float, contour: bool, request: gr.Request, event: gr.SelectData) -> tuple:
    """Show the picture that was clicked in the gallery."""
    session = SESSIONS.of(request)
    if event.index >= len(session.inspected):
        raise gr.Error("These pictures are no longer here. Upload them again.")
    image = session.inspected[event.index]
    try:
        prediction = _model(session).predict(image)
    except AdmodelsError as error:
        raise gr.Error(str(error)) from error
    session.shown = decode(image, position=event.index), prediction
    return _detail(session, opacity, contour)


def redraw(opacity: float, contour: bool, request: gr.Request) -> Any:
    """Draw the heatmap again after a change of opacity or contour."""
    session = SESSIONS.of(request)
    return _slider(*session.shown, opacity, contour) if session.shown else None


def speed(request: gr.Request) -> tuple[str, dict]:
    """Measure the current model's speed on the first picture inspected: warm, synchronised, for a few seconds."""
    session = SESSIONS.of(request)
    try:
        detector = _model(session)
        if not session.inspected:
            raise NotFittedError("there is no picture to measure with yet. Inspect one first.")
        measured = measure_speed(detector, session.inspected[:1])
    except AdmodelsError as error:
        raise gr.Error(str(error), duration=None) from error
    return text.speed(measured), dataclasses.asdict(measured)


def model_line(request: gr.Request) -> str:
    """Which model pictures will be scored with."""
    session = SESSIONS.of(request)
    if session.detector is None:
        return text.note("No model yet: fit one in the Fit tab, or load one in the Models tab.", "warning")
    return text.note(f"Model in use: {session.model_label}.")


def build() -> gr.HTML:
    """Lay out the tab; returns the line that names the model, for other tabs to refresh."""
    current = gr.HTML(text.note("No model yet: fit one in the Fit tab, or load one in the Models tab.", "warning"))
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            files = gr.File(
                label="Pictures to inspect, or one zip",
                file_count="multiple",
                file_types=["image", ".zip"],
                height=150,
            )
            with gr.Row():
                example_buttons = [gr.Button(f"Defective: {name}", size="sm") for name in EXAMPLE_SETS]
            gallery = gr.Gallery(
                elem_classes="thumbs",
                label="Inspected: choose one",
                columns=4,
                height=280,
                interactive=False,
                allow_preview=False,
                object_fit="contain",
            )
            verdict = gr.HTML(text.note("Drop pictures above; the first one is shown here."), elem_id="verdict")
            taken = gr.HTML()
            speed_button = gr.Button("Measure speed", size="sm")
            measured = gr.HTML()
        with gr.Column(scale=1, min_width=320):
            slider = gr.ImageSlider(
                label="Original and heatmap: drag the handle",
                format="png",
                height=420,
                interactive=False,
                slider_position=30,
            )
            bar = gr.HTML()
            opacity = gr.Slider(0, 1, value=0.7, step=0.05, label="Heatmap opacity")
            contour = gr.Checkbox(True, label="Contour of what is above the pixel threshold")
            chart = gr.Plot(label="Score among held-out normals", show_label=False, visible=False)
    rows = gr.JSON(visible=False)
    look = [opacity, contour]
    detail = [slider, verdict, bar, chart]
    figures = gr.JSON(visible=False)
    outputs = [gallery, slider, verdict, bar, chart, taken, rows]
    shared = {"concurrency_id": "inspect", "concurrency_limit": 2}
    files.upload(inspect, [files, *look], outputs, api_name="inspect", show_progress_on=verdict, **shared)
    for name, button in zip(EXAMPLE_SETS, example_buttons, strict=True):
        chosen = gr.State(name)
        button.click(
            inspect_example,
            [chosen, *look],
            outputs,
            api_visibility="private",
            show_progress_on=verdict,
            **shared,
        )
    gallery.select(select, look, detail, api_visibility="private", show_progress="minimal", **shared)
    # Alone with the fit, since what runs beside it would be measured too.
    speed_button.click(
        speed, None, [measured, figures], api_name="measure_speed", show_progress_on=measured, concurrency_id="fit"
    )
    for control in (opacity.release, contour.change):
        control(redraw, look, slider, api_visibility="private", show_progress="hidden", **shared)
    return current


def _inspect(images: list[ImageLike], opacity: float, contour: bool, session: Session) -> tuple:
    if not images:
        raise gr.Error("No picture came. Upload one or several pictures, or press an example.")
    if len(images) > MAX_PICTURES:
        raise gr.Error(f"{len(images)} pictures came; at most {MAX_PICTURES} at a time are shown here. Choose fewer.")
    try:
        detector = _model(session)
        started = time.perf_counter()
        predictions = detector.predict_batch(images)
        seconds = time.perf_counter() - started
    except AdmodelsError as error:
        raise gr.Error(str(error), duration=None) from error
    session.inspected = images
    session.shown = decode(images[0]), predictions[0]
    gallery, rows = [], []
    for position, (image, prediction) in enumerate(zip(images, predictions, strict=True)):
        name = picture_name(image, position)
        sign = "✗" if prediction.is_anomalous else "✓"
        caption = f"{sign} {prediction.score:.3g} {name}"
        gallery.append((thumbnail(overlay(decode(image).pixels, prediction, opacity, contour)), caption))
        rows.append(
            {
                "name": name,
                "score": prediction.score,
                "threshold": prediction.threshold,
                "p_value": prediction.p_value,
                "rarer_than": prediction.rarer_than,
                "is_anomalous": prediction.is_anomalous,
            }
        )
    return (gallery, *_detail(session, opacity, contour), text.picture_time(seconds, len(images)), rows)


def _detail(session: Session, opacity: float, contour: bool) -> tuple:
    decoded, prediction = session.shown
    return (
        _slider(decoded, prediction, opacity, contour),
        text.verdict(decoded.name, prediction, session.model_label),
        text.colour_bar(prediction),
        gr.Plot(charts.score_histogram(_model(session).calibration_, prediction.score), visible=True),
    )


def _slider(
    decoded: DecodedImage, prediction: Prediction, opacity: float, contour: bool
) -> tuple[np.ndarray, np.ndarray]:
    plain = overlay(decoded.pixels, prediction, opacity=0, contour=False)
    return plain, overlay(decoded.pixels, prediction, opacity, contour)


def _model(session: Session) -> Any:
    if session.detector is None:
        raise NotFittedError("there is no model yet. Fit one in the Fit tab, or load one in the Models tab.")
    return session.detector

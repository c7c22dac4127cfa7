"""The camera in the Inspect tab: one picture, or a stream with its verdict and frames per second drawn on it."""

import time
from collections import deque
from typing import Any

import gradio as gr
import numpy as np

from admodels.pictures import decode, overlay, shrink, stamp
from demo.errors import refusal, shown_errors
from demo.state.cores import predict
from demo.state.sessions import SESSIONS
from demo.view import text
from demo.view.outputs import filling

NAME = "camera"
EVERY = 0.05  # seconds between two frames that the page sends, if the server is quick enough
STREAM_SECONDS = 300  # of scoring; then one that waits has its turn, and this one goes on after it
AWAY_SECONDS = 2.0  # so long without a frame to score, and a new stream begins
# Gradio would mirror what is scored, and a model knows its part as it is; a phone's camera for parts is at its back.
AS_IT_IS = gr.WebcamOptions(
    mirror=False,
    constraints={
        "video": {"facingMode": {"ideal": "environment"}, "width": {"ideal": 1920}, "height": {"ideal": 1440}}
    },
)


def stream(label: str, elem_id: str) -> gr.Image:
    """A camera whose frames are sent one after the other: what a model learns from one is what another one shows it."""
    return gr.Image(
        label=label,
        sources=["webcam"],
        webcam_options=AS_IT_IS,
        streaming=True,
        type="numpy",
        format="jpeg",
        height=240,
        elem_id=elem_id,
    )


def build_live(opacity: gr.Slider, contour: gr.Checkbox) -> None:
    """Lay out the stream."""
    camera = stream("Camera: press record", "live-camera")
    shown = gr.HTML(elem_id="live")  # not an image: that would leave a file for every frame
    said = gr.JSON(visible=False)
    asked, outputs = [camera, opacity, contour], {"shown": shown, "said": said}
    gr.on([], **filling(live, outputs), inputs=asked, api_name="live")
    camera.stream(
        **filling(follow, outputs),
        inputs=asked,
        api_visibility="private",  # programs cannot follow a stream; they send a frame at a time
        stream_every=EVERY,
        time_limit=STREAM_SECONDS,
        concurrency_id="live",
        concurrency_limit=4,
        show_progress="hidden",
    )


def live(frame: np.ndarray | None, opacity: float, contour: bool, request: gr.Request) -> dict[str, Any]:
    """Score one frame of a camera.

    Args:
        frame: the picture.
        opacity: of the heatmap, from 0 to 1.
        contour: draw the edge of what is above the pixel threshold.

    Returns:
        The frame with its heatmap, verdict and frames per second as HTML, and score, threshold, p_value, is_anomalous,
        verdict (good, borderline or suspected), fps (from frame to frame, everything included; None for the first) and
        milliseconds (decoded frame to heatmap).
    """
    session = SESSIONS.of(request)
    if frame is None:
        raise refusal("No frame received. Allow the camera in the browser, then press record.")
    began, started = time.monotonic(), time.perf_counter()
    with shown_errors():
        decoded = decode(frame, name=NAME)
        prediction = predict(session.model(), [decoded])[0]
    picture = overlay(decoded.pixels, prediction, opacity, contour)
    milliseconds = 1e3 * (time.perf_counter() - started)
    fps = _rate(session.frames[request.session_hash], began, time.monotonic())
    verdict = text.WORDS[prediction.verdict]
    rate = "" if fps is None else f" · {fps:.1f} FPS"
    result = {
        "score": prediction.score,
        "threshold": prediction.threshold,
        "p_value": prediction.p_value,
        "is_anomalous": prediction.is_anomalous,
        "verdict": prediction.verdict.value,
        "fps": fps,
        "milliseconds": milliseconds,
    }
    words = f"{verdict} · {prediction.score:.3g}{rate}"
    frame = stamp(shrink(picture, text.PICTURE_SIDE), words, prediction.verdict)
    return {"shown": text.picture(frame, words), "said": result}


def follow(frame: np.ndarray | None, opacity: float, contour: bool, request: gr.Request) -> dict[str, Any]:
    """`live` for the page: what is wrong takes the picture's place, since each frame would say it again."""
    try:
        return live(frame, opacity, contour, request)
    except gr.Error as error:
        return {"shown": text.note(error.message, "error"), "said": None}


def _rate(frames: deque[float], began: float, now: float) -> float | None:
    """Frames per second over the last ones, however long a model takes for one of them.

    Args:
        frames: when each was done, which this one is added to.
        began: when this one came.
    """
    if frames and began - frames[-1] > AWAY_SECONDS:
        frames.clear()
    frames.append(now)
    return (len(frames) - 1) / (frames[-1] - frames[0]) if len(frames) > 1 and frames[-1] > frames[0] else None

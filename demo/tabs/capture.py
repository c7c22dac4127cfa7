"""The camera in the Train tab: parts are held in front of it, one after the other, and it takes the good pictures.

They go the way that the frames of Inspect's Live go, with the same camera, size and compression: what a model learns is
what it will see.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from gradio.components import Component
from gradio.events import Dependency

from admodels import AdmodelsError
from admodels.pictures import decode, glance
from demo.errors import refusal
from demo.state.captured import Captured, Shot, image_set, is_new
from demo.state.session import Chosen, Session
from demo.state.sessions import SESSIONS
from demo.tabs import webcam
from demo.tabs.camera import stream
from demo.tabs.picking import captured, show_nothing, show_picked
from demo.view import text
from demo.view.outputs import filling

SOURCE = "your camera"
EVERY = 0.4  # seconds between two frames
N_WANTED, MOST_WANTED = 30, 100
HOW = (
    "Hold a good part in front of the camera and press Start capturing. Between pictures, turn it or take the next one."
)

STOP = webcam.stop("capture")
OPEN = f"async (_, wanted) => [await ({webcam.opened('capture')})(), wanted]"
STOP_WHEN_FULL = (
    "() => { if (document.querySelector('#captured [data-full]')) document.querySelector('#stop-capturing').click(); }"
)
REASONS = {
    "insecure": "A browser gives its camera only to pages from https or localhost. Open this page by such an address.",
    "denied": "The camera may not be used. Allow it in the browser's address bar, then press Start again.",
    "none": "There is no camera here. Connect one, or upload pictures.",
    "late": "The camera did not start within a minute. Allow it if the browser asks, and see whether another program "
    "uses it; then press Start again.",
}


class Capture(NamedTuple):
    """The camera's part of the tab."""

    camera: gr.Image
    wanted: gr.Slider
    start: gr.Button
    stop: gr.Button
    delete: gr.Button
    anew: gr.Button
    shown: gr.HTML
    opened: gr.Textbox

    @property
    def outputs(self) -> dict[str, Component]:
        """What every choice of pictures fills."""
        return {"captured": self.shown}


def build() -> Capture:
    """Lay it out."""
    camera = stream("Camera", "capture")
    gr.HTML(text.note(HOW))
    with gr.Row():
        start = gr.Button("Start capturing", variant="primary", size="sm", min_width=120)
        stop = gr.Button("Stop capturing", size="sm", min_width=120, elem_id="stop-capturing")
    shown = gr.HTML(elem_id="captured")
    with gr.Row():
        delete = gr.Button("Delete last", size="sm", min_width=120)
        anew = gr.Button("Start over", size="sm", min_width=120)
    wanted = gr.Slider(5, MOST_WANTED, value=N_WANTED, step=1, label="Pictures to take")
    opened = gr.Textbox(visible=False, max_lines=1)
    return Capture(camera, wanted, start, stop, delete, anew, shown, opened)


def wire(part: Capture, shown: Mapping[str, Component], files: gr.File) -> list[Dependency]:
    """Let it work.

    Args:
        shown: what a choice of pictures fills.
        files: the upload, which the camera's pictures take the place of.

    Returns:
        The events after which other pictures are chosen, or all of them are there.
    """
    private = {"api_visibility": "private"}  # programs upload
    hidden = {"show_progress": "hidden", **private}
    begins = part.start.click(
        **filling(begin, {"captured": part.shown}), inputs=[part.opened, part.wanted], js=OPEN, **hidden
    )
    begins.success(None, js=webcam.record("capture"), **private)
    part.camera.stream(
        **filling(take, {**shown, "files": files}),
        inputs=[part.camera, part.wanted],
        stream_every=EVERY,
        time_limit=None,  # it ends by itself
        concurrency_limit=None,  # it takes a moment, and who waits would not be told
        **hidden,
    )
    part.shown.change(None, js=STOP_WHEN_FULL, **private)
    ends = part.stop.click(**filling(end, shown), js=STOP, **hidden)
    deleted = part.delete.click(**filling(delete_last, shown), inputs=part.wanted, **hidden)
    return [ends, deleted, part.anew.click(**filling(start_over, shown), **hidden)]


def begin(opened: str, wanted: float, request: gr.Request) -> dict[str, Any]:
    """Take the camera's frames from now on, until there are enough or other pictures are chosen."""
    if opened:
        raise refusal(REASONS.get(opened, REASONS["late"]))
    session = SESSIONS.of(request)
    picked = session.chosen
    _, shots = _so_far(picked)
    if len(shots) >= wanted:
        raise refusal(
            f"There are {len(shots)} pictures already, and {wanted:g} are to be taken. Raise “Pictures to take”, "
            "delete some, or start over."
        )
    session.n_picks += 1
    session.capturing = session.n_picks
    return {"captured": captured(picked, int(wanted)) if shots else text.captured([], int(wanted), 0)}


def take(frame: np.ndarray | None, wanted: float, request: gr.Request) -> dict[str, Any]:
    """Take a frame as a good picture, if it differs from the last one taken."""
    session = SESSIONS.of(request)
    if frame is None or not session.is_capturing:
        return {}
    before = session.chosen
    kept, shots = _so_far(before)
    if len(shots) >= wanted:
        session.capturing = None
        return {"captured": captured(before, int(wanted))}
    try:
        pixels = decode(frame, name="the camera's frame").pixels
    except AdmodelsError as error:  # each frame would say it again
        return {"captured": text.note(str(error), "error")}
    seen = glance(pixels)
    is_taken = is_new(shots, seen)
    kept = kept.taken(pixels, seen) if is_taken else kept.passed_over()
    shots += kept.shots[-1:] if is_taken else []
    after = Chosen(image_set(shots), SOURCE, captured=kept)
    if not session.is_capturing or not session.rechoose(before, after):
        return {}  # others were chosen, or one was deleted, while this one was looked at
    if len(shots) >= wanted:
        session.capturing = None
    now = captured(after, int(wanted))
    if not is_taken:
        return {"captured": now}
    first = {"files": None} if len(shots) == 1 else {}
    return show_picked(after) | {"captured": now} | first


def end(request: gr.Request) -> dict[str, Any]:
    """Take no more frames."""
    session = SESSIONS.of(request)
    session.capturing = None
    return _shown(session.chosen)


def delete_last(wanted: float, request: gr.Request) -> dict[str, Any]:
    """Delete the picture that was taken last; the camera goes on, if it was."""
    session = SESSIONS.of(request)
    while True:
        before = _of_the_camera(session)
        shots = before.captured.shots_of(before.images)[:-1]
        after = dataclasses.replace(before, images=image_set(shots)) if shots else None
        if session.rechoose(before, after):
            break
    shown = _shown(after)
    if after is not None and session.is_capturing:
        shown["captured"] = captured(after, int(wanted))
    return shown


def start_over(request: gr.Request) -> dict[str, Any]:
    """Delete all pictures that the camera took; the camera goes on, if it was."""
    session = SESSIONS.of(request)
    while not session.rechoose(_of_the_camera(session), None):
        pass
    return show_nothing()


def _so_far(picked: Chosen | None) -> tuple[Captured, list[Shot]]:
    """What the camera took of the pictures chosen; where they are others, it begins anew."""
    if picked is None or picked.captured is None:
        return Captured(), []
    return picked.captured, picked.captured.shots_of(picked.images)


def _of_the_camera(session: Session) -> Chosen:
    picked = session.chosen
    if picked is None or picked.captured is None:
        raise refusal("The camera has taken no pictures. Press Start capturing first.")
    return picked


def _shown(picked: Chosen | None) -> dict[str, Any]:
    return show_picked(picked) if picked is not None else show_nothing()

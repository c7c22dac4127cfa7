"""Choosing the good pictures of a fit: an upload, or one of the example sets."""

import dataclasses
from typing import Any

import gradio as gr

from admodels import ImageError, OptionError
from admodels.evaluation import normal_images
from admodels.pictures import ImageSet, choose_value_range, decode, inspect_set, thumbnail, unpack
from demo.errors import shown_errors
from demo.state.examples import EXAMPLE_SETS
from demo.state.session import Chosen, Session
from demo.state.sessions import SESSIONS
from demo.view import text

N_THUMBNAILS = 10
NONE_YET, UPLOAD = "No pictures chosen yet.", "your upload"


def pick_files(files: list[str] | None, request: gr.Request) -> dict[str, Any]:
    """Take uploaded pictures as the good ones; what cannot be read is listed, all at once."""
    session = SESSIONS.of(request)
    session.n_picks = mine = session.n_picks + 1
    chosen = None
    if files:
        with shown_errors():
            chosen = Chosen(_look(files), UPLOAD, tuple(files))
    if mine != session.n_picks:  # others were chosen while these were looked at
        return {}
    session.chosen = chosen
    if chosen is None:
        return {"picked": text.note(NONE_YET), "gallery": []}
    return {"picked": text.picked(chosen.images, chosen.source), "gallery": _thumbnails(chosen.images)}


def pick_example(name: str, request: gr.Request) -> dict[str, Any]:
    """Take one of the example sets as the good pictures."""
    session = SESSIONS.of(request)
    session.n_picks = mine = session.n_picks + 1
    images = inspect_set(normal_images(EXAMPLE_SETS[name]))
    if mine != session.n_picks:
        return {}
    source = f"the example “{name}”"
    session.chosen = Chosen(images, source)
    return {"picked": text.picked(images, source), "gallery": _thumbnails(images), "files": None}


def chosen_before(request: gr.Request) -> dict[str, Any]:
    """What this visitor had chosen on an earlier page; the loss chart moves while a fit runs.

    It says the same as when they were chosen: that may have been on this page, before this was called.
    """
    session = SESSIONS.of(request)
    clock, chosen = gr.Timer(active=session.is_fitting), session.chosen
    if chosen is None:
        return {"clock": clock}
    shown = gr.Gallery(_thumbnails(chosen.images), visible=True)
    return {"picked": text.picked(chosen.images, chosen.source), "gallery": shown, "clock": clock}


def chosen(session: Session, files: list[str] | None) -> tuple[ImageSet, list[ImageError]]:
    """The pictures to fit on, and those that cannot be read."""
    chosen = session.chosen
    if files and (chosen is None or tuple(files) != chosen.files):  # an API call, or a click before they were looked at
        session.n_picks += 1
        session.chosen = chosen = Chosen(_look(files), UPLOAD, tuple(files))
    if chosen is None:
        raise OptionError("no pictures selected. Upload good pictures or press an example first.")
    return dataclasses.replace(chosen.images, errors=[]), chosen.images.errors


def _look(files: list[str]) -> ImageSet:
    found = unpack(files)
    looked_at = inspect_set(found.images, thorough=True)
    if found.statement:
        return dataclasses.replace(looked_at, notices=(*looked_at.notices, found.statement))
    return looked_at


def _thumbnails(images: ImageSet) -> list:
    try:
        scale = choose_value_range(images.deep)
    except OptionError:  # said by the estimate, with the remedy
        scale = None
    return [thumbnail(decode(image, value_range=scale).pixels) for image in images.images[:N_THUMBNAILS]]

"""Choosing the good pictures of a fit: an upload, or one of the example sets."""

import dataclasses
from typing import Any

import gradio as gr

from admodels import OptionError
from admodels.evaluation import normal_images
from admodels.pictures import ImageSet, choose_value_range, decode, inspect_set, thumbnail, unpack
from demo.errors import shown_errors
from demo.state.examples import EXAMPLE_SETS
from demo.state.limits import PICTURE_TYPES
from demo.state.session import Chosen, Session
from demo.state.sessions import SESSIONS
from demo.view import text

N_THUMBNAILS = 10
NONE_YET, UPLOAD = "No pictures chosen yet.", "your upload"


def upload(label: str) -> gr.File:
    """Where pictures, or one zip of them, are dropped."""
    return gr.File(label=label, file_count="multiple", file_types=[*PICTURE_TYPES, ".zip"], height=150)


def pick_files(files: list[str] | None, request: gr.Request) -> dict[str, Any]:
    """Take uploaded pictures as the good ones; what cannot be read is listed, all at once."""
    session = SESSIONS.of(request)
    session.n_picks = mine = session.n_picks + 1
    picked = None
    if files:
        with shown_errors():
            picked = Chosen(_look(files), UPLOAD, tuple(files))
    if mine != session.n_picks:  # others were chosen while these were looked at
        return {}
    session.chosen = picked
    if picked is None:
        return show_nothing()
    return show_picked(picked)


def pick_example(name: str, request: gr.Request) -> dict[str, Any]:
    """Take one of the example sets as the good pictures."""
    session = SESSIONS.of(request)
    session.n_picks = mine = session.n_picks + 1
    images = inspect_set(normal_images(EXAMPLE_SETS[name]))
    if mine != session.n_picks:
        return {}
    session.chosen = picked = Chosen(images, f"the example “{name}”")
    return show_picked(picked) | {"files": None}


def chosen_before(request: gr.Request) -> dict[str, Any]:
    """What this visitor had chosen on an earlier page; the loss chart moves while a fit runs.

    It says the same as when they were chosen: that may have been on this page, before this was called.
    """
    session = SESSIONS.of(request)
    clock, picked = gr.Timer(active=session.is_fitting), session.chosen
    if picked is None:
        return {"clock": clock}
    shown = show_picked(picked)
    if picked.captured is None:
        shown["gallery"] = gr.Gallery(shown["gallery"], visible=True)
    return shown | {"clock": clock}


def chosen(session: Session, files: list[str] | None) -> Chosen:
    """The pictures to fit on."""
    picked = session.chosen
    if files and (picked is None or tuple(files) != picked.files):  # an API call, or a click before they were looked at
        session.n_picks += 1
        session.chosen = picked = Chosen(_look(files), UPLOAD, tuple(files))
    if picked is None:
        raise OptionError("no pictures selected. Upload good pictures or press an example first.")
    return picked


def _look(files: list[str]) -> ImageSet:
    found = unpack(files)
    looked_at = inspect_set(found.images, thorough=True)
    if found.statement:
        return dataclasses.replace(looked_at, notices=(*looked_at.notices, found.statement))
    return looked_at


def show_nothing() -> dict[str, Any]:
    """That nothing is chosen."""
    return {"picked": text.note(NONE_YET), "gallery": [], "captured": ""}


def show_picked(picked: Chosen) -> dict[str, Any]:
    """What was chosen, in words and pictures; a camera's pictures are shown beside it."""
    said = {"picked": text.picked(picked.images, picked.source)}
    if picked.captured is not None:
        return said | {"gallery": gr.Gallery([], visible=False), "captured": captured(picked)}
    return said | {"gallery": _thumbnails(picked.images), "captured": ""}


def captured(picked: Chosen, n_wanted: int = 0) -> str:
    """A camera's pictures so far, and what was passed over.

    Args:
        n_wanted: how many there are to be; 0 where no more are taken.
    """
    shots = picked.captured.shots_of(picked.images)
    return text.captured([(shot.path.name, shot.address) for shot in shots], n_wanted, picked.captured.n_alike)


def _thumbnails(images: ImageSet) -> list:
    try:
        scale = choose_value_range(images.deep)
    except OptionError:  # said by the estimate, with the remedy
        scale = None
    return [thumbnail(decode(image, value_range=scale).pixels) for image in images.images[:N_THUMBNAILS]]

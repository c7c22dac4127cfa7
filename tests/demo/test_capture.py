"""Good pictures from the camera: what is taken, what is passed over, and how long it is kept."""

import gc
from pathlib import Path

import gradio as gr
import numpy as np
import pytest

from admodels.pictures import decode
from demo.state.sessions import SESSIONS
from demo.tabs import capture, fitting, picking
from tests.conftest import until
from tests.demo.test_current import no_progress


@pytest.fixture
def visitor(request):
    visitor = gr.Request(session_hash=f"camera of {request.node.name}", query_params={})
    yield visitor
    SESSIONS._drop(visitor.session_hash)


@pytest.fixture
def frames(specks):
    """Frames of different parts."""
    return [np.ascontiguousarray(decode(path).pixels) for path in specks.train]


@pytest.fixture
def frame(rng):
    """Makes frames that are all different."""

    def make():
        blocks = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        return np.kron(blocks, np.ones((20, 20, 1), np.uint8))

    return make


def names(session):
    return [path.name for path in session.chosen.images.images]


def test_frames_that_differ_are_taken_without_loss_until_there_are_enough(visitor, frame):
    session = SESSIONS.of(visitor)
    given = [frame() for _ in range(6)]
    assert capture.take(given[0], 5, visitor) == {}  # nobody pressed Start
    capture.begin("", 5, visitor)
    for each in given[:3]:
        for _ in range(3):  # the part is held still
            shown = capture.take(each, 5, visitor)
    assert names(session) == ["camera-001.png", "camera-002.png", "camera-003.png"]
    assert "<b>3</b> of 5" in shown["captured"]
    assert "6 frames passed over" in shown["captured"]
    for path, each in zip(session.chosen.images.images, given, strict=False):
        assert np.array_equal(decode(path).pixels, each)
    for each in given[3:]:
        shown = capture.take(each, 5, visitor) or shown
    assert len(names(session)) == 5
    assert "data-full" in shown["captured"]
    assert not session.is_capturing
    with pytest.raises(gr.Error, match="5 pictures already"):
        capture.begin("", 5, visitor)


def test_what_is_taken_can_be_deleted_and_no_name_comes_twice(visitor, frame):
    session = SESSIONS.of(visitor)
    for nothing_there in (lambda: capture.delete_last(30, visitor), lambda: capture.start_over(visitor)):
        with pytest.raises(gr.Error, match="has taken no pictures"):
            nothing_there()
    given = [frame() for _ in range(3)]
    capture.begin("", 30, visitor)
    for each in given[:2]:
        capture.take(each, 30, visitor)
    assert "<b>1</b> of 30" in capture.delete_last(30, visitor)["captured"]
    capture.take(given[0], 30, visitor)  # as the last one that is still there
    capture.take(given[1], 30, visitor)
    assert names(session) == ["camera-001.png", "camera-003.png"]
    folder = Path(session.chosen.captured.folder.name)
    assert len(list(folder.iterdir())) == 3
    assert picking.NONE_YET in capture.start_over(visitor)["picked"]
    assert session.chosen is None
    gc.collect()
    assert not folder.exists()


def test_another_choice_takes_their_place_and_ends_capturing(visitor, frame):
    session = SESSIONS.of(visitor)
    capture.begin("", 30, visitor)
    capture.take(frame(), 30, visitor)
    folder = Path(session.chosen.captured.folder.name)
    assert picking.pick_example("Paper with specks", visitor)["captured"] == ""
    assert capture.take(frame(), 30, visitor) == {}
    assert len(session.chosen.images.images) == 24
    gc.collect()
    assert not folder.exists()
    capture.begin("", 30, visitor)
    assert capture.take(frame(), 30, visitor)["files"] is None
    assert names(session) == ["camera-001.png"]


def test_a_fit_learns_from_them_though_the_visitor_starts_over(visitor, frames):
    session = SESSIONS.of(visitor)
    capture.begin("", 30, visitor)
    for each in frames[:12]:
        capture.take(each, 30, visitor)
    n = len(names(session))
    assert n >= 8
    fitting.begin_fit(visitor)
    assert not session.is_capturing
    folder = Path(session.chosen.captured.folder.name)
    ended = fitting.fit(None, "fapm", 0.01, '{"image_size": 64, "grid": 3}', 0, "auto", visitor, no_progress)
    assert "look live" in ended["result"]
    assert {item["name"] for item in ended["report"]["unusual"]} <= {f"camera-{i:03}.png" for i in range(1, n + 1)}
    capture.start_over(visitor)
    gc.collect()
    reviewed = fitting.review(visitor)  # a page that comes back shows them again
    assert reviewed["live"].visible
    assert folder.exists()
    session.job = None
    until(lambda: gc.collect() >= 0 and not folder.exists())  # the fit's thread lets go of it a moment later


def test_a_camera_that_does_not_open_says_why(visitor):
    for reason, said in (("denied", "may not be used"), ("insecure", "https or localhost"), ("none", "no camera")):
        with pytest.raises(gr.Error, match=said):
            capture.begin(reason, 30, visitor)
    assert not SESSIONS.of(visitor).is_capturing

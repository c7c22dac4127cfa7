"""Train is Stop while a fit runs; one press does one thing; the time left is what it turns out to be."""

import uuid
from types import SimpleNamespace

import gradio as gr
import pytest

from demo.state.jobs import JOBS
from demo.state.sessions import SESSIONS
from demo.state.time_left import TimeLeft
from demo.tabs import fit_button
from demo.tabs.fit_button import STOP, TRAIN


@pytest.fixture
def visitor():
    return SimpleNamespace(session_hash=uuid.uuid4().hex)


@pytest.fixture
def later(monkeypatch):
    """Let more time pass than lies between the presses of a double click."""
    return lambda: monkeypatch.setattr(fit_button, "TWICE_SECONDS", 0.0)


@pytest.fixture
def running(visitor):
    """Begin a fit of the visitor that ends when it is stopped."""
    session = SESSIONS.of(visitor)

    def begin():
        stop = session.fit_stop.take()
        session.job = JOBS.submit(lambda tell: stop.wait(60), stop)
        session.has_begun()
        return session.job

    yield begin
    session.fit_stop.press()


def says(visitor):
    return fit_button.shown(visitor)["button"].value


def test_the_button_stops_what_it_began(visitor, running, later):
    assert says(visitor) == TRAIN
    fit_button.press(TRAIN, visitor)
    assert says(visitor) == STOP  # already before the page has sent what to fit
    job = running()
    assert says(visitor) == STOP
    later()
    with pytest.raises(gr.Error) as ended:  # nothing is begun, and nobody is shown why
        fit_button.press(STOP, visitor)
    assert not ended.value.visible
    assert job.stop.is_set()
    job.outcome.exception(timeout=60)
    assert says(visitor) == TRAIN
    fit_button.press(TRAIN, visitor)
    assert not running().stop.is_set()


def test_the_second_press_of_a_double_click_does_nothing(visitor, running, monkeypatch):
    monkeypatch.setattr(fit_button, "TWICE_SECONDS", 60.0)
    fit_button.press(TRAIN, visitor)
    for label in (TRAIN, STOP):
        with pytest.raises(gr.Error) as ended:
            fit_button.press(label, visitor)
        assert not ended.value.visible
    job = running()
    with pytest.raises(gr.Error):
        fit_button.press(STOP, visitor)
    assert not job.stop.is_set()
    assert job.is_running


def test_a_page_that_is_out_of_date_is_told(visitor, running, later):
    later()
    running()
    with pytest.raises(gr.Error, match="runs already, perhaps on another page"):
        fit_button.press(TRAIN, visitor)
    SESSIONS.of(visitor).fit_stop.press()
    SESSIONS.of(visitor).job.outcome.exception(timeout=60)
    with pytest.raises(gr.Error):
        fit_button.press(STOP, visitor)
    assert not running().stop.is_set()  # what is begun next is not stopped


def test_a_fit_whose_page_was_left_before_it_began_is_forgotten(visitor):
    fit_button.press(TRAIN, visitor)
    assert says(visitor) == STOP
    assert fit_button.come_back(visitor)["button"].value == TRAIN
    assert says(visitor) == TRAIN


def left_at(estimated, seconds, fractions):
    """What was said at some fractions of a fit that takes `seconds`."""
    now = [100.0]
    time_left = TimeLeft(estimated, clock=lambda: now[0])
    found = []
    for fraction in fractions:
        now[0] = 100.0 + seconds * fraction
        found.append(time_left.seconds(fraction))
    return found


def test_the_time_left_is_the_estimates_at_first_and_then_that_of_the_speed():
    assert left_at(10.0, 10.0, [0.0, 0.1, 0.5, 1.0]) == pytest.approx([10.0, 9.0, 5.0, 0.0])
    # Four times as slow as estimated: it tends to what is true, and is true from a quarter on.
    said = left_at(10.0, 40.0, [0.0, 0.1, 0.2, 0.25, 0.5, 1.0])
    assert said[0] == 10.0
    assert said[1] < said[2] < said[3] == pytest.approx(30.0)
    assert said[4:] == pytest.approx([20.0, 0.0])
    # Nothing is said where nothing is known.
    assert left_at(None, 40.0, [0.0, 0.5]) == [None, pytest.approx(20.0)]

"""The button that is Train, and Stop while a fit of this visitor runs or waits."""

from typing import Any

import gradio as gr

from demo.errors import nothing_follows
from demo.state.sessions import SESSIONS
from demo.tabs.fitting import begin_fit
from demo.tabs.stop import stop_fit

TRAIN, STOP = "Train", "Stop"
LOOKS = {TRAIN: "primary", STOP: "stop"}
TWICE_SECONDS = 1.0  # a press so soon after the start is the second of a double click


def press(label: str, request: gr.Request) -> None:
    """Let a fit begin, or stop the one that runs; what follows a fit's beginning is to follow a success of this only.

    Args:
        label: what the button says. It may be out of date where a visitor has several pages.
    """
    session = SESSIONS.of(request)
    if session.since_begun < TWICE_SECONDS:
        raise nothing_follows()
    if label == STOP:
        if session.has_fit:
            stop_fit(request)
        else:
            gr.Info("Nothing of yours is being trained any more.")
        raise nothing_follows()
    begin_fit(request)


def shown(request: gr.Request) -> dict[str, Any]:
    """What the button says now."""
    session = SESSIONS.of(request)
    label = STOP if session.has_fit else TRAIN
    return {"button": gr.Button(label, variant=LOOKS[label])}


def come_back(request: gr.Request) -> dict[str, Any]:
    """The same on a visitor's next page: a fit that an earlier one asked for, and did not begin, will not begin."""
    SESSIONS.of(request).has_begun()
    return shown(request)

"""Stopping a visitor's fit or evaluation; the buttons of both tabs."""

import gradio as gr

from demo.state.sessions import SESSIONS


def begin(request: gr.Request) -> None:
    """Forget an earlier press of Stop; from here on it counts for what was just asked for."""
    SESSIONS.of(request).begin()


def stop(request: gr.Request) -> None:
    """Stop this visitor's fit or evaluation: at the next batch, or before it starts if it is still waiting.

    A network that is being trained is kept as it is then, and calibrated.
    """
    SESSIONS.of(request).stop.set()
    gr.Info("Stopping.")

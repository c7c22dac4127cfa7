"""Stopping a visitor's fit or evaluation; the buttons of both tabs."""

import gradio as gr

from demo.state.sessions import SESSIONS


def begin(request: gr.Request) -> None:
    """An evaluation or a comparison was asked for; from here on Stop is meant for it."""
    SESSIONS.of(request).side_stop.begin()


def stop(request: gr.Request) -> None:
    """Stop this visitor's fit and evaluation: at the next batch, or before it starts if it is still waiting.

    A network that is being trained is kept as it is then, and calibrated.
    """
    SESSIONS.of(request).side_stop.press()
    stop_fit(request)


def stop_fit(request: gr.Request) -> None:
    """Stop the fit alone."""
    SESSIONS.of(request).fit_stop.press()
    gr.Info("Stopping.")


def stop_beside(request: gr.Request) -> None:
    """Stop what runs or waits beside a fit: an evaluation, a comparison."""
    SESSIONS.of(request).side_stop.press()
    gr.Info("Stopping.")

"""Errors that a visitor can act on are shown in the page, and stay until they are closed; anything else surfaces."""

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from admodels import AdmodelsError


@contextmanager
def shown_errors() -> Iterator[None]:
    """Show what the library says is wrong."""
    try:
        yield
    except AdmodelsError as error:
        raise gr.Error(str(error), duration=None) from error

"""Handlers say by name what they fill; the layout knows which component that is."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

Outputs = Mapping[str, Component]


def filling(handler: Callable[..., Mapping[str, Any]], outputs: Outputs) -> dict[str, Any]:
    """The `fn` and `outputs` of an event listener.

    Args:
        handler: returns values by name; what it does not name stays as it is.
        outputs: the components, by name, in the order in which programs get their values.
    """
    # For a handler that fills nothing: Gradio takes an empty dict for a value.
    nothing = gr.skip() if len(outputs) == 1 else [gr.skip()] * len(outputs)

    @functools.wraps(handler)
    def fill(*given: Any, **named: Any) -> Any:
        return {outputs[name]: value for name, value in handler(*given, **named).items()} or nothing

    return {"fn": fill, "outputs": list(outputs.values())}

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

    @functools.wraps(handler)
    def fill(*given: Any, **named: Any) -> Any:
        values = handler(*given, **named)
        # Gradio takes an empty dict for a value.
        return {outputs[name]: value for name, value in values.items()} or [gr.skip()] * len(outputs)

    return {"fn": fill, "outputs": list(outputs.values())}

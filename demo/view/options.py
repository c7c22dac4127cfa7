"""A method's options as controls, and back."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import gradio as gr

from admodels.options import accepted_types


def control(field: dataclasses.Field) -> gr.components.Component:
    """The control that suits an option's type, with its line of help."""
    label, info = field.name.replace("_", " "), field.metadata["help"]
    wanted = accepted_types(field)
    choices = field.metadata["choices"] or field.metadata["for_all"]  # the app takes no others of these
    if choices:
        return gr.Dropdown(list(choices), value=field.default, label=label, info=info)
    if bool in wanted:
        return gr.Checkbox(field.default, label=label, info=info)
    if str in wanted:
        return gr.Textbox(field.default, label=label, info=info, max_lines=1)
    if type(None) in wanted:
        info = f"{info} 0 or empty: {'the default' if 'Default' in info else 'none'}."
    # Without its range: Gradio would complain of the 6 on the way to 64; the option itself says what is wrong.
    return gr.Number(field.default, precision=0 if int in wanted else None, label=label, info=info, min_width=140)


def changed(fields: Iterable[dataclasses.Field], values: Sequence[Any]) -> dict[str, Any]:
    """What the controls of some options say, where it differs from their defaults."""
    chosen = {}
    for field, value in zip(fields, values, strict=True):
        value = None if value in ("", 0) and type(None) in accepted_types(field) else value
        if value != field.default:
            chosen[field.name] = value
    return chosen

"""The line at the head of every tab: the model in use, its threshold, how fast it is, and whether it is saved."""

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from demo.state.session import Session
from demo.state.sessions import SESSIONS
from demo.view import text


@dataclass(frozen=True)
class Chip:
    """The components of the line."""

    said: gr.HTML
    save: gr.Button

    @property
    def outputs(self) -> dict[str, Component]:
        """What `shown` fills."""
        return {"chip": self.said, "chip_save": self.save}


def build() -> Chip:
    """Lay out the line; there is no button until there is something to save."""
    with gr.Row(elem_id="chip", equal_height=True):
        said = gr.HTML(text.chip_without_model(), scale=1)
        save = gr.Button("Save…", visible=False, size="sm", scale=0, min_width=80)
    return Chip(said, save)


def shown(session: Session) -> dict[str, Any]:
    """The line as it is now."""
    current = session.current
    if current is None:
        return {"chip": text.chip_without_model(), "chip_save": gr.update(visible=False)}
    done = {"inspected": session.inspected, "evaluated": session.evaluated}
    said = text.chip(
        current.label,
        current.calibration,
        current.seconds,
        is_kept=current.is_kept,
        threshold_moved=current.threshold_moved,
        done=[name for name, result in done.items() if result is not None],
    )
    return {"chip": said, "chip_save": gr.update(visible=not current.is_kept)}


def refresh(request: gr.Request) -> dict[str, Any]:
    """The same, for an event."""
    return shown(SESSIONS.of(request))

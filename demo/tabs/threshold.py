"""The threshold of the current model, moved without a new fit; two tabs show the same controls."""

import math
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from admodels import Calibration, OptionError
from admodels.core import DEFAULT_RATE
from demo.errors import shown_errors
from demo.state.current import Current
from demo.state.session import Session
from demo.state.sessions import SESSIONS
from demo.tabs import chip
from demo.tabs.chip import Chip
from demo.view import marks as said_of_marks
from demo.view import text

BY_RATE, BY_HAND = "by false-alarm rate", "by hand"


@dataclass(frozen=True)
class Controls:
    """The components of one panel."""

    box: gr.Group
    how: gr.Radio
    rate: gr.Slider
    value: gr.Number
    said: gr.HTML
    chip: Chip  # shows the threshold too

    @property
    def inputs(self) -> list:
        """What `set_threshold` takes."""
        return [self.how, self.rate, self.value]

    @property
    def outputs(self) -> dict[str, Component]:
        """What `shown` fills."""
        return {
            "panel": self.box,
            "panel_how": self.how,
            "panel_rate": self.rate,
            "panel_value": self.value,
            "panel_said": self.said,
            **self.chip.outputs,
        }


def build(head: Chip) -> Controls:
    """Lay out one panel; it stays hidden until there is a model."""
    with gr.Group(visible=False) as box:
        how = gr.Radio([BY_RATE, BY_HAND], value=BY_RATE, label="Threshold")
        rate = gr.Slider(0.001, 0.5, value=0.01, step=0.001, label="False-alarm rate")
        value = gr.Number(label="Score above which a picture is suspected", visible=False)
        said = gr.HTML(elem_classes="padded")
    return Controls(box, how, rate, value, said, head)


def set_threshold(how: str, rate: float, value: float, request: gr.Request) -> dict:
    """Change the current model's threshold; nothing is learned again.

    Args:
        how: "by false-alarm rate" or "by hand".
        rate: fraction of good pictures that may alarm, between 0 and 1; used with the first.
        value: a raw score; used with the second.

    Returns:
        threshold, map_threshold, statement, false_alarm_rate, hand_threshold.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        calibration = apply(session, session.in_use(), how, rate, value).calibration
    return {
        "threshold": calibration.threshold,
        "map_threshold": calibration.map_threshold,
        "statement": calibration.statement,
        "false_alarm_rate": calibration.false_alarm_rate,
        "hand_threshold": calibration.hand_threshold,
    }


def apply(session: Session, current: Current, how: str, rate: float | None, value: float | None) -> Current:
    """Give a session's model another threshold; what was predicted before is judged anew by it.

    Args:
        current: the model that is meant.

    Raises:
        OptionError: the threshold is out of range, or the model was replaced meanwhile.
    """
    if how == BY_HAND and value is None:  # the field is being emptied to write another number
        return current
    wanted = {"threshold": value} if how == BY_HAND else {"false_alarm_rate": rate}
    after = session.change(current, lambda model: model.moved(**wanted))
    if after is None:
        raise OptionError("another model replaced this one in the meantime. Its threshold was not changed.")
    return after


def react(session: Session, page: str, how: str, rate: float, value: float | None) -> dict[str, Any]:
    """Apply what a control was moved to, and give the panel; the control itself is left to whoever moves it."""
    with shown_errors():
        current = session.in_use()
        told = session.panels.get(page)
        if told is not None and not told.is_same_model(current):
            return shown(session, page)  # what was moved was another model's threshold
        was_by_hand = current.calibration.hand_threshold is not None
        apply(session, current, how, rate, value)
    panel = shown(session, page)
    if was_by_hand == (how == BY_HAND):  # an answer that comes late must not undo the next keystroke
        panel.pop("panel_value" if was_by_hand else "panel_rate")
    return panel


def shown(session: Session, page: str) -> dict[str, Any]:
    """The panel as the session's model has it, for one page of its visitor."""
    session.panels[page] = current = session.current
    if current is None:
        return {"panel": gr.update(visible=False), **chip.shown(session)}
    calibration = current.calibration
    by_hand, value, most = calibration.hand_threshold is not None, calibration.threshold, calibration.scores[-1]
    step = 10.0 ** math.floor(math.log10(max(most - calibration.scores[0], 1e-3 * abs(most), 1e-6) / 20))
    if not by_hand:  # rounded upwards: what is at the threshold now does not alarm because of it
        value = float(f"{step * math.ceil(value / step):.6g}")
    return {
        "panel": gr.update(visible=True),
        "panel_how": BY_HAND if by_hand else BY_RATE,
        "panel_rate": gr.update(value=calibration.false_alarm_rate, visible=not by_hand),
        "panel_value": gr.update(value=value, step=float(f"{step:.6g}"), visible=by_hand),
        **chip.shown(session),
        "panel_said": _said(calibration),
    }


def _said(calibration: Calibration) -> str:
    as_it_came = calibration.false_alarm_rate == DEFAULT_RATE  # nobody asked for more than the pictures can promise
    return text.note(calibration.statement, "note" if calibration.supports_rate or as_it_came else "warning")


def said_again(session: Session, page: str) -> dict[str, Any]:
    """What the panel says below its controls, where those are of the current model already."""
    told = session.panels.get(page)
    if told is None or not told.is_same_model(session.current):
        return {}
    return with_evaluation(session, page, {"panel_said": _said(session.current.calibration)})


def with_evaluation(session: Session, page: str, panel: dict[str, Any]) -> dict[str, Any]:
    """The panel as a tab shows it that has no evaluation itself.

    It says what each rate found in the last one, and which rates would find the marked defects that are missed.
    """
    evaluated, marked, told, more = session.evaluated, session.mark_scores, session.panels.get(page), ""
    if marked is not None and marked.current.is_same_model(told):
        there = [mark for mark in session.marks if mark.digest in marked.scores]
        names, scores = [mark.name for mark in there], [marked.scores[mark.digest] for mark in there]
        more += said_of_marks.missed_at(names, scores, marked.current.calibration)
    if evaluated is not None and evaluated.current.is_same_model(told):
        more += text.last_evaluation(evaluated.accuracy)
    return panel | {"panel_said": panel["panel_said"] + more} if more else panel


def on_move(controls: Controls, react: dict) -> None:
    """Run `react` (arguments of an event listener) while a control is moved by hand."""
    for control in (controls.how, controls.rate, controls.value):
        # The last position counts, whatever came while an earlier one was drawn.
        control.input(**react, api_visibility="private", show_progress="hidden", trigger_mode="always_last")

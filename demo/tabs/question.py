"""One row at the top of the page asks before a model that is not saved is replaced or let go.

A program is not asked: what it calls for is done; it answers for a stopped training by `keep_stopped` and
`discard_stopped`.
"""

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from admodels import NotFittedError
from demo.errors import refusal, shown_errors
from demo.state import opening
from demo.state.current import Current, Question
from demo.state.session import Session
from demo.state.sessions import SESSIONS
from demo.view import text

FIRST = "Answer the question at the top of the page first: keep or discard the model of the training you stopped."
NONE_STOPPED = "there is no stopped training to decide about."


@dataclass(frozen=True)
class Row:
    """What the composition of the tabs needs of the row.

    Attributes:
        outputs: what `shown` fills.
        answered: the events that end an answer.
    """

    outputs: dict[str, Component]
    answered: list[Dependency]


def of_stopped(session: Session, current: Current) -> Question:
    """What to ask about the model of a training that was stopped."""
    kept = f" Your model {session.current.label} is in use until you answer." if session.current is not None else ""
    said = f"The training was stopped early. Keep the model as it is, or discard it?{kept}"
    return Question(said, "Keep it", "Discard", stopped=current)


def open_or_ask(
    session: Session, reference: str, label: str, link: gr.Progress | None = None, accepted: Current | None = None
) -> Current | None:
    """Open a model in place of the one in use; None where that one is not saved and the visitor is asked first.

    Args:
        label: what the model is called in the question.
        link: as of `opening.use`.
        accepted: the model that the visitor has agreed to lose.
    """
    known, is_link = accepted or session.current, link is not None
    if accepted is None and _is_asked(session, known, reference, label, is_link):
        return None
    opened = opening.use_instead_of(session, known, reference, link)
    if opened is None:  # while it was on its way, a fit has ended
        _is_asked(session, session.current, reference, label, is_link)
    return opened


def _is_asked(session: Session, current: Current | None, reference: str, label: str, is_link: bool) -> bool:
    """Ask before a model that is not saved is replaced by another one; False where there is nothing to ask."""
    if current is None or current.is_kept:
        return False
    if session.question is not None and session.question.stopped is not None:
        raise refusal(FIRST)
    wants = "This page's address asks for" if is_link else "You asked for"
    session.question = Question(
        f"{wants} {label}, and your model {current.label} is not saved and would be lost.",
        f"Open {label} instead of your unsaved model",
        "Keep my model",
        about=current,
        reference=reference,
        label=label,
        is_link=is_link,
    )
    return True


def shown(request: gr.Request) -> dict[str, Any]:
    """The row as it is now: hidden where nothing is asked."""
    asked = SESSIONS.of(request).question
    if asked is None:
        return {"box": gr.update(visible=False), "said": "", "asked": ""}
    return {
        "box": gr.update(visible=True),
        "said": text.note(asked.said, "warning"),
        "asked": asked.said,
        "yes": gr.update(value=asked.yes),
        "no": gr.update(value=asked.no),
    }


def accept(
    said: str,
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by its default value
) -> None:
    """Do what was asked about.

    Args:
        said: the question that the page shows. Where another one took its place, that one is shown next.
    """
    session = SESSIONS.of(request)
    asked = session.answered(said)
    if asked is None:
        return
    if asked.stopped is not None:
        session.use(asked.stopped)
        return
    link = progress if asked.is_link else None
    try:
        open_or_ask(session, asked.reference, asked.label, link, accepted=asked.about)
    except gr.Error:
        session.question = session.question or asked
        raise


def decline(said: str, request: gr.Request) -> None:
    """Leave everything as it is; `said` as for `accept`."""
    SESSIONS.of(request).answered(said)


def keep_stopped(request: gr.Request) -> dict:
    """Use the model of the training that was stopped last.

    Returns:
        method, n_learned, n_held_out and threshold.
    """
    current = _take_stopped(SESSIONS.of(request), use=True)
    report = current.detector.fit_report_
    return {
        "method": current.detector.key,
        "n_learned": report.n_learned,
        "n_held_out": report.n_held_out,
        "threshold": current.calibration.threshold,
    }


def discard_stopped(request: gr.Request) -> dict:
    """Discard the model of the training that was stopped last; the previous model stays.

    Returns:
        model, the label of the one in use, or null.
    """
    session = SESSIONS.of(request)
    _take_stopped(session, use=False)
    return {"model": session.current.label if session.current is not None else None}


def build() -> Row:
    """Lay out the row; it stays hidden until there is something to ask."""
    with gr.Group(visible=False) as box:
        said = gr.HTML(elem_classes="padded", elem_id="question")
        asked = gr.Textbox(visible=False)
        with gr.Row():
            yes, no = gr.Button("Yes", variant="primary"), gr.Button("No")
    outcome = gr.JSON(visible=False)
    private = {"api_visibility": "private"}
    gr.on([], keep_stopped, None, outcome, api_name="keep_stopped")
    gr.on([], discard_stopped, None, outcome, api_name="discard_stopped")
    outputs = {"box": box, "said": said, "asked": asked, "yes": yes, "no": no}
    accepted = yes.click(accept, asked, said, concurrency_limit=None, **private)
    declined = no.click(decline, asked, None, **private)
    return Row(outputs, [accepted, declined])


def _take_stopped(session: Session, use: bool) -> Current:
    asked = session.question
    with shown_errors():
        if asked is None or asked.stopped is None:
            raise NotFittedError(NONE_STOPPED)
    session.question = None
    if use:
        session.use(asked.stopped)
    return asked.stopped

"""Open a model by its reference: at once, or, where only a link asks for it, in the queue and within a size."""

import threading

import gradio as gr

from admodels import HUB, OptionError
from admodels.models import parse_reference
from demo.errors import shown_errors
from demo.state import held
from demo.state.current import Current
from demo.state.jobs import JOBS, Tell
from demo.state.limits import limit
from demo.state.session import Session
from demo.state.sessions import SESSIONS, is_local


def use(session: Session, reference: str, link: gr.Progress | None = None) -> Current:
    """Open a model by `local:name`, `name` or `hf-hub:owner/name@revision`; it is the current one from then on.

    Args:
        link: where a link asks for the model: how far it is. It then waits for its turn, and must not be too large.

    Raises:
        gr.Error: it cannot be had, or is too large for a link.
    """
    current = _opened(session, reference, link)
    session.use(current)
    _adopt(session, current)
    return current


def use_instead_of(
    session: Session, known: Current | None, reference: str, link: gr.Progress | None = None
) -> Current | None:
    """The same, unless a model that is not saved took the place of `known` while this one was on its way: then None."""
    current = _opened(session, reference, link)
    if not session.use_instead_of(known, current):
        return None
    _adopt(session, current)
    return current


def _opened(session: Session, reference: str, link: gr.Progress | None) -> Current:
    given = (reference or "").strip()
    with shown_errors():
        held.check_memory(session)
    if link is None or is_local(given):
        with shown_errors():
            return SESSIONS.opened(given, session)
    return JOBS.run(lambda tell: _within_limit(session, given, tell), threading.Event(), link)


def _adopt(session: Session, current: Current) -> None:
    """Have what came with a model: the defects marked with a saved one, the picture published with one of the Hub."""
    if current.saved_as:
        with shown_errors():
            session.adopt(current, session.store().known_defects(current.saved_as))
    if current.pulled is not None and current.pulled.picture is not None:
        session.try_on(current, current.pulled.picture, f"the picture of {current.pulled.reference.repo_id}")
    if session.question is not None and session.question.reference:
        session.question = None  # it was about the model before


def _within_limit(session: Session, reference: str, tell: Tell) -> Current:
    tell(0.1, f"looking up {reference}")
    most = limit("ADMODELS_MAX_LINK_MIB")
    pinned, n_bytes = HUB.size(parse_reference(reference), token=session.token())
    mib = n_bytes / 2**20
    if mib > most:
        raise OptionError(
            f"{reference} is {mib:.0f} MiB; this server opens links of up to {most:g} MiB. Press Try in the Hub tab to "
            "open it anyway."
        )
    tell(0.2, f"downloading {reference}: {mib:.1f} MiB")
    return SESSIONS.opened(str(pinned), session)

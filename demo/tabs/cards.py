"""What a search of the Hub found as cards, with the pictures that the repositories show."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gradio as gr

from admodels import HUB, AdmodelsError
from admodels.models import LOCAL_PREFIX, parse_reference
from admodels.pictures import as_address, as_jpeg
from admodels.runtime import Shared
from demo.state.session import Session
from demo.state.sessions import SESSIONS
from demo.view import text

N_CARDS = 60  # the table has all
N_PICTURES = 24  # that are fetched after a search
N_AT_ONCE = 8
PICTURE_SIDE = 320
NOTHING = (
    "No models found. Try another part of a name or leave the fields empty, add the two small example models below, or "
    "push one of your own."
)
# A press of a card is told to the server. Which one it was stays marked, and the focus stays, when pictures come in.
CHOOSE = """
let chosen = null, focused = null;
const cards = () => [...element.querySelectorAll('button[data-model]')];
const mark = () => cards().forEach((card) => card.setAttribute('aria-pressed', String(card.dataset.model === chosen)));
element.addEventListener('click', (event) => {
  const card = event.target.closest('button[data-model]');
  if (!card) return;
  chosen = card.dataset.model;
  mark();
  trigger('click', { model: chosen });
});
element.addEventListener('focusin', (event) => { focused = event.target.dataset?.model ?? null; });
document.addEventListener('focusin', (event) => { if (!element.contains(event.target)) focused = null; });
watch('value', () => {
  mark();
  if (focused !== null) cards().find((card) => card.dataset.model === focused)?.focus({ preventScroll: true });
});
"""

_PICTURES: Shared[str] = Shared(512)  # by reference, pinned to a commit: whoever has that may see it


def draw(session: Session) -> str:
    """The cards of what was found last, so far without pictures."""
    if not session.found:
        return text.note(NOTHING)
    return text.model_cards(_rows(session), {})


def show(request: gr.Request) -> dict[str, Any]:
    """The cards at once; their pictures follow."""
    return {"cards": draw(SESSIONS.of(request))}


def show_pictures(request: gr.Request) -> dict[str, Any]:
    """The cards again, with the pictures that their repositories show."""
    session = SESSIONS.of(request)
    mine, token = session.n_searches, session.token()
    rows = _rows(session)
    wanted = [name for name in rows if not name.startswith(LOCAL_PREFIX)][:N_PICTURES]
    if not wanted:
        return {}
    with ThreadPoolExecutor(N_AT_ONCE) as pool:
        pictures = pool.map(lambda name: _picture(rows[name]["reference"], token), wanted)
        found = dict(zip(wanted, pictures, strict=True))
    if mine != session.n_searches:  # another search began meanwhile
        return {}
    return {"cards": text.model_cards(rows, found)}


def _rows(session: Session) -> dict[str, dict[str, Any]]:
    return dict(list(session.found.items())[:N_CARDS])


def _picture(reference: str, token: str | bool | None) -> str:
    """The address of a repository's picture; empty where it has none, which is nothing to complain of."""

    def fetch() -> str:
        return as_address(as_jpeg(HUB.preview(parse_reference(reference), token=token), PICTURE_SIDE))

    try:
        return _PICTURES.get(reference, fetch)
    except AdmodelsError:
        return ""

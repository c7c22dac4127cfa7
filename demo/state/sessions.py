"""Who is who: the sessions of all visitors, and the models that they share.

Gradio's `gr.State` is copied; pictures and detectors are too large for that. So the server keeps one `Session` for each
visitor and never shows one's to another. A page has a session hash from Gradio, a new one with each load; who it is is
found by a secret that the server makes and the browser keeps. A program that uses the API has its session hash only,
which it chooses itself; a call without one gets that of its own event from Gradio, and so a session for itself alone.

Whoever knows a page's hash speaks for that page, as Gradio has it: it is random, and only its own browser is told it.
"""

import re
import secrets
import threading
import time
from collections import OrderedDict
from pathlib import Path

import gradio as gr

from admodels import HUB, Detector, OptionError, Pulled
from admodels.models import LOCAL_PREFIX, Store, note_use, parse_reference, stated_options
from admodels.runtime import Shared
from demo.errors import shown_errors
from demo.state import downloaded, reach
from demo.state.current import Current
from demo.state.server import device_name, is_shared
from demo.state.session import Session

MAX_SESSIONS = 64  # of pages
MAX_PROGRAMS = 32  # sessions of programs
SESSION_SECONDS = 4 * 3600  # without a request
CALL_SECONDS = 60  # a session for one call alone, after it
AWAY_SECONDS = 15 * 60  # without a page: who refreshes, or loses the connection, finds everything again
WATCH_SECONDS = 30
MAX_LOADED_MODELS = 4
EVENT_PATTERN = re.compile(r"[0-9a-f]{32}")  # a session hash that Gradio makes for a call without one


class Sessions:
    """All sessions: a number of pages' and a number of programs'. A visitor with something to lose never makes room.

    To lose there is a fit that runs, and a model that is not saved.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Session] = OrderedDict()  # by secret, or session hash; last used is last
        self._secrets: dict[str, str] = {}  # of the visitor, by session hash
        self._is_watching = False
        self._loaded: Shared[Detector | Pulled] = Shared(MAX_LOADED_MODELS)
        self._lock = threading.Lock()

    def of(self, request: gr.Request) -> Session:
        """The session of whoever made this request.

        Raises:
            gr.Error: the request has no session hash, or there are too many sessions with something to lose.
        """
        with shown_errors():
            page, now = _page(request), time.monotonic()
            with self._lock:
                key = self._secrets.get(page, page)
                if key not in self._sessions:
                    self._make_room(is_page=key != page)
                session = self._sessions.setdefault(key, Session())
                session.used_at = now
                session.n_requests += 1
                if session.left_at is not None:  # it goes on all the same, as programs may
                    session.left_at = now
                self._sessions.move_to_end(key)
        return session

    def _make_room(self, is_page: bool) -> None:
        """Forget sessions that expired, and the one that has least to lose where there are as many as there may be.

        Raises:
            OptionError: all of them have something to lose.
        """
        now, visitors = time.monotonic(), set(self._secrets.values())
        for key, session in [*self._sessions.items()]:
            was_call = key not in visitors and session.n_requests == 1 and EVENT_PATTERN.fullmatch(key)
            seconds = CALL_SECONDS if was_call else SESSION_SECONDS
            if now - session.used_at > seconds and not session.is_busy:
                self._drop(key)
        alike = {key: s for key, s in self._sessions.items() if (key in visitors) == is_page}
        most = MAX_SESSIONS if is_page else MAX_PROGRAMS
        while len(alike) >= most:
            idle = {key: s for key, s in alike.items() if not s.is_busy}
            # A program that ended, or is silent for long, does not come back as a page may.
            gone = [key for key, s in idle.items() if s.left_at is not None or now - s.used_at > AWAY_SECONDS]
            free = (not is_page and gone) or [key for key, s in idle.items() if not s.has_unsaved]
            if not free:
                who = "visitors" if is_page else "programs"
                raise OptionError(
                    f"{most} {who} have unsaved models here, the limit of this server, and none of them is discarded. "
                    "Try again later."
                )
            # Of those that have nothing to lose, who went away first, then who has not done anything for longest.
            first = next((key for key in free if not alike[key].pages), free[0])
            self._drop(first)
            del alike[first]

    def arrive(self, secret: str | None, request: gr.Request) -> str:
        """Find the visitor of a page that was just opened by the secret that the browser kept; what it is to keep."""
        with shown_errors(), self._lock:
            page = _page(request)
            if not secret or secret not in self._secrets.values():
                secret = secrets.token_urlsafe(32)
            if secret not in self._sessions:
                self._make_room(is_page=True)
            earlier = self._sessions.pop(page, None)  # a click may have been quicker
            session = self._sessions.setdefault(secret, earlier or Session())
            session.pages.add(page)
            session.left_at = None
            self._secrets[page] = secret
        return secret

    def close(self, request: gr.Request) -> None:
        """A page was closed. Unless the visitor comes back soon, forget everything, and stop what runs for nobody."""
        page = request.session_hash or ""
        with self._lock:
            key = self._secrets.get(page, page)
            session = self._sessions.get(key)
            if session is None:
                return
            session.pages.discard(page)
            for of_page in (session.frames, session.panels, session.seen):
                of_page.pop(page, None)
            session.left_at = None if session.pages else time.monotonic()
            if not self._is_watching:
                self._is_watching = True
                threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """Forget who stays away; runs as long as anybody is away."""
        while True:
            time.sleep(min(WATCH_SECONDS, AWAY_SECONDS))
            with self._lock:
                away = {key: s.left_at for key, s in self._sessions.items() if s.left_at is not None}
                for key, left_at in away.items():
                    if time.monotonic() - left_at >= AWAY_SECONDS:
                        self._drop(key)
                self._is_watching = bool(away)
                if not away:
                    return

    def folders(self) -> list[Path]:
        """The folders in which visitors' sessions keep files."""
        with self._lock:
            return [folder for session in self._sessions.values() for folder in session.folders()]

    def models_mib(self, but: Session) -> float:
        """MiB of all models that sessions hold in memory, one that several share once; less those of `but`."""
        with self._lock:
            models = {id(d.fitted_.state): d for s in self._sessions.values() if s is not but for d in s.detectors()}
        return sum(detector.model_mib for detector in models.values())

    def forget_away(self) -> None:
        """Forget who went away and has nothing to lose, before the time for that."""
        with self._lock:
            for key, session in [*self._sessions.items()]:
                if (
                    session.left_at is not None
                    and not session.pages
                    and not session.is_busy
                    and not session.has_unsaved
                ):
                    self._drop(key)

    def _drop(self, key: str) -> None:
        session = self._sessions.pop(key)
        session.fit_stop.press()
        session.side_stop.press()
        self._secrets = {page: secret for page, secret in self._secrets.items() if secret != key}

    def saved(self, name: str, session: Session) -> Current:
        """A saved model that this visitor may use.

        Raises:
            StoreError: there is none of that name, or its files are not as they should be.
        """
        store = session.store()
        label = str(name or "").strip().removeprefix(LOCAL_PREFIX)
        identity = store.identity(label)  # of what is in it: there may have been another one
        key = str(store.root), label, identity
        detector = self._loaded.get(key, lambda: store.load(label, device=device_name()))
        return Current(detector, label, session.learned.get(identity, frozenset()), saved_as=label, is_kept=True)

    def saved_again(self, store: Store, name: str, new_name: str | None, but: Session | None = None) -> None:
        """Tell whoever uses a saved model that it was deleted, overwritten or renamed.

        Args:
            new_name: None where the model in use is no longer the one that is saved.
            but: who overwrote it, and whose model is the new one.
        """
        with self._lock:
            others = [s for s in self._sessions.values() if s is not but]
        for session in others:
            while (current := session.current) is not None and current.saved_as == name:
                after = current.deleted() if new_name is None else current.renamed(new_name)
                if session.store().root != store.root or session.replace(current, after):
                    break

    def opened(self, reference: str, session: Session) -> Current:
        """A model by `local:name`, `name` or `hf-hub:owner/name@revision`."""
        given = (reference or "").strip()
        if is_local(given):
            return self.saved(given, session)
        return self.pulled(given, session.token())

    def pulled(self, reference: str, token: str | bool | None) -> Current:
        """A model of the Hub, verified; the Hub is asked each time whether this token may see it.

        Raises:
            HubError, StoreError: as `Hub.pull_verified`.
            OptionError: on a shared server, its network is of another kind than visitors may choose, or there is no
                room for it on the disk.
        """
        downloaded.make_room(self._commits_in_use())
        folder, pinned = HUB.download(parse_reference(reference), token=token)
        if is_shared():
            note_use(folder)
            reach.check(stated_options(folder), reach.OF_MODELS)
        pulled = self._loaded.get((str(pinned),), lambda: HUB.open_folder(folder, pinned, device=device_name()))
        return Current(pulled.detector, pinned.repo_id, is_kept=True, pulled=pulled)

    def _commits_in_use(self) -> set[str]:
        """Of the Hub's models that visitors work with: their pictures are read again."""
        with self._lock:
            used = [session.current for session in self._sessions.values()]
        return {each.pulled.reference.revision for each in used if each is not None and each.pulled is not None}


SESSIONS = Sessions()


def is_local(reference: str) -> bool:
    """Whether a reference names a saved model."""
    return reference.startswith(LOCAL_PREFIX) or "/" not in reference


def _page(request: gr.Request) -> str:
    if not request.session_hash:
        raise OptionError(
            "this call names no session, so there is no telling whose models and pictures it means. Send a long random "
            "text of your own as session_hash with every call, or use gradio_client, which does."
        )
    return request.session_hash

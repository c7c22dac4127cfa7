"""What each visitor has open, and the models that visitors share.

Gradio's `gr.State` is copied; pictures and detectors are too large for that. So the server keeps one `Session` for each
visitor and never shows one's to another. A page has a session hash from Gradio, a new one with each load; who it is is
found by a secret that the server makes and the browser keeps. A program that uses the API has its session hash only,
which it chooses itself; a call without one gets that of its own event from Gradio, and so a session for itself alone.

Whoever knows a page's hash speaks for that page, as Gradio has it: it is random, and only its own browser is told it.
"""

import os
import re
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
import numpy as np

from admodels import DETECTORS, HUB, LOCAL, Detector, NotFittedError, OptionError, Pulled
from admodels.models import LOCAL_PREFIX, Store, parse_reference
from admodels.pictures import ImageLike, ImageSet
from admodels.runtime import Shared, describe_device, resolve_device, resolve_precision
from demo.errors import shown_errors
from demo.state import zero_gpu
from demo.state.current import Current, Evaluated, Inspection, Question, Result, Shown, Single
from demo.state.jobs import JOBS, Job, Tell

MAX_SESSIONS = 64  # of pages
MAX_PROGRAMS = 32  # sessions of programs
SESSION_SECONDS = 4 * 3600  # without a request
CALL_SECONDS = 60  # a session for one call alone, after it
DOWNLOAD_SECONDS = 600  # until a file that was to be downloaded is removed: Gradio has its copy long before
AWAY_SECONDS = 15 * 60  # without a page: who refreshes, or loses the connection, finds everything again
WATCH_SECONDS = 30
MAX_LOADED_MODELS = 4
N_FRAMES = 20
EVENT_PATTERN = re.compile(r"[0-9a-f]{32}")  # a session hash that Gradio makes for a call without one
N_PAINTED = 3  # to which an editor may go back by Undo


@dataclass(frozen=True)
class Chosen:
    """The good pictures chosen for a fit, and the uploaded files that they came in; none for an example set."""

    images: ImageSet
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Painted:
    """A good picture with what was drawn on it at random, and both as one; uint8, of one size."""

    good: np.ndarray
    defect: np.ndarray
    both: np.ndarray


@dataclass(frozen=True)
class Again:
    """Pictures that a model which was replaced since had scored: the new one scores them again."""

    images: tuple[ImageLike, ...]
    names: tuple[str, ...]
    show: int


@dataclass
class Session:
    """One visitor's work: the good pictures chosen, the current model, and what it said.

    What models said (`inspected`, `shown`, `evaluated`, `single`) is always of the current one; `keep` sees to that.
    """

    chosen: Chosen | None = None
    n_picks: int = 0  # begun: one that ends late must not overwrite a later one; and so below
    n_estimates: int = 0
    n_searches: int = 0
    current: Current | None = None
    n_fits: int = 0  # their numbers tell models apart that have no name yet
    inspected: Inspection | None = None
    shown: Shown | None = None
    evaluated: Evaluated | None = None
    single: Single | None = None
    again: Again | None = None
    evaluated_before: str = ""  # the label of a model that was evaluated, and replaced since
    panel: Current | None = None  # whose threshold the page was told last
    question: Question | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    job: Job | None = None  # the fit that runs, waits, or ended last
    side_job: Job | None = None  # what else takes long and runs or waits
    pages: set[str] = field(default_factory=set)  # session hashes that are open
    n_requests: int = 0
    left_at: float | None = None  # when the last page was closed
    losses: list[tuple[int, float]] = field(default_factory=list)  # of the training that runs, or ran last, by step
    painted: deque[Painted] = field(default_factory=lambda: deque(maxlen=N_PAINTED))  # what the editor was given last
    frames: deque[float] = field(default_factory=lambda: deque(maxlen=N_FRAMES))  # when the camera's last ones came
    hub_token: str | None = field(default=None, repr=False)  # typed here, never stored
    found: dict[str, dict] = field(default_factory=dict)  # rows of the last search of the Hub, by name
    downloads: list[tuple[float, TemporaryDirectory]] = field(default_factory=list)  # when each was made
    models: TemporaryDirectory | None = None  # where its models are saved on a shared server, removed with it
    used_at: float = field(default_factory=time.monotonic)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def pictures(self) -> ImageSet | None:
        """The good pictures chosen for a fit."""
        return self.chosen.images if self.chosen is not None else None

    @property
    def has_unsaved(self) -> bool:
        """Whether the current model would be lost if another one took its place."""
        return self.current is not None and not self.current.is_kept

    def use(self, current: Current) -> None:
        """Make this the current model; what another one said is dropped, its pictures are to be scored again."""
        with self._lock:
            before, self.current = self.current, current
            if before is not None and not before.is_same_model(current):
                if self.inspected is not None:
                    pictures = self.inspected.pictures
                    images, names = tuple(p.image for p in pictures), tuple(p.name for p in pictures)
                    self.again = Again(images, names, self.inspected.show)
                if self.evaluated is not None:
                    self.evaluated_before = before.label
                self.inspected = self.shown = self.evaluated = self.single = None
            self._judge()

    def replace(self, before: Current, after: Current) -> bool:
        """The same model with another threshold or label; False where `before` is no longer the current one."""
        with self._lock:
            if self.current is not before:
                return False
            self.current = after
            self._judge()
        return True

    def keep(self, *results: Result) -> list[Result] | None:
        """Take results and judge them by the current threshold; None where their model was replaced meanwhile."""
        with self._lock:
            if not all(result.current.is_same_model(self.current) for result in results):
                return None
            judged = [result.judged(self.current) for result in results]
            for result in judged:
                if isinstance(result, Inspection):
                    self.inspected, self.again = result, None
                elif isinstance(result, Shown):
                    self.shown = result
                elif isinstance(result, Evaluated):
                    self.evaluated, self.evaluated_before = result, ""
                else:
                    self.single = result
        return judged

    def take_again(self) -> Again | None:
        """The pictures that are to be scored again, once."""
        with self._lock:
            again, self.again = self.again, None
        return again

    def _judge(self) -> None:
        self.inspected = self.inspected and self.inspected.judged(self.current)
        self.shown = self.shown and self.shown.judged(self.current)
        self.evaluated = self.evaluated and self.evaluated.judged(self.current)
        self.single = self.single and self.single.judged(self.current)

    def begin(self) -> None:
        """Forget an earlier press of Stop, unless it is meant for a fit that has yet to notice."""
        if not self.is_fitting:
            self.stop.clear()

    @property
    def is_fitting(self) -> bool:
        """Whether a fit of this visitor runs or waits for its turn."""
        return self.job is not None and self.job.is_running

    @property
    def is_busy(self) -> bool:
        """Whether anything of this visitor runs or waits for its turn."""
        return any(job is not None and job.is_running for job in (self.job, self.side_job))

    def run(self, work: Callable[[Tell], Any], progress: gr.Progress) -> Any:
        """Do something long, beside a fit, that this visitor can stop; its result.

        Raises:
            Cancelled, gr.Error: as `Jobs.run`.
        """
        with shown_errors():
            self.side_job = job = JOBS.submit(work, self.stop)
        try:
            return JOBS.follow(job, progress)
        finally:
            if self.side_job is job:  # what it gave is not held longer than needed
                self.side_job = None

    def token(self) -> str | bool | None:
        """What the Hub is asked with: this visitor's token; else none on a shared server, elsewhere the machine's."""
        return self.hub_token or (False if is_shared() else None)

    def download_folder(self) -> Path:
        """An empty folder for a file to download; Gradio serves a copy from its own cache.

        It goes some time later with another download, or with the session.
        """
        folder, now = TemporaryDirectory(prefix="admodels-"), time.monotonic()
        with self._lock:
            self.downloads = [(at, old) for at, old in self.downloads if now - at < DOWNLOAD_SECONDS]
            self.downloads.append((now, folder))
        return Path(folder.name)

    def store(self) -> Store:
        """Where models are saved: the machine's own folder, or on a shared server one for this visitor alone."""
        if not is_shared():
            return LOCAL
        if self.models is None:
            self.models = TemporaryDirectory(prefix="admodels-")
        return Store(DETECTORS, Path(self.models.name))

    def in_use(self) -> Current:
        """The current model.

        Raises:
            NotFittedError: there is none.
        """
        current = self.current
        if current is None:
            raise NotFittedError("there is no model yet. Fit one in the Fit tab, or load one in the Models tab.")
        return current

    def model(self) -> Detector:
        """The current model's detector.

        Raises:
            NotFittedError: there is none.
        """
        return self.in_use().detector


class Sessions:
    """All sessions: a number of pages' and a number of programs'. A visitor with something to lose never makes room.

    To lose there is a fit that runs, and a model that is not saved.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Session] = OrderedDict()  # by secret, or session hash; last used is last
        self._secrets: dict[str, str] = {}  # of the visitor, by session hash
        self._is_watching = False
        self._loaded: Shared[Detector] = Shared(MAX_LOADED_MODELS)
        self._pulled: Shared[Pulled] = Shared(MAX_LOADED_MODELS)
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
                    f"{most} {who} have models here that they have not saved, as many as this server takes, and none "
                    "is thrown out. Try again later."
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
            session.shown = None  # nothing is on this page yet
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

    def _drop(self, key: str) -> None:
        self._sessions.pop(key).stop.set()
        self._secrets = {page: secret for page, secret in self._secrets.items() if secret != key}

    def saved(self, name: str, session: Session) -> Current:
        """A saved model that this visitor may use.

        Raises:
            StoreError: there is none of that name, or its files are not as they should be.
        """
        store = session.store()
        label = str(name or "").strip().removeprefix(LOCAL_PREFIX)
        key = str(store.root), label, store.identity(label)  # of what is in it: there may have been another one
        detector = self._loaded.get(key, lambda: store.load(label, device=device_name()))
        return Current(detector, label, saved_as=label, is_kept=True)

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
        if given.startswith(LOCAL_PREFIX) or "/" not in given:
            return self.saved(given, session)
        return self.pulled(given, session.token())

    def pulled(self, reference: str, token: str | bool | None) -> Current:
        """A model of the Hub, verified; the Hub is asked each time whether this token may see it.

        Raises:
            HubError, StoreError: as `admodels.pull`.
        """
        folder, pinned = HUB.download(parse_reference(reference), token=token)
        pulled = self._pulled.get(str(pinned), lambda: HUB.open_folder(folder, pinned, device=device_name()))
        return Current(pulled.detector, pinned.repo_id, is_kept=True, pulled=pulled)


SESSIONS = Sessions()


def _page(request: gr.Request) -> str:
    if not request.session_hash:
        raise OptionError(
            "this call names no session, so there is no telling whose models and pictures it means. Send a long random "
            "text of your own as session_hash with every call, or use gradio_client, which does."
        )
    return request.session_hash


def is_shared() -> bool:
    """Whether visitors who do not know each other use this server, by `ADMODELS_SHARED`; where unset, on a Space."""
    said = os.environ.get("ADMODELS_SHARED", "")
    return said != "0" if said else on_space()


def on_space() -> bool:
    """Whether this is a Hugging Face Space."""
    return bool(os.environ.get("SPACE_ID"))


def device_name() -> str:
    """The device that the app runs on: `ADMODELS_DEVICE`, by default the best there is for longer than one call."""
    return os.environ.get("ADMODELS_DEVICE") or ("cpu" if zero_gpu.is_there() else "auto")


def device_line() -> str:
    """Device and precision for the header."""
    device = resolve_device(device_name())
    fits = " · fits on ZeroGPU" if zero_gpu.is_there() else ""
    return f"{describe_device(device)} · {str(resolve_precision('auto', device)).removeprefix('torch.')}{fits}"

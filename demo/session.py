"""What each visitor has open, and the models that visitors share.

Gradio's `gr.State` is copied; pictures and detectors are too large for that. So the server keeps one `Session` for each
visitor and never shows one's to another. A page has a session hash from Gradio, a new one with each load; who it is is
found by a secret that the server makes and the browser keeps. A program that uses the API has its session hash only.
"""

import os
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
import numpy as np

from admodels import Detector, NotFittedError, Prediction, hub
from admodels.datasets import TestImage
from admodels.device import describe_device, resolve_device, resolve_precision
from admodels.evaluation import Accuracy
from admodels.images import DecodedImage, ImageLike, ImageSet
from admodels.store import LOCAL, LOCAL_PREFIX, Store
from demo import zero_gpu
from demo.jobs import Job

MAX_SESSIONS = 64
SESSION_SECONDS = 4 * 3600  # without a request
AWAY_SECONDS = 15 * 60  # without a page: who refreshes, or loses the connection, finds everything again
WATCH_SECONDS = 30
MAX_LOADED_MODELS = 4
N_FRAMES = 20
N_PAINTED = 3  # to which an editor may go back by Undo


@dataclass(frozen=True)
class Inspected:
    """A picture that was scored, with its heatmap in two small sizes: a JPEG file, and an address that holds one."""

    image: ImageLike
    name: str
    score: float
    thumbnail: bytes
    icon: str


@dataclass(frozen=True)
class Painted:
    """A good picture with what was drawn on it at random, and both as one; uint8, of one size."""

    good: np.ndarray
    defect: np.ndarray
    both: np.ndarray


@dataclass
class Evaluated:
    """Labelled pictures, what they said of a model, and the folder that a zip was unpacked into."""

    test: list[TestImage]
    accuracy: Accuracy
    notes: tuple[str, ...]
    folder: TemporaryDirectory | None
    thumbnails: dict[int, np.ndarray] = field(default_factory=dict)  # of the worst mistakes, by position


@dataclass
class Session:
    """One visitor's work: the good pictures chosen, the current model, and the pictures inspected last.

    `learned` holds the digests of the pictures that the current model was fitted on, where it was fitted here;
    `inspected` the pictures with the thumbnails of their heatmaps, names and scores.
    """

    pictures: ImageSet | None = None
    files: tuple[str, ...] = ()
    detector: Detector | None = None
    model_label: str = ""
    learned: frozenset[bytes] = frozenset()
    inspected: list[Inspected] = field(default_factory=list)
    shown: tuple[DecodedImage, Prediction] | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    job: Job | None = None  # the fit that runs, waits, or ended last
    pages: set[str] = field(default_factory=set)  # session hashes that are open
    left_at: float | None = None  # when the last page was closed
    losses: list[tuple[int, float]] = field(default_factory=list)  # of the training that runs, or ran last, by step
    n_estimates: int = 0  # begun: one that ends late must not overwrite a later one
    threshold_moved: bool = False  # since the model was fitted, loaded or saved
    evaluated: Evaluated | None = None
    single: Detector | None = None  # fitted to compare the current ensemble with
    painted: deque[Painted] = field(default_factory=lambda: deque(maxlen=N_PAINTED))  # what the editor was given last
    frames: deque[float] = field(default_factory=lambda: deque(maxlen=N_FRAMES))  # when the camera's last ones came
    hub_token: str | None = field(default=None, repr=False)  # typed here, never stored
    found: dict[str, dict] = field(default_factory=dict)  # rows of the last search of the Hub, by name
    downloads: TemporaryDirectory | None = None  # removed with the session
    models: TemporaryDirectory | None = None  # where its models are saved on a shared server, removed with it too
    used_at: float = field(default_factory=time.monotonic)

    def use(self, detector: Detector, label: str, learned: frozenset[bytes] = frozenset()) -> None:
        """Make this the current model; what an earlier one said is dropped."""
        self.detector, self.model_label, self.learned, self.threshold_moved = detector, label, learned, False
        self.shown, self.inspected, self.evaluated, self.single = None, [], None, None

    def begin(self) -> None:
        """Forget an earlier press of Stop, unless it is meant for a fit that has yet to notice."""
        if not self.is_fitting:
            self.stop.clear()

    @property
    def is_fitting(self) -> bool:
        """Whether a fit of this visitor runs or waits for its turn."""
        return self.job is not None and self.job.is_running

    def token(self) -> str | bool | None:
        """What the Hub is asked with: this visitor's token; else none on a shared server, elsewhere the machine's."""
        return self.hub_token or (False if is_shared() else None)

    def download_folder(self) -> Path:
        """An empty folder for a file to download; Gradio serves a copy from its own cache.

        It goes with the next download or with the session.
        """
        self.downloads = TemporaryDirectory(prefix="admodels-")
        return Path(self.downloads.name)

    def store(self) -> Store:
        """Where models are saved: the machine's own folder, or on a shared server one for this visitor alone."""
        if not is_shared():
            return LOCAL
        if self.models is None:
            self.models = TemporaryDirectory(prefix="admodels-")
        return Store(Path(self.models.name))

    def model(self) -> Detector:
        """The current model.

        Raises:
            NotFittedError: there is none.
        """
        if self.detector is None:
            raise NotFittedError("there is no model yet. Fit one in the Fit tab, or load one in the Models tab.")
        return self.detector


class Sessions:
    """All sessions, the least recently used dropped first; one with a fit that runs is never dropped for room."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Session] = OrderedDict()  # by secret, or session hash
        self._secrets: dict[str, str] = {}  # of the visitor, by session hash
        self._is_watching = False
        self._loaded: OrderedDict[tuple[str, ...], Detector] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, request: gr.Request) -> Session:
        """The session of whoever made this request."""
        page, now = request.session_hash or "", time.monotonic()
        with self._lock:
            key = self._secrets.get(page, page)
            session = self._sessions.setdefault(key, Session())
            session.used_at = now
            if session.left_at is not None:  # it goes on all the same, as programs may
                session.left_at = now
            self._sessions.move_to_end(key)
            for old, other in [(k, s) for k, s in self._sessions.items() if k != key]:
                expired = now - other.used_at > SESSION_SECONDS
                if expired or (len(self._sessions) > MAX_SESSIONS and not other.is_fitting):
                    self._drop(old)
        return session

    def arrive(self, secret: str | None, request: gr.Request) -> str:
        """Find the visitor of a page that was just opened by the secret that the browser kept; what it is to keep."""
        page = request.session_hash or ""
        with self._lock:
            if not secret or secret not in self._secrets.values():
                secret = secrets.token_urlsafe(32)
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

    def saved(self, name: str, session: Session) -> tuple[Detector, str]:
        """A saved model that this visitor may use, and its name without prefix.

        Raises:
            StoreError: there is none of that name, or its files are not as they should be.
        """
        store = session.store()
        config = store.show(name or "")
        label = name.strip().removeprefix(LOCAL_PREFIX)
        # The time tells a model from an earlier one of its name.
        key = str(store.root), label, str(config.get("saved_at"))
        return self._shared(key, lambda: store.load(label, device=device_name())), label

    def opened(self, reference: str, session: Session) -> tuple[Detector, str]:
        """A model by `local:name`, `name` or `hf-hub:owner/name@revision`, and what to call it."""
        given = (reference or "").strip()
        if given.startswith(LOCAL_PREFIX) or "/" not in given:
            return self.saved(given, session)
        return self.pulled(given, session.token())

    def pulled(self, reference: str, token: str | bool | None) -> tuple[Detector, str]:
        """A model of the Hub, verified, and its name; the Hub is asked each time whether this token may see it.

        Raises:
            HubError, StoreError: as `admodels.pull`.
        """
        folder, pinned = hub.download(hub.parse_reference(reference), token=token)
        opened = self._shared((str(pinned),), lambda: hub.open_folder(folder, pinned, device=device_name()))
        return opened, pinned.repo_id

    def _shared(self, key: tuple[str, ...], open_it: Callable[[], Detector]) -> Detector:
        """Loaded once and shared, as long as it is among those used last."""
        with self._lock:
            if key in self._loaded:
                self._loaded.move_to_end(key)
                return self._loaded[key]
        detector = open_it()
        with self._lock:
            self._loaded[key] = detector
            while len(self._loaded) > MAX_LOADED_MODELS:
                self._loaded.popitem(last=False)
        return detector


SESSIONS = Sessions()


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

"""What each visitor has open, and the models that visitors share.

Gradio's `gr.State` is copied; pictures and detectors are too large for that. So the server keeps one `Session` for each
page (or API client), found by the session hash that Gradio gives it, and never shows one visitor's to another.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory

import gradio as gr
import numpy as np

from admodels import Detector, NotFittedError, Prediction, hub, load, store
from admodels.datasets import TestImage
from admodels.device import describe_device, resolve_device, resolve_precision
from admodels.evaluation import Accuracy
from admodels.images import DecodedImage, ImageLike, ImageSet

MAX_SESSIONS = 64
SESSION_SECONDS = 4 * 3600
MAX_LOADED_MODELS = 4


@dataclass(frozen=True)
class Inspected:
    """A picture that was scored, with a thumbnail of its heatmap."""

    image: ImageLike
    name: str
    score: float
    thumbnail: np.ndarray


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
    fitting: bool = False
    losses: list[tuple[int, float]] = field(default_factory=list)  # of the training that runs, or ran last, by step
    n_estimates: int = 0  # begun: one that ends late must not overwrite a later one
    threshold_moved: bool = False  # since the model was fitted, loaded or saved
    evaluated: Evaluated | None = None
    single: Detector | None = None  # fitted to compare the current ensemble with
    hub_token: str | None = field(default=None, repr=False)  # typed here, never stored
    found: dict[str, dict] = field(default_factory=dict)  # rows of the last search of the Hub, by name
    downloads: TemporaryDirectory | None = None  # removed with the session
    used_at: float = field(default_factory=time.monotonic)

    def use(self, detector: Detector, label: str, learned: frozenset[bytes] = frozenset()) -> None:
        """Make this the current model; what an earlier one said is dropped."""
        self.detector, self.model_label, self.learned, self.threshold_moved = detector, label, learned, False
        self.shown, self.inspected, self.evaluated, self.single = None, [], None, None

    def token(self) -> str | bool | None:
        """What the Hub is asked with: this visitor's token; else none on a shared server, elsewhere the machine's."""
        return self.hub_token or (False if is_shared() else None)

    def model(self) -> Detector:
        """The current model.

        Raises:
            NotFittedError: there is none.
        """
        if self.detector is None:
            raise NotFittedError("there is no model yet. Fit one in the Fit tab, or load one in the Models tab.")
        return self.detector


class Sessions:
    """All open sessions, the least recently used dropped first; one that is fitting is never dropped."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._loaded: OrderedDict[tuple[str, str], Detector] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, request: gr.Request) -> Session:
        """The session of whoever made this request."""
        key = request.session_hash or ""
        now = time.monotonic()
        with self._lock:
            session = self._sessions.setdefault(key, Session())
            session.used_at = now
            self._sessions.move_to_end(key)
            idle = [k for k, s in self._sessions.items() if not s.fitting and k != key]
            for old in idle:
                expired = now - self._sessions[old].used_at > SESSION_SECONDS
                if expired or len(self._sessions) > MAX_SESSIONS:
                    del self._sessions[old]
        return session

    def close(self, request: gr.Request) -> None:
        """Forget a visitor whose page was closed, and stop what runs for nobody."""
        with self._lock:
            session = self._sessions.pop(request.session_hash or "", None)
        if session is not None:
            session.stop.set()

    def saved(self, name: str) -> tuple[Detector, str]:
        """A saved model and its name without prefix.

        Raises:
            StoreError: there is none of that name, or its files are not as they should be.
        """
        config = store.show(name or "")
        label = name.strip().removeprefix(store.LOCAL_PREFIX)
        return self._saved_model(label, str(config.get("saved_at"))), label

    def opened(self, reference: str, session: Session) -> tuple[Detector, str]:
        """A model by `local:name`, `name` or `hf-hub:owner/name@revision`, and what to call it."""
        given = (reference or "").strip()
        if given.startswith(store.LOCAL_PREFIX) or "/" not in given:
            return self.saved(given)
        return self.pulled(given, session.token())

    def pulled(self, reference: str, token: str | bool | None) -> tuple[Detector, str]:
        """A model of the Hub, verified, and its name; the Hub is asked each time whether this token may see it.

        Raises:
            HubError, StoreError: as `admodels.pull`.
        """
        folder, pinned = hub.download(hub.parse_reference(reference), token=token)
        opened = self._shared((str(pinned), ""), lambda: hub.open_folder(folder, pinned, device=device_name()))
        return opened, pinned.repo_id

    def _saved_model(self, name: str, saved_at: str) -> Detector:
        """`saved_at` tells a model from an earlier one of its name."""
        return self._shared((name, saved_at), lambda: load(name, device=device_name()))

    def _shared(self, key: tuple[str, str], open_it: Callable[[], Detector]) -> Detector:
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
    """Whether visitors who do not know each other use this server: `ADMODELS_SHARED=1`, and always on a Space."""
    return os.environ.get("ADMODELS_SHARED", "") not in ("", "0") or on_space()


def on_space() -> bool:
    """Whether this is a Hugging Face Space."""
    return bool(os.environ.get("SPACE_ID"))


def device_name() -> str:
    """The device that the app runs on: `ADMODELS_DEVICE`, by default the best there is."""
    return os.environ.get("ADMODELS_DEVICE", "auto")


def device_line() -> str:
    """Device and precision for the header."""
    device = resolve_device(device_name())
    return f"{describe_device(device)} · {str(resolve_precision('auto', device)).removeprefix('torch.')}"

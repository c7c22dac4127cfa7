"""What each visitor has open, and the models that visitors share.

Gradio's `gr.State` is copied; pictures and detectors are too large for that. So the server keeps one `Session` for each
page (or API client), found by the session hash that Gradio gives it, and never shows one visitor's to another.
"""

import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory

import gradio as gr

from admodels import Detector, Prediction, load
from admodels.device import describe_device, resolve_device, resolve_precision
from admodels.images import DecodedImage, ImageLike, ImageSet

MAX_SESSIONS = 64
SESSION_SECONDS = 4 * 3600
MAX_LOADED_MODELS = 4


@dataclass
class Session:
    """One visitor's work: the good pictures chosen, the current model, and the last picture inspected."""

    pictures: ImageSet | None = None
    files: tuple[str, ...] = ()
    detector: Detector | None = None
    model_label: str = ""
    inspected: list[ImageLike] = field(default_factory=list)
    shown: tuple[DecodedImage, Prediction] | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    fitting: bool = False
    n_estimates: int = 0  # begun: one that ends late must not overwrite a later one
    downloads: TemporaryDirectory | None = None  # removed with the session
    used_at: float = field(default_factory=time.monotonic)


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

    def saved_model(self, name: str, saved_at: str) -> Detector:
        """A saved model, loaded once and shared; `saved_at` tells a model from an earlier one of its name."""
        with self._lock:
            if (name, saved_at) in self._loaded:
                self._loaded.move_to_end((name, saved_at))
                return self._loaded[name, saved_at]
        detector = load(name, device=device_name())
        with self._lock:
            self._loaded[name, saved_at] = detector
            while len(self._loaded) > MAX_LOADED_MODELS:
                self._loaded.popitem(last=False)
        return detector


SESSIONS = Sessions()


def device_name() -> str:
    """The device that the app runs on: `ADMODELS_DEVICE`, by default the best there is."""
    return os.environ.get("ADMODELS_DEVICE", "auto")


def device_line() -> str:
    """Device and precision for the header."""
    device = resolve_device(device_name())
    return f"{describe_device(device)} · {str(resolve_precision('auto', device)).removeprefix('torch.')}"

"""Frames of a camera, of a stream, or of a video file, by OpenCV, which is optional."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from admodels.errors import DataError, OptionError

OPEN_MILLISECONDS, READ_MILLISECONDS = 10_000, 10_000  # of a stream
LONGEST_WAIT = 30.0  # seconds before a stream that broke is tried again; 1 at first
CLOSING_SECONDS = 5
MIN_FRAME_WAIT = 0.2

Frame = tuple[int, np.ndarray]  # its number from 1, and uint8 RGB H×W×3


class Camera:
    """A source of frames.

    Args:
        source: the number of a camera of this machine, an address such as rtsp://…, or a video file.
        tell: told when a stream breaks, and when it is back.

    Attributes:
        shown: the source without a user's name, a password or a query, to be printed.

    Raises:
        OptionError: OpenCV is not installed.
        DataError: the source cannot be opened.
    """

    def __init__(self, source: str, tell: Callable[[str], None]) -> None:
        self._cv2 = _opencv()
        self._source, self._tell = source, tell
        self.shown = shown(source)
        self._index = int(source) if source.isascii() and source.isdecimal() and len(source) < 4 else None
        self._is_file = self._index is None and Path(source).is_file()
        self._capture = self._opened()
        if not self._capture.isOpened():
            raise DataError(
                f"the camera {self.shown} cannot be opened; expected the number of a camera, an address such as "
                "rtsp://host/stream, or a video file. Check that it is there, and that no other program uses it."
            )

    def frames(self, every: float, is_stopped: Callable[[], bool]) -> Iterator[Frame]:
        """Frames until stopped: of a file each in turn, else the newest whenever the next is asked for.

        Args:
            every: seconds from one to the next, of a file seconds in it; 0 is as fast as they are asked for.
        """
        found = self._of_file(every) if self._is_file else self._newest(every, is_stopped)
        for number, pixels in found:
            if is_stopped():
                return
            yield number, self._cv2.cvtColor(pixels, self._cv2.COLOR_BGR2RGB)

    def _of_file(self, every: float) -> Iterator[Frame]:
        step = max(1, round(every * self._capture.get(self._cv2.CAP_PROP_FPS)))
        number = 0
        while self._capture.grab():
            if number % step == 0:
                is_read, pixels = self._capture.retrieve()
                if is_read:
                    yield number + 1, pixels
            number += 1

    def _newest(self, every: float, is_stopped: Callable[[], bool]) -> Iterator[Frame]:
        newest, due = _Newest(), 0.0
        reader = threading.Thread(target=self._read, args=(newest,), name="camera", daemon=True)
        reader.start()
        try:
            while not is_stopped():
                wait = due - time.monotonic()
                if wait > 0:
                    time.sleep(min(wait, MIN_FRAME_WAIT))
                elif (frame := newest.take(MIN_FRAME_WAIT)) is not None:
                    due = time.monotonic() + every
                    yield frame
        finally:
            newest.is_wanted = False
            reader.join(CLOSING_SECONDS)

    def _read(self, newest: "_Newest") -> None:
        """Read all frames, so that none waits in a buffer and is old when it is asked for."""
        number, wait, is_broken = 0, 1.0, False
        while newest.is_wanted:
            is_read, pixels = self._capture.read()
            if is_read:
                if is_broken:
                    self._tell(f"The camera {self.shown} is back.")
                number, wait, is_broken = number + 1, 1.0, False
                newest.put((number, pixels))
                continue
            if not is_broken:
                self._tell(f"The camera {self.shown} gives no pictures. Trying again.")
                is_broken = True
            self._capture.release()
            until = time.monotonic() + wait
            while newest.is_wanted and time.monotonic() < until:
                time.sleep(MIN_FRAME_WAIT)
            wait = min(2 * wait, LONGEST_WAIT)
            if newest.is_wanted:
                self._capture = self._opened()

    def _opened(self) -> Any:
        cv2, source = self._cv2, self._source
        if self._index is not None:
            return cv2.VideoCapture(self._index)
        if "://" not in source:
            return cv2.VideoCapture(source)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_MILLISECONDS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_MILLISECONDS]
        return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)  # other backends print the address, password and all


class _Newest:
    """Holds one frame; those that nobody took in time are dropped."""

    def __init__(self) -> None:
        self._frame: Frame | None = None
        self._changed = threading.Condition()
        self.is_wanted = True

    def put(self, frame: Frame) -> None:
        with self._changed:
            self._frame = frame
            self._changed.notify()

    def take(self, seconds: float) -> Frame | None:
        """The newest frame that was not taken yet; None where none comes in that time."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None, seconds)
            frame, self._frame = self._frame, None
            return frame


def shown(source: str) -> str:
    """A source as it may be printed: of an address not what may be a name or a password."""
    scheme, separator, rest = source.partition("://")
    if not separator:
        return source
    # A password may hold any character, unescaped too; some cameras take it in the path.
    rest = rest.rpartition("@")[2].partition("?")[0]
    return f"{scheme}://{rest.partition('/')[0] if '=' in rest else rest}"


def _opencv() -> ModuleType:
    # OpenCV's and FFmpeg's own messages may hold the whole address.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise OptionError(
            "the package opencv-python-headless is missing, which a camera needs: pip install 'admodels[camera]'"
        ) from error
    return cv2

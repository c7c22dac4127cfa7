"""Rows for another program's HTTP address, sent in a thread of their own so that scoring goes on."""

import json
import queue
import threading
import time
from concurrent.futures import Future
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from admodels.errors import OptionError

WAITS = (0.5, 2.0)  # seconds before the second and the third try
TIMEOUT_SECONDS = 5
MAX_WAITING = 256  # rows


class Webhook:
    """Sends rows as JSON, one after the other.

    After a row that could not be delivered the next ones are tried once each, until one arrives; where too many wait by
    then, rows are given up at once. Otherwise whoever sends faster than the address takes rows has to wait.

    Raises:
        OptionError: the address cannot be used.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.shown = _checked(url)  # without what may be secret
        self._opener = build_opener(_NoRedirect)
        self._waiting: queue.Queue[tuple[bytes, Future[str]]] = queue.Queue(MAX_WAITING)
        self._is_failing = self._is_closing = False
        threading.Thread(target=self._run, name="webhook", daemon=True).start()

    def send(self, row: dict[str, Any]) -> "Future[str]":
        """Why this row will not have been delivered; empty where it was."""
        outcome: Future[str] = Future()
        content = json.dumps(row).encode()
        while True:
            try:
                self._waiting.put((content, outcome), timeout=0.2)
                return outcome
            except queue.Full:
                if self._is_failing:
                    outcome.set_result(f"{MAX_WAITING} rows are waiting already")
                    return outcome

    def close(self) -> None:
        """Try what still waits once each."""
        self._is_closing = True

    def _run(self) -> None:
        while True:
            content, outcome = self._waiting.get()
            try:
                outcome.set_result(self._deliver(content))
            except Exception as error:  # a mistake of ours: it surfaces where the outcome is asked for
                outcome.set_exception(error)

    def _deliver(self, content: bytes) -> str:
        said = ""
        for wait in (0.0, *WAITS):
            if wait and (self._is_failing or self._is_closing):
                break
            time.sleep(wait)
            said, is_final = self._post(content)
            if is_final:
                self._is_failing = False  # it answers
                return said
        self._is_failing = True
        return said

    def _post(self, content: bytes) -> tuple[str, bool]:
        """What went wrong, and whether another try would not change that."""
        headers = {"Content-Type": "application/json", "User-Agent": "admodels"}
        try:
            with self._opener.open(Request(self._url, content, headers), timeout=TIMEOUT_SECONDS):
                return "", True
        except HTTPError as error:
            error.close()
            return f"it answered {error.code}", error.code < 500
        except URLError as error:
            return str(error.reason), False
        except (OSError, HTTPException, ValueError) as error:  # a host's name that cannot be one is a ValueError
            return str(error) or type(error).__name__, False


class _NoRedirect(HTTPRedirectHandler):
    """An address leads nowhere but to itself: what it answers is not followed."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not (is_usable and url.isascii() and url.isprintable() and " " not in url):
        raise OptionError("--webhook is no address of a web server; expected one such as http://127.0.0.1:9000/rows.")
    if "@" in parts.netloc:
        raise OptionError("--webhook has a user's name in it, which is not sent. Give the address without it.")
    return f"{parts.scheme}://{parts.netloc}"

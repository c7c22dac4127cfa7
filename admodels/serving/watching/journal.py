"""What was done of a watched folder, across restarts.

It lies in the user's folder and not in the one that is watched: that may be write-protected, on a share where neither
locks nor fsync can be trusted, or emptied by others. So another machine, or another user, begins anew.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from filelock import FileLock, Timeout

from admodels.errors import OptionError, OutputError
from admodels.files import home_folder
from admodels.serving.watching.arrivals import Stamp


class Journal:
    """One line for each file that is done, written after all else was: what a crash cuts off is done again.

    Within the context no other process has the journal of this folder and this model.

    Args:
        reference: the model, as it was named.
    """

    def __init__(self, folder: Path, reference: str) -> None:
        self._folder, self._reference = os.path.realpath(folder), reference
        key = hashlib.sha256(json.dumps([self._folder, reference]).encode()).hexdigest()[:24]
        self._path = home_folder() / "watched" / f"{key}.jsonl"
        self._lock = FileLock(self._path.with_suffix(".lock"))

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise OptionError(
                f"{self._folder} is being watched with {self._reference} already, by another process. End that one "
                "first, or watch another folder."
            ) from error
        except NotImplementedError:  # this disk has no locks
            pass
        except OSError as error:
            raise OutputError(
                f"the journal {self._path} cannot be written ({error}). Set ADMODELS_HOME to another folder."
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def start(self, present: Iterable[str], *, again: bool) -> dict[str, Stamp]:
        """The files that are done, as they were; those that are gone are dropped.

        Args:
            present: what the folder holds now. Where that is nothing, it may be a share that is not mounted, and all
                are kept.
            again: begin anew.
        """
        lines = {} if again else self._read()
        names = set(present)
        kept = {name: line for name, line in lines.items() if name in names} if names else lines
        if again or len(kept) < len(lines) or not self._path.exists():
            head = {"folder": self._folder, "model": self._reference}  # for people
            part = self._path.with_suffix(".part")
            with part.open("w", encoding="utf-8") as opened:
                _write(opened, [head, *kept.values()])
            part.replace(self._path)
        return {name: (line["size"], line["mtime_ns"]) for name, line in kept.items()}

    def append(self, done: Iterable[tuple[str, Stamp, str]]) -> None:
        """Add files that are done: name, stamp and the version of the model.

        Raises:
            OSError: the disk refuses.
        """
        lines = [
            {"name": name, "size": stamp[0], "mtime_ns": stamp[1], "version": version} for name, stamp, version in done
        ]
        if lines:
            end = missing_end(self._path)
            with self._path.open("a", encoding="utf-8") as opened:
                opened.write(end)
                _write(opened, lines)

    def _read(self) -> dict[str, dict[str, Any]]:
        found = {}
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return found
        for line in text.splitlines():
            try:
                said = json.loads(line)
                found[said["name"]] = {key: said[key] for key in ("name", "size", "mtime_ns", "version")}
            except (ValueError, KeyError, TypeError):  # the head; or the last line of a run that was killed
                continue
        return found


def missing_end(path: Path) -> str:
    """A line break where a file's last line has none: a crash cut it off."""
    with path.open("rb") as opened:
        if not opened.seek(0, os.SEEK_END):
            return ""
        opened.seek(-1, os.SEEK_END)
        return "" if opened.read(1) == b"\n" else "\n"


def _write(opened: TextIO, lines: Iterable[dict[str, Any]]) -> None:
    opened.write("".join(json.dumps(line) + "\n" for line in lines))
    opened.flush()
    os.fsync(opened.fileno())

"""Where the rows of a watcher go: to standard output, a CSV file, a webhook, and pictures to folders by verdict."""

import csv
import errno
import io
import os
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from admodels.errors import OutputError
from admodels.files import check_file
from admodels.serving.watching.arrivals import Stamp
from admodels.serving.watching.journal import missing_end
from admodels.serving.watching.webhook import Webhook

COLUMNS = (
    *("at", "picture", "path", "verdict", "score", "threshold", "p_value", "is_anomalous", "n_regions", "model"),
    *("version", "notices", "error", "webhook"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets would run
CLOSING_SECONDS = 5  # for rows that are still to be delivered at the end


@dataclass(frozen=True)
class Result:
    """A row, and the file that it is about; a frame of a camera has none."""

    row: dict[str, Any]
    name: str = ""
    stamp: Stamp = (0, 0)


class Outputs:
    """Hands rows on, in their order.

    Args:
        say, tell: print a row, and what is wrong.

    Attributes:
        on_done: told of results whose rows are with everybody.
    """

    def __init__(
        self,
        say: Callable[[dict[str, Any]], None],
        tell: Callable[[str], None],
        *,
        table: "CsvFile | None" = None,
        webhook: Webhook | None = None,
    ) -> None:
        self._say, self._tell = say, tell
        self._table, self._webhook = table, webhook
        self._waiting: deque[tuple[Result, Future[str]]] = deque()
        self.on_done: Callable[[Sequence[Result]], None] = lambda results: None
        self.n, self.n_suspected, self.n_errors = 0, 0, 0

    @property
    def n_waiting(self) -> int:
        """Rows that the webhook does not have yet."""
        return len(self._waiting)

    @property
    def summary(self) -> str:
        """What was handed on, in one sentence."""
        pictures = "1 picture" if self.n == 1 else f"{self.n:,} pictures"
        return f"{pictures}: {self.n_suspected:,} suspected, {self.n_errors:,} with errors."

    def put(self, results: Sequence[Result]) -> None:
        """Hand rows on, now or when the webhook has them.

        Raises:
            OutputError: the CSV file cannot be written.
        """
        if self._webhook is None:
            self._finish(results)
            return
        for result in results:
            self._waiting.append((result, self._webhook.send(result.row)))
        self.collect()

    def collect(self) -> None:
        """Print what the webhook has, or will not get."""
        done = []
        while self._waiting and self._waiting[0][1].done():
            result, outcome = self._waiting.popleft()
            done.append(self._marked(result, outcome.result()))
        self._finish(done)

    def close(self) -> list[Result]:
        """Deliver what waits, within some seconds; what could not be."""
        if self._webhook is not None:
            self._webhook.close()
            until = time.monotonic() + CLOSING_SECONDS
            while self._waiting and time.monotonic() < until:
                self.collect()
                time.sleep(0.02)
        left = [result for result, _ in self._waiting]
        self._waiting.clear()
        return left

    def give_up(self, results: Sequence[Result], why: str) -> None:
        """Hand on rows that the webhook did not get in time."""
        self._finish([self._marked(result, why) for result in results])

    def _marked(self, result: Result, why: str) -> Result:
        result.row["webhook"] = f"failed: {why}" if why else "delivered"
        if why:
            self._tell(f"{result.row['picture']} was not delivered to {self._webhook.shown}: {why}.")
        return result

    def _finish(self, results: Sequence[Result]) -> None:
        if not results:
            return
        if self._table is not None:
            self._table.append([result.row for result in results])
        for result in results:
            self._say(result.row)
            self.n += 1
            self.n_suspected += bool(result.row.get("is_anomalous"))
            self.n_errors += "error" in result.row
        self.on_done(results)


class CsvFile:
    """A table that rows are appended to.

    Raises:
        OutputError: it cannot be written, or has other columns.
    """

    def __init__(self, path: Path) -> None:
        check_file(path, "--csv")
        self._path = path
        head = ""
        if path.is_file():
            with path.open(encoding="utf-8-sig", errors="replace", newline="") as opened:
                head = opened.readline().rstrip("\r\n")
        if head and head != ",".join(COLUMNS):
            raise OutputError(f"--csv is {path}, which has other columns ({head[:80]}…). Choose a new file.")

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows, and see them on the disk; the file is opened for each time, so that it can be moved away.

        Raises:
            OutputError: the disk refuses.
        """
        text = io.StringIO(newline="")
        csv.writer(text).writerows([_cells(row) for row in rows])
        try:
            is_new = not self._path.exists() or self._path.stat().st_size == 0
            begin = ",".join(COLUMNS) + "\r\n" if is_new else missing_end(self._path)
            with self._path.open("a", encoding="utf-8", errors="backslashreplace", newline="") as opened:
                opened.write(begin + text.getvalue())
                opened.flush()
                os.fsync(opened.fileno())
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written ({error}). Free space there, or close it.") from error


def _cells(row: dict[str, Any]) -> list[Any]:
    model = row["model"] or {}  # none where no saved model was for the picture
    flat = row | model | {"model": model.get("reference", ""), "notices": " ".join(row.get("notices", ()))}
    cells = [flat.get(column, "") for column in COLUMNS]
    return [f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell for cell in cells]


def move_into(folder: Path, source: Path) -> None:
    """Move a file into a folder, which is made; where its name is taken, a number is added.

    Raises:
        OSError: the disk refuses; the file is where it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = _reserved(folder / source.name)
    try:
        try:
            source.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(source, target)  # to another disk
            source.unlink()
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _reserved(wanted: Path) -> Path:
    """An empty file of a name that nobody else has, which may then be replaced."""
    number, target = 1, wanted
    while True:
        try:
            target.touch(exist_ok=False)
            return target
        except FileExistsError:
            number += 1
            target = wanted.with_stem(f"{wanted.stem} ({number})")


def _copy(source: Path, target: Path) -> None:
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        shutil.copy2(source, part)
        with part.open("rb+") as opened:
            os.fsync(opened.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)

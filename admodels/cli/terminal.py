"""What the commands of the command line share: arguments, pictures, the terminal, the progress bar.

All that is printed passes through here, and may hold names that others chose: of files, of models, of a stranger's
card. They are plain text whatever they look like, and cannot steer the terminal.
"""

import glob
import io
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Column, Table
from rich.text import Text

import admodels
from admodels.core.detector import Detector
from admodels.core.results import OnProgress, Progress
from admodels.files import check_file, check_folder, write_text
from admodels.models.references import PREFIX as HUB_PREFIX
from admodels.pictures.images import ZipPicture, listing, zip_listing

console = Console(markup=False, emoji=False, highlight=False)
errors = Console(stderr=True, markup=False, emoji=False, highlight=False)

INTERRUPTED = 130  # the exit status that shells give to what Ctrl-C ended
MAX_NOTES = 20
# What steers a terminal, turns the direction of writing, or is no character: bytes of a name in another encoding.
NOT_PRINTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

METHODS = ", ".join(admodels.DETECTORS)
Method = Annotated[str, typer.Argument(help=f"One of: {METHODS}.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="Option of the method, repeatable; see 'options METHOD'."),
]
Seed = Annotated[int, typer.Option(help="Random seed: which pictures are held out (and chosen, with --n-train).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")]


class Bar:
    """A progress bar on the terminal; the context is the `on_progress` of a fit."""

    def __enter__(self) -> OnProgress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = ProgressBar(*columns, console=errors, transient=True)
        self._bar.start()
        self._tasks: dict[str, Any] = {}
        return self._on_progress

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _on_progress(self, progress: Progress) -> None:
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bar.add_task(progress.stage, total=progress.total)
        # The number of steps is a guess where minutes end a training.
        self._bar.update(self._tasks[progress.stage], completed=progress.done, total=progress.total)


def create(method: str, option: list[str] | None, device: str) -> Detector:
    """A detector with the options of `--option`."""
    return admodels.create(method, device=device, **key_values(option))


def key_values(option: list[str] | None) -> dict[str, str]:
    """What `--option key=value` gave.

    Raises:
        OptionError: one of them has no "=".
    """
    values = {}
    for text in option or []:
        key, separator, value = text.partition("=")
        if not separator:
            raise admodels.OptionError(f"--option {text!r} has no '='; write it as key=value, such as n_components=32.")
        values[key.strip()] = value
    return values


def above_zero(values: Iterable[float], what: str) -> None:
    """Refuse numbers of the command line that are not above 0.

    Raises:
        OptionError: one is not.
    """
    for value in values:
        if not 0 < value < float("inf"):
            raise admodels.OptionError(f"{what} is {value}; expected a number above 0.")


def pictures(given: Sequence[Path]) -> list[Path | ZipPicture]:
    """The pictures that arguments stand for: themselves, those of a folder or a zip, or what a pattern matches.

    A path that is none of these stays in the list: whoever reads it says what is wrong.

    Raises:
        DataError: a folder or a pattern has no pictures.
        ImageError: a zip cannot be read.
    """
    found: list[Path | ZipPicture] = []
    for path in given:
        if path.is_dir() or (path.suffix.lower() == ".zip" and path.is_file()):
            inside = listing(path) if path.is_dir() else zip_listing(path)
            if not inside.images:
                raise admodels.DataError(f"{path} holds no pictures. {inside.statement}".rstrip())
            if inside.statement:
                note([f"{path}: {inside.statement}"])
            found += inside.images
        elif not path.exists() and any(sign in str(path) for sign in "*?["):
            matching = sorted(glob.glob(str(path)))
            if not matching:
                raise admodels.DataError(f"{path} matches no file. Check the folder and the extension.")
            found += pictures([Path(name) for name in matching])
        else:
            found.append(path)
    return found


def opened(ref: str, device: str) -> admodels.Detector:
    """A saved model, or one of the Hub."""
    if not ref.startswith(HUB_PREFIX):
        return admodels.load(ref, device=device)
    pulled = admodels.pull_verified(ref, device=device)
    if not pulled.verification.is_close:
        warn(pulled.verification.statement)
    return pulled.detector


def check_outputs(*, json_file: Path | None = None, out: Path | None = None, scatter: Path | None = None) -> None:
    """See that results can be written, before the work that they come from.

    Raises:
        OutputError: one of the paths cannot be written.
    """
    if out is not None:
        check_folder(out, "--out")
    if json_file is not None:
        check_file(json_file, "--json")
    if scatter is not None:
        check_file(scatter, "--scatter")


def write_json(path: Path | None, content: Any) -> None:
    """Write a result where `--json` asked for it; before anything of it is printed."""
    if path is not None:
        write_text(path, json.dumps(content, indent=2) + "\n")


class Rows:
    """A table whose header, title and cells are plain text on one line each; nothing is cut short."""

    def __init__(self, *header: str, title: str | None = None) -> None:
        self.title, self.header = visible(title or ""), [one_line(name) for name in header]
        self.cells: list[list[str]] = []

    def add_row(self, *cells: str) -> None:
        """Add a row of plain text."""
        self.cells.append([one_line(cell) for cell in cells])


def say(*parts: str | Rows) -> None:
    """Print lines of plain text, or a table."""
    if len(parts) == 1 and isinstance(parts[0], Rows):
        _say_table(parts[0])
    else:
        console.print(visible(" ".join(map(str, parts))), soft_wrap=True)


def _say_table(rows: Rows) -> None:
    """Print a table that breaks no name and no number.

    A file or another program gets each row on one line. Where a terminal is too narrow, cells are broken between words;
    where that does not help, each cell has a line of its own.
    """
    columns = [(name, *(cells[i] for cells in rows.cells)) for i, name in enumerate(rows.header)]
    whole = [max(map(cell_len, column)) for column in columns]
    words = [max(map(cell_len, " ".join(column).split()), default=0) for column in columns]
    beside = 3 * len(columns) + 1  # borders, and a space on both sides of each cell
    out = console
    if not console.is_terminal:
        widths = whole
        out = Console(file=console.file, width=beside + sum(whole), markup=False, emoji=False, highlight=False)
    elif sum(words) + beside <= console.width:
        widths = _shared_out(console.width - beside, words, whole)
    else:
        _say_records(rows)
        return
    header = (Column(name, width=width, overflow="fold") for name, width in zip(rows.header, widths, strict=True))
    table = Table(*header, title=Text(rows.title) if rows.title else None)
    for cells in rows.cells:
        table.add_row(*map(Text, cells))
    out.print(table)


def _shared_out(width: int, least: Sequence[int], most: Sequence[int]) -> list[int]:
    """Widths of columns that have to do with `width` in all: those that lack little get it first."""
    widths, left = list(least), width - sum(least)
    order = sorted(range(len(widths)), key=lambda i: most[i] - least[i])
    for n_done, i in enumerate(order):
        more = min(most[i] - least[i], left // (len(order) - n_done))
        widths[i], left = widths[i] + more, left - more
    return widths


def _say_records(rows: Rows) -> None:
    width = max(map(cell_len, rows.header))
    if rows.title:
        console.print(rows.title, style="italic", soft_wrap=True)
    for cells in rows.cells:
        console.print()
        for name, cell in zip(rows.header, cells, strict=True):
            console.print(Text.assemble((set_cell_size(name, width), "bold"), "  ", cell), soft_wrap=True)


def complain(message: str, label: str = "Error", style: str = "bold red") -> None:
    """Print what is wrong, beside the results."""
    errors.print(Text.assemble((f"{label}:", style), " ", visible(message)), soft_wrap=True)


def warn(message: str) -> None:
    """Print what is not wrong yet, beside the results."""
    complain(message, "Warning", "bold yellow")


def note(messages: Iterable[str]) -> None:
    """Print what the user should know, beside the results, each only once."""
    different = list(dict.fromkeys(messages))
    for message in different[:MAX_NOTES]:
        complain(message, "Note", "bold")
    if len(different) > MAX_NOTES:
        complain(f"and {len(different) - MAX_NOTES} more notes like these.", "Note", "bold")


def visible(text: str) -> str:
    """Text that can be printed anywhere: what cannot is written as an escape."""
    return NOT_PRINTED.sub(lambda match: _escape(match[0]), text)


def one_line(text: str) -> str:
    """The same, line breaks and tabs too."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def lenient_output() -> None:
    """Let what the terminal's encoding lacks cost a character, not the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            is_utf8 = (stream.encoding or "").lower().replace("-", "").startswith("utf8")
            stream.reconfigure(errors="backslashreplace" if is_utf8 else "replace")

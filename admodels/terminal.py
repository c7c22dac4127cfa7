"""What the commands of the command line share: arguments, the terminal, the progress bar."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

import admodels
from admodels.base import Detector
from admodels.results import OnProgress, Progress

console = Console()
errors = Console(stderr=True)

METHODS = ", ".join(admodels.DETECTORS)
Method = Annotated[str, typer.Argument(help=f"One of: {METHODS}.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="Option of the method, repeatable; see 'options METHOD'."),
]
Seed = Annotated[int, typer.Option(help="Which pictures are held out (and chosen, with --n-train).")]
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


def write_json(path: Path | None, content: Any) -> None:
    """Write a result where `--json` asked for it."""
    if path is not None:
        path.write_text(json.dumps(content, indent=2) + "\n")

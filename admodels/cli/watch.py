"""The command `watch`."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import admodels
from admodels.cli.terminal import INTERRUPTED, Device, complain, say, warn
from admodels.serving.models import AUTO, Models, max_model_bytes
from admodels.serving.watching.camera import Camera
from admodels.serving.watching.journal import Journal
from admodels.serving.watching.outputs import CsvFile, Outputs
from admodels.serving.watching.scoring import Scorer
from admodels.serving.watching.watch import FolderWatch, watch_camera
from admodels.serving.watching.webhook import Webhook


def watch(
    folder: Annotated[Path | None, typer.Argument(help="Folder whose pictures are scored as they arrive.")] = None,
    model: Annotated[
        str, typer.Option(help="local:bolts, or owner/name@revision of the Hub; auto chooses a saved one.")
    ] = "",
    camera: Annotated[
        str | None, typer.Option(help="Instead of a folder: the number of a camera, rtsp://…, or a video file.")
    ] = None,
    webhook: Annotated[str | None, typer.Option(help="Also send each row there, by HTTP.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Also append each row to this table.")] = None,
    move_to: Annotated[
        Path | None, typer.Option(help="Move what is scored to good, borderline, suspected or unreadable in there.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="False-alarm rate of the threshold. Default: the model's.")] = None,
    regions: Annotated[bool, typer.Option("--regions", help="Also say where in a suspected picture.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Score all pictures again, also those done before.")] = False,
    every: Annotated[float, typer.Option(min=0, help="Seconds from one frame of a camera to the next.")] = 0,
    frames: Annotated[int | None, typer.Option(min=1, help="End after so many frames of a camera.")] = None,
    device: Device = "auto",
) -> None:
    """Score every picture that arrives in a folder, or frames of a camera, until Ctrl-C.

    Each is one line of JSON. A restart goes on where it ended: a picture is scored again only if its file has changed.
    With --model auto each picture is scored by the saved model whose good pictures it resembles.

    Example: python -m admodels watch incoming --model local:bolts --move-to sorted --csv scores.csv
    """
    if (folder is None) == (camera is None):
        raise admodels.OptionError("give exactly one of a folder and --camera.")
    if not model:
        raise admodels.OptionError("--model is missing; expected a saved model, such as local:bolts.")
    if camera is None and (every or frames is not None):
        raise admodels.OptionError("--every and --frames are for --camera. Leave them out.")
    if camera is not None and (move_to is not None or again):
        raise admodels.OptionError("--move-to and --again are for a folder. Leave them out.")
    # The model in use is kept, whatever its size; of several, those that there is room for.
    max_bytes = max_model_bytes() if model.strip() == AUTO else 0
    models = Models(admodels.LOCAL, admodels.HUB, device=device, max_bytes=max_bytes, takes_hub=True)
    scorer = Scorer(models, model, rate=rate, regions=regions)
    outputs = Outputs(
        _say_row,
        warn,
        table=CsvFile(csv_file) if csv_file is not None else None,
        webhook=Webhook(webhook) if webhook is not None else None,
    )
    with _signals() as received:
        if camera is not None:
            source = Camera(camera, warn)
            watch_camera(source, scorer, outputs, warn, every=every, n_frames=frames, is_stopped=lambda: bool(received))
        else:
            with Journal(folder, scorer.key) as journal:
                watching = FolderWatch(folder, scorer, outputs, journal, warn, move_to=move_to, again=again)
                watching.run(lambda: bool(received))
    complain(outputs.summary, "Watched", "bold")
    if signal.SIGINT in received:
        raise typer.Exit(INTERRUPTED)


def _say_row(row: dict[str, Any]) -> None:
    say(json.dumps(row))


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Within it, the first Ctrl-C or SIGTERM is noted, so that what was begun is finished; a second one ends at once.

    Whoever asks a watcher to end by SIGTERM, such as systemd, gets the status 0: it has no other way to end well.
    """
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: object) -> None:
        received.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

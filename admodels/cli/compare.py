"""The command `compare`: two models that are there already, on the same labelled pictures."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

import admodels
from admodels.cli.terminal import Bar, Device, JsonFile, Rows, check_outputs, note, opened, say, write_json
from admodels.core.results import size_text
from admodels.evaluation.accuracy import PIXEL_SIDE, measure
from admodels.evaluation.datasets import load_dataset, notes_on
from admodels.evaluation.paired import compare_verdicts, count_rows, is_same_model
from admodels.evaluation.timing import measure_network

TIMED_SECONDS = 1.0
SHOWN = ("image_auroc", "pixel_auroc", "aupro", "detection_rate", "false_alarm_rate", "threshold")


def compare(
    first: Annotated[str, typer.Argument(help="A saved model, or one of the Hub: local:bolts, hf-hub:owner/name.")],
    second: Annotated[str, typer.Argument(help="The model to compare it with.")],
    data: Annotated[Path, typer.Argument(help="A data set, as for evaluate; its test pictures are used.")],
    pixel_side: Annotated[
        int, typer.Option(help="Longest side of maps and masks for the pixel measures; 0 keeps their size.", min=0)
    ] = PIXEL_SIDE,
    json_file: JsonFile = None,
    device: Device = "auto",
) -> None:
    """Measure two models on the same test pictures, and say whether their verdicts differ by more than chance.

    Example: python -m admodels compare local:bolts local:bolts-line-2 mvtec/bolts --json compared.json
    """
    check_outputs(json_file=json_file)
    test = load_dataset(data).test
    detectors = [opened(ref, device) for ref in (first, second)]
    thresholds = [detector.calibration_.threshold for detector in detectors]
    if is_same_model(*detectors) and thresholds[0] == thresholds[1]:
        raise admodels.OptionError(
            f"{first} and {second} are the same model with the same threshold, so there is nothing to compare. Name "
            "another one."
        )
    note(notes_on(test))
    note(["Which pictures a saved model learned from is not known. If some are among these, its figures are too good."])
    measured = []
    for detector in detectors:
        with Bar() as on_progress:
            measured.append(
                measure(detector, test, pixel_side=pixel_side or None, robustness=False, on_progress=on_progress)
            )
    seconds = [measure_network(detector, [test[0].path], TIMED_SECONDS)[0].p50 for detector in detectors]
    verdicts = compare_verdicts(*measured)
    models = [
        dataclasses.asdict(accuracy)
        | {"model": ref, "method": detector.key, "network_seconds": taken, "model_mib": detector.model_mib}
        for ref, detector, accuracy, taken in zip((first, second), detectors, measured, seconds, strict=True)
    ]
    said = verdicts.statement("the first", "the second model")
    write_json(json_file, {"statement": said, "verdicts": verdicts.counts(), "models": models})
    table = Rows("measure", first, second)
    for name in SHOWN:
        table.add_row(name, *("–" if row[name] is None else f"{row[name]:.4g}" for row in models))
    table.add_row("ms a picture (network, score, map)", *(f"{1e3 * taken:.3g}" for taken in seconds))
    table.add_row("model size", *(size_text(row["model_mib"]) for row in models))
    say(table)
    header, *rows = count_rows(verdicts, "the first", "the second")
    table = Rows(*header)
    for row in rows:
        table.add_row(*row)
    say(table)
    say(said)

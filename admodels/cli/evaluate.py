"""The command `evaluate`, for one data set and for all categories under a folder."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

import admodels
from admodels.cli.terminal import (
    Bar,
    Device,
    JsonFile,
    Method,
    Options,
    Rows,
    Seed,
    check_outputs,
    create,
    note,
    say,
    write_json,
)
from admodels.evaluation.accuracy import PIXEL_SIDE
from admodels.evaluation.accuracy import evaluate as run_evaluation
from admodels.evaluation.datasets import find_datasets, left_out, load_dataset, notes_on, passed_over
from admodels.evaluation.published import PUBLISHED
from admodels.evaluation.report import RATE_COLUMNS_SAID, rate_rows, rates_statement, robustness_rows
from admodels.evaluation.sweep import sweep as run_sweep
from admodels.evaluation.sweep import table_rows, write_report
from admodels.runtime.device import describe_device, resolve_device


def evaluate(
    method: Method,
    data: Annotated[Path, typer.Argument(help="A data set: MVTec AD, LOCO, VisA, Magnetic Tile, or good and others.")],
    option: Options = None,
    every: Annotated[bool, typer.Option("--all", help="Evaluate every category under the folder.")] = False,
    out: Annotated[Path, typer.Option(help="With --all: folder of results and report.html; resumes there.")] = Path(
        "evaluation"
    ),
    reference: Annotated[
        str | None, typer.Option(help=f"With --all: published figures to show beside ours: {', '.join(PUBLISHED)}.")
    ] = None,
    ray: Annotated[bool, typer.Option(help="With --all: run categories as tasks on a Ray cluster.")] = False,
    pixel_side: Annotated[
        int, typer.Option(help="Longest side of maps and masks for the pixel measures; 0 keeps their size.", min=0)
    ] = PIXEL_SIDE,
    n_train: Annotated[int | None, typer.Option(help="Fit on this many good pictures; default: all.")] = None,
    robustness: Annotated[
        bool, typer.Option(help="Also check robustness: score pictures again after small changes.")
    ] = True,
    seed: Seed = 0,
    json_file: JsonFile = None,
    device: Device = "auto",
) -> None:
    """Fit on a data set's good pictures, then measure accuracy, speed and memory on its test pictures.

    Example: python -m admodels evaluate fapm mvtec/carpet --option crop=224 --json carpet.json
    Example: python -m admodels evaluate fapm mvtec --all --reference fapm --out results
    """
    if reference is not None and reference not in PUBLISHED:
        raise admodels.OptionError(f"--reference is {reference!r}; expected one of {', '.join(PUBLISHED)}.")
    check_outputs(json_file=json_file, out=out if every else None)
    asked = {"n_train": n_train, "seed": seed, "pixel_side": pixel_side or None, "robustness": robustness}
    if every:
        asked["on_ray"] = ray
        _evaluate_all(method, option, device, data, out, reference, asked, json_file)
        return
    detector, found = create(method, option, device), load_dataset(data)
    note(notes_on(found.test, found.train))
    with Bar() as on_progress:
        result = run_evaluation(detector, found, **asked, on_progress=on_progress)
    write_json(json_file, dataclasses.asdict(result))
    note(detector.fit_report_.notices)
    table = Rows("measure", "value")
    for name, value in dataclasses.asdict(result).items():
        if name not in ("options", "at_rates", "pictures", "robustness"):
            table.add_row(name, "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value))
    say(table)
    header, *rows = rate_rows(result.at_rates)
    table = Rows(*header, title="what each false-alarm rate finds")
    for row in rows:
        table.add_row(*row)
    say(table)
    say(rates_statement(result.at_rates))
    if robustness:
        header, *rows = robustness_rows(result.robustness)
        table = Rows(*header, title="robustness; σ is the spread of the scores of good pictures kept aside")
        for row in rows:
            table.add_row(*row)
        say(table)


def _evaluate_all(
    method: str,
    option: list[str] | None,
    device: str,
    root: Path,
    out: Path,
    reference: str | None,
    asked: dict[str, Any],
    json_file: Path | None,
) -> None:
    def told(name: str, result: dict[str, Any], was_there: bool) -> None:
        how = "measured before" if was_there else f"{result['fit_seconds']:.1f} s to fit"
        say(f"{name}: image AUROC {result['image_auroc'] or float('nan'):.4f}, {how}")

    datasets = find_datasets(root)
    note(f"{root / name} is not a data set; skipped." for name in passed_over(root, datasets))
    note(line for data in datasets.values() for line in left_out(data.test, data.train))
    with Bar() as on_progress:
        results = run_sweep(
            lambda: create(method, option, device),
            datasets,
            out,
            **asked,
            on_category=told,
            on_progress=on_progress,
        )
    write_json(json_file, results)
    measured_on = describe_device(resolve_device(device))
    write_report(out / "report.html", results, f"Measured on {measured_on}", reference)
    header, *rows = table_rows(results, reference)
    table = Rows(*header, title=f"{method}, percent, 95 % bootstrap interval in brackets")
    for row in rows:
        table.add_row(*row)
    say(table)
    say(RATE_COLUMNS_SAID)
    say(f"Written to {out / 'report.html'}.")

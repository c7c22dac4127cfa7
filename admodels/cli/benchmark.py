"""The command `benchmark`: what is measured, on the terminal and as JSON."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import admodels
from admodels.cli import tiled_benchmark
from admodels.cli.efficientad_benchmark import compare_with_textbook
from admodels.cli.gpu_benchmark import FILE, KEY, benchmark_gpu
from admodels.cli.terminal import (
    METHODS,
    Bar,
    Device,
    JsonFile,
    Options,
    Rows,
    above_zero,
    check_outputs,
    create,
    key_values,
    say,
    write_json,
)
from admodels.efficientad.method import EfficientAd
from admodels.evaluation.accuracy import evaluate
from admodels.evaluation.compare import compare as compare_methods
from admodels.evaluation.compare import write_scatter
from admodels.evaluation.datasets import find_datasets, load_dataset, normal_images
from admodels.evaluation.report import RATE_COLUMNS, RATE_COLUMNS_SAID, rate_cells
from admodels.evaluation.sweep import averages
from admodels.evaluation.timing import benchmark as run_benchmark
from admodels.evaluation.timing import noise_pictures
from admodels.tiling.method import TiledEnsemble

Keep = Callable[[Any], None]  # writes what was measured so far where --json asked for it


def benchmark(
    method: Annotated[
        str | None, typer.Argument(help=f"One of: {METHODS}; or gpu for all. Not needed with --compare.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Pictures as for fit, or an MVTec AD category.")] = None,
    option: Options = None,
    members: Annotated[
        list[str] | None,
        typer.Option("--method", help="For tiled: the method of the tiles' models; repeatable. Default: padim_isvd."),
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="Compare all methods on one data set, each in its own process.")
    ] = False,
    n_train: Annotated[int | None, typer.Option(help="With --compare: fit on this many good pictures.")] = None,
    minutes: Annotated[
        list[float] | None,
        typer.Option(help="For efficientad: also fit and evaluate with this max_minutes; repeatable."),
    ] = None,
    ray: Annotated[bool, typer.Option(help="For tiled: also fit by one and by two workers of a Ray cluster.")] = False,
    scatter: Annotated[Path | None, typer.Option(help="With --compare: accuracy against latency, as HTML.")] = None,
    json_file: JsonFile = None,
    out: Annotated[
        Path | None, typer.Option(help="For gpu: where figures are kept, and read by a run that goes on.")
    ] = None,
    limit: Annotated[
        float | None, typer.Option(help="For gpu: begin no part after so many minutes (8 by default).")
    ] = None,
    device: Device = "auto",
) -> None:
    """Time fit and predict against the backbone's own forward pass, the limit, at the same batch and precision.

    efficientad, which has no backbone, is timed against its textbook form instead, and with --data and --minutes it is
    fitted with each of these limits and evaluated.

    tiled is measured as in its paper: single models at 256 and 512 px, one model for all tiles, and ensembles of 4 and
    9; --option then goes to the methods of the tiles that have it. With several of them one table is printed at the
    end.

    gpu measures what this machine makes of everything: backbones, fits and predictions of all methods, trainings. A
    run that was cut off goes on where it ended. On a CPU it is shorter.

    With a data set in the MVTec AD layout, the method's own comparison is printed too: for padim_isvd the four columns
    of its paper's table 2, for fapm the five rows of its paper's table 2. Without --data, random pictures are used,
    which is enough for the speed.

    Example: python -m admodels benchmark --compare --data mvtec/carpet --scatter methods.html
    Example: python -m admodels benchmark tiled --method padim --method patchcore --data mvtec/carpet
    Example: python -m admodels benchmark efficientad --data mvtec/carpet --minutes 2 --minutes 5
    """
    check_outputs(json_file=json_file, scatter=scatter)
    above_zero(minutes or [], "--minutes")
    above_zero([] if limit is None else [limit], "--limit")
    keep = partial(write_json, json_file)
    given = {
        "--data": data,
        "--option": option,
        "--method": members,
        "--n-train": n_train,
        "--minutes": minutes,
        "--ray": ray,
        "--scatter": scatter,
        "--json": json_file,
        "--out": out,
        "--limit": limit,
    }
    if method is not None and compare:
        raise admodels.OptionError(f"--compare takes all methods, and {method!r} was named. Leave out one of both.")
    if method is None and not compare:
        raise admodels.OptionError(f"no method given. Give one of {METHODS}, or --compare with --data.")
    _check_used("--compare" if compare else method, {name for name, value in given.items() if value})
    if method == KEY:
        benchmark_gpu(out or FILE, device, limit or 8.0)
        return
    if compare:
        _compare_methods(data, option, n_train, scatter, device, keep)
        return
    if method == TiledEnsemble.key:
        _benchmark_tiled(members or ["padim_isvd"], data, option, n_train, device, ray, keep)
        return
    detector = create(method, option, device)
    if isinstance(detector.method, EfficientAd):
        _benchmark_efficientad(detector.method, option, device, data, minutes or [], n_train, keep)
        return
    images: list[Any] = normal_images(data) if data else noise_pictures(64)
    result = run_benchmark(detector, images)
    payload = dataclasses.asdict(result) | {
        name: getattr(result, name) for name in ("eager_ratio", "torch_ratio", "predict_ratio", "fit_ratio")
    }
    keep(payload)
    table = Rows("per picture", "ms", "against", "ratio", title=f"{result.method}: {result.conditions}")
    table.add_row("backbone, eager NCHW float32", f"{result.eager_ms:.2f}", "", "")
    by_torch = result.eager_ms / result.torch_ms
    table.add_row("backbone, by PyTorch as used here", f"{result.torch_ms:.2f}", "eager", f"{by_torch:.2f}× faster")
    table.add_row(
        f"backbone, {result.engine}", f"{result.backbone_ms:.2f}", "eager", f"{result.eager_ratio:.2f}× faster"
    )
    table.add_row("", "", "PyTorch", f"{result.torch_ratio:.2f}× faster")
    table.add_row("predict", f"{result.predict_ms:.2f}", "backbone", f"{result.predict_ratio:.2f}×")
    table.add_row("feature pass", f"{result.features_ms:.2f}", "", "")
    table.add_row("fit", f"{result.fit_ms:.2f}", "feature pass", f"{result.fit_ratio:.2f}×")
    say(table)
    comparison = detector.method.comparison
    if comparison and data and (data / "test").is_dir():
        _compare(method, option, device, comparison, data, lambda rows: keep(payload | {"comparison": rows}))


USED = {  # options beside --device
    KEY: {"--out", "--limit"},
    "--compare": {"--data", "--option", "--n-train", "--scatter", "--json"},
    TiledEnsemble.key: {"--data", "--option", "--method", "--n-train", "--ray", "--json"},
    EfficientAd.key: {"--data", "--option", "--n-train", "--minutes", "--json"},
}
USED_BY_OTHERS = {"--data", "--option", "--json"}


def _check_used(mode: str, given: set[str]) -> None:
    """Refuse what this benchmark would not look at, and its user would believe measured.

    Raises:
        OptionError: there is such an option.
    """
    for name in sorted(given - USED.get(mode, USED_BY_OTHERS)):
        takers = " and ".join(taker for taker, used in USED.items() if name in used)
        raise admodels.OptionError(f"benchmark {mode} does not use {name}; benchmark {takers} does. Leave it out.")


def _compare_methods(
    data: Path | None, option: list[str] | None, n_train: int | None, scatter: Path | None, device: str, keep: Keep
) -> None:
    if data is None:
        raise admodels.OptionError("--compare needs --data with a data set: accuracy is measured on its test pictures.")
    load_dataset(data)  # what is wrong with it is said before anything runs
    requests = {key: (key, chosen) for key, chosen in _options_by_method(admodels.METHODS, option).items()}
    rows: list[dict[str, Any]] = []
    on_row = _kept_and_printed(rows, lambda: keep(rows))
    compare_methods(admodels.create, requests, data, device=device, n_train=n_train, on_row=on_row)
    if scatter is not None:
        write_scatter(scatter, rows)
    columns = ("fit s", "ms a picture", "peak MiB", "MiB")
    table = Rows("method", *ACCURACY_COLUMNS, *columns, title=rows[0]["speed"]["conditions"])
    for row in rows:
        milliseconds = row["speed"]["network"]["p50"] * 1e3
        costs = (row["fit_seconds"], milliseconds, row["peak_rss_mib"], row["model_mib"])
        table.add_row(row["name"], *_accuracy(row), *(_figure(cost, 1) for cost in costs))
    say(table)
    say(RATE_COLUMNS_SAID)
    if scatter is not None:
        say(f"Written to {scatter}.")


def _options_by_method(methods: Iterable[str], option: list[str] | None) -> dict[str, dict[str, Any]]:
    """To each method those of the options that it has."""
    given, found = key_values(option), {}
    for key in methods:
        if key not in admodels.METHODS:
            raise admodels.OptionError(f"method is {key!r}; expected one of {', '.join(admodels.METHODS)}.")
        known = {field.name for field in dataclasses.fields(admodels.METHODS[key].Config)}
        found[key] = {name: value for name, value in given.items() if name in known}
    unknown = set(given) - {name for chosen in found.values() for name in chosen}
    if unknown:
        raise admodels.OptionError(f"none of {', '.join(found)} has the options {', '.join(sorted(unknown))}.")
    return found


ACCURACY_COLUMNS = ("image AUROC", "95 % interval", *RATE_COLUMNS, "pixel AUROC", "AUPRO 30 %")


def _kept_and_printed(rows: list[dict[str, Any]], keep: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    """What is done with every row at once, since the next one may take minutes."""

    def on_row(row: dict[str, Any]) -> None:
        rows.append(row)
        keep()
        say(row["name"], *_accuracy(row))

    return on_row


def _accuracy(row: dict[str, Any]) -> list[str]:
    """The cells under `ACCURACY_COLUMNS` for the fields of an evaluation."""
    interval = row.get("image_auroc_ci")  # averages have none
    between = f"{interval[0]:.3f}–{interval[1]:.3f}" if interval else "–"
    of_pixels = [_figure(row["pixel_auroc"], 4), _figure(row["aupro"], 4)]
    return [_figure(row["image_auroc"], 4), between, *_at_rates(row), *of_pixels]


def _at_rates(row: dict[str, Any]) -> list[str]:
    """The cells under `RATE_COLUMNS`."""
    return rate_cells(row, lambda value: _figure(value, 3))


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _benchmark_efficientad(
    efficientad: EfficientAd,
    option: list[str] | None,
    device: str,
    data: Path | None,
    minutes: list[float],
    n_train: int | None,
    keep: Keep,
) -> None:
    if bool(data) != bool(minutes):
        raise admodels.OptionError(
            "--data and --minutes belong together: a fit of so many minutes, evaluated on that data. Give both or none."
        )
    datasets = find_datasets(data) if data else {}
    for budget in minutes:
        create("efficientad", [*(option or []), f"max_minutes={budget}"], device)  # refused before anything runs
    result = compare_with_textbook(efficientad)
    payload = dataclasses.asdict(result) | {"predict_ratio": result.predict_ratio, "step_ratio": result.step_ratio}
    rows: list[dict[str, Any]] = []
    keep(payload | {"fits": rows})
    table = Rows("", "here, ms", "textbook form, ms", "ratio", title=result.conditions)
    for name, ours, textbook, ratio in (
        ("predict, batch 1", result.predict_ms, result.textbook_predict_ms, result.predict_ratio),
        ("training step, batch 1", result.step_ms, result.textbook_step_ms, result.step_ratio),
    ):
        table.add_row(name, f"{ours:.0f}", f"{textbook:.0f}", f"{ratio:.2f}×")
    say(table)
    columns = ("min", "fit s", "steps", *ACCURACY_COLUMNS)
    accuracy = Rows("data", *columns)
    for name, dataset in datasets.items():
        for budget in minutes:
            fitted = create("efficientad", [*(option or []), f"max_minutes={budget}"], device)
            with Bar() as on_progress:
                found = evaluate(fitted, dataset, n_train=n_train, robustness=False, on_progress=on_progress)
            row = {"data": name, "minutes": budget, "steps": int(fitted.state_["n_steps"])}
            rows.append(row | dataclasses.asdict(found))
            keep(payload | {"fits": rows})
            cells = (name, f"{budget:g}", _figure(found.fit_seconds, 0), str(row["steps"]), *_accuracy(rows[-1]))
            accuracy.add_row(*cells)
            say(*cells)  # at once, since the next one takes minutes
    if len(datasets) > 1:
        for budget in minutes:
            of_budget = {row["data"]: row for row in rows if row["minutes"] == budget}
            for title, means in averages(of_budget).items():
                accuracy.add_row(title, f"{budget:g}", "", "", *_accuracy(means))
    if rows:
        say(accuracy)
        say(RATE_COLUMNS_SAID)


def _benchmark_tiled(
    members: list[str],
    data: Path | None,
    option: list[str] | None,
    n_train: int | None,
    device: str,
    ray: bool,
    keep: Keep,
) -> None:
    options = _options_by_method(members, option)
    if data is not None:
        load_dataset(data)  # what is wrong with it is said before anything runs
    found: dict[str, Any] = {}
    columns = (*ACCURACY_COLUMNS, "fit s", "ms a picture", "peak MiB")
    whole = Rows("method", "setting", *columns, title=data.name if data is not None else None)
    for method, chosen in options.items():
        result = tiled_benchmark.compare_latency(method, chosen, device)
        workers = tiled_benchmark.compare_workers(method, chosen) if ray else {}
        found[method] = dataclasses.asdict(result) | {"workers": workers, "rows": []}
        keep(found)
        say(_tiled_costs(method, result, workers))
        if data is not None:
            rows = found[method]["rows"]
            on_row = _kept_and_printed(rows, lambda: keep(found))
            requests = tiled_benchmark.settings(method, chosen)
            compare_methods(admodels.create, requests, data, device=device, n_train=n_train, on_row=on_row)
            for row in rows:
                costs = (row["fit_seconds"], row["speed"]["network"]["p50"] * 1e3, row["peak_rss_mib"])
                whole.add_row(method, row["name"], *_accuracy(row), *(_figure(cost, 1) for cost in costs))
    if data is not None:
        say(whole)
        say(RATE_COLUMNS_SAID)


def _tiled_costs(method: str, result: tiled_benchmark.Latency, workers: dict[int, float]) -> Rows:
    table = Rows("", "measured", "ratio", title=f"{method}: {result.conditions}")
    ms, mib = result.milliseconds, result.memory_mib
    for name, over in (("SM256", None), ("SM512", None), ("ENS4", "SM512"), ("ENS9", "SM512")):
        table.add_row(f"{name}, ms a picture", f"{ms[name]:.1f}", f"{ms[name] / ms[over]:.2f}× {over}" if over else "")
    separate = f"{ms['separate'] / ms['ENS9']:.2f}× ENS9"
    table.add_row("nine models one after the other, ms", f"{ms['separate']:.1f}", separate)
    for name, value in mib.items():
        ratio = f"{value / mib['SM256']:.2f}× SM256" if name == "ENS9" else ""
        table.add_row(f"{name}, MiB for 9 tiles beyond the model", f"{value:.0f}", ratio)
    for n, seconds in workers.items():
        ratio = f"{workers[1] / seconds:.2f}× as fast as one" if n > 1 else ""
        table.add_row(f"ENS9 fit by {n} Ray worker{'s' if n > 1 else ''} of 1 thread, s", f"{seconds:.1f}", ratio)
    return table


def _compare(
    method: str, option: list[str] | None, device: str, comparison: dict[str, dict[str, Any]], data: Path, keep: Keep
) -> None:
    columns = ("image AUROC", *RATE_COLUMNS, "pixel AUROC", "fit FPS", "predict FPS", "model MiB")
    table = Rows("", *columns, title="comparison")
    rows = []
    for name, overrides in comparison.items():
        detector = admodels.create(method, device=device, **(key_values(option) | overrides))
        with Bar() as on_progress:
            result = evaluate(detector, load_dataset(data), robustness=False, on_progress=on_progress)
        row = {"name": name, **dataclasses.asdict(result)}
        figures = [result.image_auroc, result.pixel_auroc, result.fit_fps, result.predict_fps, result.model_mib]
        auroc, *others = ("–" if f is None else f"{f:.4g}" for f in figures)
        table.add_row(name, auroc, *_at_rates(row), *others)
        del row["peak_rss_mib"]  # one process runs them all, and each peak would hold what those before it left
        rows.append(row)
        keep(rows)
    say(table)
    say(RATE_COLUMNS_SAID)

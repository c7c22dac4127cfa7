"""The command line: `python -m admodels COMMAND --help`."""

import dataclasses
import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

import admodels
from admodels.cli import hub as hub_commands
from admodels.cli.benchmark import benchmark
from admodels.cli.terminal import (
    Bar,
    Device,
    JsonFile,
    Method,
    Options,
    Rows,
    Seed,
    above_zero,
    check_outputs,
    complain,
    create,
    lenient_output,
    note,
    pictures,
    say,
    warn,
    write_json,
)
from admodels.core.results import size_text
from admodels.efficientad.distill import Logged, Recipe
from admodels.efficientad.distill import distill as run_distillation
from admodels.evaluation.accuracy import PIXEL_SIDE
from admodels.evaluation.accuracy import evaluate as run_evaluation
from admodels.evaluation.datasets import find_datasets, left_out, load_dataset, normal_images, notes_on, passed_over
from admodels.evaluation.published import PUBLISHED
from admodels.evaluation.report import robustness_rows
from admodels.evaluation.sweep import sweep as run_sweep
from admodels.evaluation.sweep import table_rows, write_report
from admodels.files import OwnStems, check_file
from admodels.models.references import PREFIX as HUB_PREFIX
from admodels.pictures.images import ZipPicture, inspect_set, picture_name
from admodels.runtime.device import describe_device, resolve_device
from admodels.runtime.memory import keep_freed_memory

INTERRUPTED = 130  # the exit status that shells give to what Ctrl-C ended

RECIPE = Recipe()

app = typer.Typer(
    help="Industrial visual anomaly detection: fit on pictures of good parts, then score others.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(benchmark)
for command in (hub_commands.push, hub_commands.pull, hub_commands.search, hub_commands.verify):
    app.command()(command)


@app.command()
def fit(
    method: Method,
    data: Annotated[Path, typer.Argument(help="Folder of good pictures, or one with train/good in it.")],
    save: Annotated[str, typer.Option(help="Name to save the model under.")],
    option: Options = None,
    seed: Seed = 0,
    false_alarm_rate: Annotated[float, typer.Option(help="Fraction of good pictures that may alarm.")] = 0.01,
    folds: Annotated[
        int | None, typer.Option(help="Hold every picture out once, in this many folds; 0 means one split. Default: 5.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing model.")] = False,
    device: Device = "auto",
) -> None:
    """Learn what good parts look like and save the model.

    Example: python -m admodels fit padim_isvd parts/good --save bolts --option n_components=32
    """
    name = admodels.LOCAL.check_name(save, overwrite=overwrite)
    detector = create(method, option, device)
    paths = normal_images(data)
    images = inspect_set(paths)
    note([*notes_on([], paths), *images.notices])
    if not images.errors:
        expected = detector.estimate(images, n_folds=folds)
        say(
            f"About {expected.seconds:.1f} s, {size_text(expected.peak_memory_mib)} of memory, "
            f"a model of {size_text(expected.model_mib)}."
        )
        if expected.notice:
            say(expected.notice)
        if expected.warning:
            warn(expected.warning)
    with Bar() as on_progress:
        detector.fit(images, seed=seed, false_alarm_rate=false_alarm_rate, n_folds=folds, on_progress=on_progress)
    admodels.save(detector, name, overwrite=overwrite)
    report, calibration = detector.fit_report_, detector.calibration_
    say(
        f"Learned from {report.n_learned} pictures, {report.n_held_out} held out, "
        f"{report.n_duplicates} exact copies included; "
        f"{report.seconds:.1f} s, {report.images_per_second:.1f} pictures/s, model {size_text(detector.model_mib)}, "
        f"peak memory {size_text(report.peak_memory_mib)}."
    )
    note(notice for notice in report.notices if notice not in images.notices)
    for label, value in detector.details().items():
        say(f"{label}: {value}")
    say(f"Threshold {calibration.threshold:.4g}. {calibration.statement}")
    say(f"Saved as local:{name}")


@app.command()
def predict(
    ref: Annotated[str, typer.Argument(help="A model: local:bolts, or hf-hub:owner/name@revision.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or folders or zips of pictures.")],
    out: Annotated[Path | None, typer.Option(help="Folder for anomaly maps (.npy) and masks (.png).")] = None,
    json_file: JsonFile = None,
    device: Device = "auto",
) -> None:
    """Score pictures with a saved model.

    Example: python -m admodels predict local:bolts new/*.png --json scores.json --out maps
    """
    check_outputs(json_file=json_file, out=out)
    given = pictures(images)
    detector = _opened(ref, device)
    broken = inspect_set(given).errors
    if broken:
        raise admodels.ImageSetError(broken, len(given))
    rows: list[dict[str, Any]] = []
    try:
        _predict_all(detector, given, out, rows)
    finally:
        if rows:  # what was scored before a picture turned out to be damaged is kept
            write_json(json_file, rows)
    table = Rows("picture", "score", "threshold", "p-value", "verdict")
    for image, row in zip(given, rows, strict=True):
        verdict = "anomalous" if row["is_anomalous"] else "good"
        figures = (f"{row['score']:.4g}", f"{row['threshold']:.4g}", f"{row['p_value']:.3g}")
        table.add_row(picture_name(image), *figures, verdict)
    say(table)
    note(notice for row in rows for notice in row["notices"])


def _opened(ref: str, device: str) -> admodels.Detector:
    """A saved model, or one of the Hub."""
    if not ref.startswith(HUB_PREFIX):
        return admodels.load(ref, device=device)
    pulled = admodels.pull_verified(ref, device=device)
    if not pulled.verification.is_close:
        warn(pulled.verification.statement)
    return pulled.detector


def _predict_all(
    detector: admodels.Detector, images: Sequence[Path | ZipPicture], out: Path | None, rows: list[dict[str, Any]]
) -> None:
    """Score pictures, a few at a time; a row of each is added to `rows`, maps and masks are written to `out`."""
    stems = OwnStems(("_map.npy", "_mask.png"), _names_in(out, images) if out is not None else ())
    for image, prediction in zip(images, detector.predict_stream(images), strict=True):
        row = {
            "image": f"{image.archive}/{image.member}" if isinstance(image, ZipPicture) else str(image),
            "score": prediction.score,
            "threshold": prediction.threshold,
            "p_value": prediction.p_value,
            "is_anomalous": prediction.is_anomalous,
            "notices": list(prediction.notices),
        }
        if out is not None:
            stem = stems.take(Path(picture_name(image)).stem)
            row |= {"map": str(out / f"{stem}_map.npy"), "mask": str(out / f"{stem}_mask.png")}
            try:
                np.save(row["map"], prediction.anomaly_map)
                Image.fromarray(prediction.mask.astype(np.uint8) * 255).save(row["mask"])
            except OSError as error:
                raise admodels.OutputError(f"{out} cannot be written ({error}). Free space there.") from error
        rows.append(row)


def _names_in(folder: Path, images: Sequence[Path | ZipPicture]) -> list[str]:
    """The names of those pictures that lie in this folder: no result may take their place."""
    here = folder.resolve()
    return [image.name for image in images if isinstance(image, Path) and image.resolve().parent == here]


@app.command()
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
    ray: Annotated[bool, typer.Option(help="With --all: categories are tasks of a Ray cluster.")] = False,
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
        if name not in ("options", "pictures", "robustness"):
            table.add_row(name, "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value))
    say(table)
    if robustness:
        header, *rows = robustness_rows(result.robustness)
        table = Rows(*header, title="robustness; σ is the spread of the held-out normals' scores")
        for row in rows:
            table.add_row(*row)
        say(table)


@app.command()
def distill(
    images: Annotated[list[Path], typer.Option(help="Folder of any pictures; repeatable.")],
    out: Annotated[
        Path, typer.Option(help="The teacher's file, .safetensors; an unfinished run beside it is resumed.")
    ],
    backbone: Annotated[str, typer.Option(help="The network to learn from.")] = RECIPE.backbone,
    layers: Annotated[str, typer.Option(help="Which of its feature maps, by position from fine to coarse.")] = ",".join(
        map(str, RECIPE.layers)
    ),
    size: Annotated[str, typer.Option(help="small or medium.")] = RECIPE.size,
    minutes: Annotated[float, typer.Option(help="Training time in minutes.")] = RECIPE.minutes,
    batch_size: Annotated[int, typer.Option(help="Crops in each step.")] = RECIPE.batch_size,
    scale: Annotated[
        int, typer.Option(help="How many times larger the backbone sees each crop: 1 or 2.")
    ] = RECIPE.scale,
    seed: Seed = RECIPE.seed,
    device: Device = "auto",
) -> None:
    """Distil a backbone into a patch description network: a teacher for efficientad.

    Example: python -m admodels distill --images photos --images textures --minutes 120 --out teacher.safetensors
    """
    given = tuple(part.strip() for part in layers.split(","))
    if not all(part.isdigit() for part in given):
        raise admodels.OptionError(f"--layers is {layers!r}; expected positions separated by commas, such as 0,1,2.")
    if out.suffix != ".safetensors":  # else the log, or the unfinished run, could be the file itself
        raise admodels.OptionError(f"--out is {out}; expected a file that ends in .safetensors.")
    check_file(out, "--out")
    above_zero([minutes], "--minutes")
    recipe = Recipe(backbone, tuple(map(int, given)), size, minutes, batch_size, seed=seed, scale=scale)
    found = [path for folder in images for path in normal_images(folder)]
    say(f"{len(found)} pictures.")

    def told(line: Logged) -> None:
        say(f"step {line.step}, {line.seconds / 60:.1f} min, loss {line.loss:.4f}, held out {line.held_out_loss:.4f}")

    run_distillation(found, out, recipe, device=device, on_log=told)
    say(f"Written to {out}. Use it with --option teacher={out}")


@app.command("list")
def list_command() -> None:
    """List the saved models."""
    table = Rows("model", "method", "learned", "held out", "threshold", "MiB", "saved")
    found, unreadable = admodels.LOCAL.look()
    for info in found:
        table.add_row(
            info.reference,
            info.title,
            str(info.n_learned),
            str(info.n_held_out),
            f"{info.threshold:.4g}",
            f"{info.size_mib:.3g}",
            info.saved_at,
        )
    say(table)
    for folder in unreadable:
        warn(f"{folder.name} cannot be read: {folder.reason}")


@app.command()
def show(ref: Annotated[str, typer.Argument(help="A saved model, such as local:bolts.")]) -> None:
    """Print a saved model's configuration, threshold and held-out scores as JSON."""
    config = admodels.LOCAL.show(ref)
    plain = {k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for k, v in config.items()}
    plain["calibration"] |= {"threshold": config["calibration"].threshold, "statement": config["calibration"].statement}
    print(json.dumps(plain, indent=2))


@app.command()
def threshold(
    ref: Annotated[str, typer.Argument(help="A saved model, such as local:bolts.")],
    rate: Annotated[float | None, typer.Option(help="Fraction of good pictures that may alarm.")] = None,
    value: Annotated[float | None, typer.Option(help="A raw score, set by hand.")] = None,
) -> None:
    """Change a saved model's threshold without a new fit; its scores stay the same.

    Example: python -m admodels threshold local:bolts --rate 0.05
    """
    detector = admodels.load(ref, device="cpu").with_threshold(false_alarm_rate=rate, threshold=value)
    admodels.save(detector, ref, overwrite=True)
    say(f"Threshold {detector.calibration_.threshold:.4g}. {detector.calibration_.statement}")


@app.command()
def delete(ref: Annotated[str, typer.Argument(help="A saved model, such as local:bolts.")]) -> None:
    """Delete a saved model."""
    admodels.delete(ref)
    say(f"Deleted {ref}.")


@app.command()
def options(method: Method) -> None:
    """List a method's options with their defaults."""
    table = Rows("option", "default", "what it does")
    config = admodels.create(method, device="cpu").config
    for field in dataclasses.fields(config):
        choices = field.metadata["choices"]
        text = field.metadata["help"] + (f" ({', '.join(map(str, choices))})" if choices else "")
        table.add_row(field.name, str(getattr(config, field.name)), text)
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
    say(f"Written to {out / 'report.html'}.")


def main() -> None:
    """Run the command line; what a user can act on is printed as one message, without a traceback."""
    keep_freed_memory()
    lenient_output()
    try:
        app()
    except admodels.AdmodelsError as error:
        complain(str(error))
        raise SystemExit(1) from error
    except OSError as error:
        if error.errno is None:  # not of the system: a mistake of ours
            raise
        if error.errno == errno.EPIPE:  # who reads the output has seen enough
            raise SystemExit(1) from error
        complain(f"{error}. Check the path, its permissions and the free space.")
        raise SystemExit(1) from error
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            complain("by Ctrl-C.", "Stopped", "bold")
        raise

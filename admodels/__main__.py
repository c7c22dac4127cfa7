"""The command line: `python -m admodels COMMAND --help`."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from rich.markup import escape
from rich.table import Table

import admodels
from admodels import hub_commands, store
from admodels.base import BATCH_SIZE
from admodels.benchmark_command import benchmark
from admodels.datasets import find_datasets, load_dataset, normal_images
from admodels.device import describe_device, resolve_device
from admodels.distill import Logged, Recipe
from admodels.distill import distill as run_distillation
from admodels.evaluation import PIXEL_SIDE
from admodels.evaluation import evaluate as run_evaluation
from admodels.hub import PREFIX as HUB_PREFIX
from admodels.images import inspect_set, list_images
from admodels.memory import keep_freed_memory
from admodels.published import PUBLISHED
from admodels.report import robustness_rows
from admodels.sweep import sweep as run_sweep
from admodels.sweep import table_rows, write_report
from admodels.terminal import Bar, Device, JsonFile, Method, Options, Seed, console, create, errors, write_json

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
        int | None, typer.Option(help="Hold every picture out once, in so many folds; 0 is one split. By default 5.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a model of that name.")] = False,
    device: Device = "auto",
) -> None:
    """Learn what good parts look like and save the model.

    Example: python -m admodels fit padim_isvd parts/good --save bolts --option n_components=32
    """
    detector = create(method, option, device)
    images = inspect_set(normal_images(data))
    if not images.errors:
        expected = detector.estimate(images, n_folds=folds)
        console.print(
            f"About {expected.seconds:.0f} s, {expected.peak_memory_mib:,.0f} MiB of memory, "
            f"a model of {expected.model_mib:.1f} MiB."
        )
        if expected.notice:
            console.print(expected.notice)
        if expected.warning:
            errors.print(f"[bold yellow]Warning:[/] {escape(expected.warning)}", highlight=False)
    with Bar() as on_progress:
        detector.fit(images, seed=seed, false_alarm_rate=false_alarm_rate, n_folds=folds, on_progress=on_progress)
    store.save(detector, save, overwrite=overwrite)
    report, calibration = detector.fit_report_, detector.calibration_
    console.print(
        f"Learned from {report.n_learned} pictures, {report.n_held_out} held out, "
        f"{report.n_duplicates} exact copies among them; "
        f"{report.seconds:.1f} s, {report.images_per_second:.1f} pictures/s, model {detector.model_mib:.1f} MiB, "
        f"peak memory {report.peak_memory_mib:.0f} MiB."
    )
    for label, value in detector.details().items():
        console.print(f"{label}: {value}")
    console.print(f"Threshold {calibration.threshold:.4g}. {calibration.statement}")
    console.print(f"Saved as local:{save.removeprefix('local:')}")


@app.command()
def predict(
    ref: Annotated[str, typer.Argument(help="A model: local:bolts, or hf-hub:owner/name@revision.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or folders of pictures.")],
    out: Annotated[Path | None, typer.Option(help="Folder for anomaly maps (.npy) and masks (.png).")] = None,
    json_file: JsonFile = None,
    device: Device = "auto",
) -> None:
    """Score pictures with a saved model.

    Example: python -m admodels predict local:bolts new/*.png --json scores.json --out maps
    """
    detector = admodels.pull(ref, device=device) if ref.startswith(HUB_PREFIX) else store.load(ref, device=device)
    paths = [p for given in images for p in (list_images(given) if given.is_dir() else [given])]
    broken = inspect_set(paths).errors
    if broken:
        raise admodels.ImageSetError(broken, len(paths))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    table = Table("picture", "score", "threshold", "p-value", "verdict")
    rows, seen = [], {}
    for first in range(0, len(paths), BATCH_SIZE):
        part = paths[first : first + BATCH_SIZE]
        for path, prediction in zip(part, detector.predict_batch(part), strict=True):
            verdict = "anomalous" if prediction.is_anomalous else "good"
            row = {
                "image": str(path),
                "score": prediction.score,
                "threshold": prediction.threshold,
                "p_value": prediction.p_value,
                "is_anomalous": prediction.is_anomalous,
            }
            table.add_row(
                path.name,
                f"{prediction.score:.4g}",
                f"{prediction.threshold:.4g}",
                f"{prediction.p_value:.3g}",
                verdict,
            )
            if out is not None:
                # Two folders may hold pictures of one name; neither result may overwrite the other.
                n = seen[path.stem] = seen.get(path.stem, 0) + 1
                stem = path.stem if n == 1 else f"{path.stem}_{n}"
                row |= {"map": str(out / f"{stem}_map.npy"), "mask": str(out / f"{stem}_mask.png")}
                np.save(row["map"], prediction.anomaly_map)
                Image.fromarray(prediction.mask.astype(np.uint8) * 255).save(row["mask"])
            rows.append(row)
    console.print(table)
    write_json(json_file, rows)


@app.command()
def evaluate(
    method: Method,
    data: Annotated[Path, typer.Argument(help="A data set: MVTec AD, LOCO, VisA, Magnetic Tile, or good and others.")],
    option: Options = None,
    every: Annotated[bool, typer.Option("--all", help="Evaluate every category under the folder.")] = False,
    out: Annotated[Path, typer.Option(help="With --all: folder of results and report.html; resumes there.")] = Path(
        "evaluation"
    ),
    reference: Annotated[str | None, typer.Option(help=f"With --all: set beside ours: {', '.join(PUBLISHED)}.")] = None,
    ray: Annotated[bool, typer.Option(help="With --all: categories are tasks of a Ray cluster.")] = False,
    pixel_side: Annotated[
        int, typer.Option(help="Longest side of maps and masks for the pixel measures; 0 keeps their size.", min=0)
    ] = PIXEL_SIDE,
    n_train: Annotated[int | None, typer.Option(help="Fit on so many good pictures; all where not given.")] = None,
    robustness: Annotated[bool, typer.Option(help="Also score pictures again after small changes.")] = True,
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
    asked = {"n_train": n_train, "seed": seed, "pixel_side": pixel_side or None, "robustness": robustness}
    if every:
        asked["on_ray"] = ray
        write_json(json_file, _evaluate_all(method, option, device, data, out, reference, asked))
        return
    detector = create(method, option, device)
    with Bar() as on_progress:
        result = run_evaluation(detector, load_dataset(data), **asked, on_progress=on_progress)
    table = Table("measure", "value")
    for name, value in dataclasses.asdict(result).items():
        if name not in ("options", "pictures", "robustness"):
            table.add_row(name, "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value))
    console.print(table)
    if robustness:
        header, *rows = robustness_rows(result.robustness)
        table = Table(*header, title="robustness; σ is the spread of the held-out normals' scores")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    write_json(json_file, dataclasses.asdict(result))


@app.command()
def distill(
    images: Annotated[list[Path], typer.Option(help="Folder of pictures of anything, repeatable.")],
    out: Annotated[Path, typer.Option(help="The teacher's file, .safetensors; an unfinished run beside it goes on.")],
    backbone: Annotated[str, typer.Option(help="The network to learn from.")] = RECIPE.backbone,
    layers: Annotated[str, typer.Option(help="Which of its maps, by position from fine to coarse.")] = ",".join(
        map(str, RECIPE.layers)
    ),
    size: Annotated[str, typer.Option(help="small or medium.")] = RECIPE.size,
    minutes: Annotated[float, typer.Option(help="How long to train.")] = RECIPE.minutes,
    batch_size: Annotated[int, typer.Option(help="Crops in each step.")] = RECIPE.batch_size,
    scale: Annotated[
        int, typer.Option(help="Size at which the backbone sees a crop over the network's: 1 or 2.")
    ] = RECIPE.scale,
    seed: Seed = RECIPE.seed,
    device: Device = "auto",
) -> None:
    """Distil a backbone into a patch description network: a teacher for efficientad.

    Example: python -m admodels distill --images photos --images textures --minutes 120 --out teacher.safetensors
    """
    given = tuple(part.strip() for part in layers.split(","))
    if not all(part.isdigit() for part in given):
        raise admodels.OptionError(f"--layers is {layers!r}; expected positions with commas between, such as 0,1,2.")
    recipe = Recipe(backbone, tuple(map(int, given)), size, minutes, batch_size, seed=seed, scale=scale)
    found = [path for folder in images for path in normal_images(folder)]
    console.print(f"{len(found)} pictures.")

    def told(line: Logged) -> None:
        console.print(
            f"step {line.step}, {line.seconds / 60:.1f} min, loss {line.loss:.4f}, held out {line.held_out_loss:.4f}"
        )

    run_distillation(found, out, recipe, device=device, on_log=told)
    console.print(f"Written to {out}. Use it with --option teacher={out}")


@app.command("list")
def list_command() -> None:
    """List the saved models."""
    table = Table("model", "method", "learned", "held out", "threshold", "MiB", "saved")
    for info in store.list_models():
        table.add_row(
            info.reference,
            info.title,
            str(info.n_learned),
            str(info.n_held_out),
            f"{info.threshold:.4g}",
            f"{info.size_mib:.1f}",
            info.saved_at,
        )
    console.print(table)


@app.command()
def show(ref: Annotated[str, typer.Argument(help="A saved model, such as local:bolts.")]) -> None:
    """Print a saved model's configuration, threshold and held-out scores as JSON."""
    config = store.show(ref)
    plain = {k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for k, v in config.items()}
    plain["calibration"] |= {"threshold": config["calibration"].threshold, "statement": config["calibration"].statement}
    print(json.dumps(plain, indent=2))


@app.command()
def threshold(
    ref: Annotated[str, typer.Argument(help="A saved model, such as local:bolts.")],
    rate: Annotated[float | None, typer.Option(help="Fraction of good pictures that may alarm.")] = None,
    value: Annotated[float | None, typer.Option(help="A raw score, set by hand.")] = None,
) -> None:
    """Move a saved model's threshold without a new fit; its scores stay as they are.

    Example: python -m admodels threshold local:bolts --rate 0.05
    """
    detector = store.load(ref, device="cpu").with_threshold(false_alarm_rate=rate, threshold=value)
    store.save(detector, ref, overwrite=True)
    console.print(f"Threshold {detector.calibration_.threshold:.4g}. {detector.calibration_.statement}")


@app.command()
def delete(ref: Annotated[str, typer.Argument(help="A saved model, such as local:bolts.")]) -> None:
    """Delete a saved model."""
    store.delete(ref)
    console.print(f"Deleted {ref}.")


@app.command()
def options(method: Method) -> None:
    """List a method's options with their defaults."""
    table = Table("option", "default", "what it does")
    config = admodels.create(method, device="cpu").config
    for field in dataclasses.fields(config):
        choices = field.metadata["choices"]
        text = field.metadata["help"] + (f" ({', '.join(map(str, choices))})" if choices else "")
        table.add_row(field.name, str(getattr(config, field.name)), text)
    console.print(table)


def _evaluate_all(
    method: str,
    option: list[str] | None,
    device: str,
    root: Path,
    out: Path,
    reference: str | None,
    asked: dict[str, Any],
) -> dict[str, Any]:
    def told(name: str, result: dict[str, Any], was_there: bool) -> None:
        note = "measured before" if was_there else f"{result['fit_seconds']:.1f} s to fit"
        console.print(f"{name}: image AUROC {result['image_auroc'] or float('nan'):.4f}, {note}")

    with Bar() as on_progress:
        results = run_sweep(
            lambda: create(method, option, device),
            find_datasets(root),
            out,
            **asked,
            on_category=told,
            on_progress=on_progress,
        )
    header, *rows = table_rows(results, reference)
    table = Table(*header, title=f"{method}, percent, 95 % bootstrap interval in brackets")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    measured_on = describe_device(resolve_device(device))
    write_report(out / "report.html", results, f"Measured on {measured_on}", reference)
    console.print(f"Written to {out / 'report.html'}.")
    return results


def main() -> None:
    """Run the command line; what a user can act on is printed as one message, without a traceback."""
    keep_freed_memory()
    try:
        app()
    except admodels.AdmodelsError as error:
        # Escaped, since a file name may look like markup.
        errors.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()

"""The commands `fit` and `predict`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

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
    opened,
    pictures,
    say,
    warn,
    write_json,
)
from admodels.core.drift import drift_of
from admodels.core.results import size_text
from admodels.evaluation.datasets import normal_images, notes_on
from admodels.files import OwnStems
from admodels.pictures.images import ZipPicture, inspect_set, picture_name


def fit(
    method: Method,
    data: Annotated[Path, typer.Argument(help="Folder of good pictures, or one with train/good in it.")],
    save: Annotated[str, typer.Option(help="Name to save the model under.")],
    option: Options = None,
    seed: Seed = 0,
    false_alarm_rate: Annotated[
        float, typer.Option(help="Fraction of good pictures that may raise a false alarm.")
    ] = 0.01,
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
        f"Learned from {report.n_learned} pictures, {report.n_held_out} held out"
        f"{' and then learned' if report.n_learned_later else ''}, "
        f"{report.n_duplicates} exact cop{'y' if report.n_duplicates == 1 else 'ies'} included; "
        f"{report.seconds:.1f} s, {report.images_per_second:.1f} pictures/s, model {size_text(detector.model_mib)}, "
        f"peak memory {size_text(report.peak_memory_mib)}."
    )
    note(notice for notice in report.notices if notice not in images.notices)
    for label, value in detector.details().items():
        say(f"{label}: {value}")
    say(f"Threshold {calibration.threshold:.4g}. {calibration.statement}")
    say(f"Saved as local:{name}")


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
    detector = opened(ref, device)
    broken = inspect_set(given).errors
    if broken:
        raise admodels.ImageSetError(broken, len(given))
    rows: list[dict[str, Any]] = []
    backgrounds: list[float] = []
    try:
        _predict_all(detector, given, out, rows, backgrounds)
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
    drift = drift_of(detector.calibration_, [row["score"] for row in rows], backgrounds)
    if drift is not None and drift.is_drift:
        warn(f"{drift.statement} If these parts are good, add some of these pictures to the model (Detector.update).")


def _predict_all(
    detector: admodels.Detector,
    images: Sequence[Path | ZipPicture],
    out: Path | None,
    rows: list[dict[str, Any]],
    backgrounds: list[float],
) -> None:
    """Score pictures, a few at a time; maps and masks are written to `out`.

    Args:
        rows, backgrounds: what is said of each picture, and its background, are added to these.
    """
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
        backgrounds.append(prediction.background)


def _names_in(folder: Path, images: Sequence[Path | ZipPicture]) -> list[str]:
    """The names of those pictures that lie in this folder: no result may take their place."""
    here = folder.resolve()
    return [image.name for image in images if isinstance(image, Path) and image.resolve().parent == here]

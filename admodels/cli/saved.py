"""The commands about saved models, `list`, `show`, `threshold` and `delete`, and `options`."""

import dataclasses
import json
from typing import Annotated

import typer

import admodels
from admodels.cli.terminal import (
    Method,
    Rows,
    say,
    warn,
)


def list_command() -> None:
    """List the saved models."""
    table = Rows("model", "method", "learned", "held out", "threshold", "MiB", "saved (UTC)")
    found, unreadable = admodels.LOCAL.look()
    for info in found:
        table.add_row(
            info.reference,
            info.title,
            str(info.n_learned),
            str(info.n_held_out),
            f"{info.threshold:.4g}",
            f"{info.size_mib:.3g}",
            info.saved_at[:16].replace("T", " "),
        )
    say(table)
    for folder in unreadable:
        warn(f"{folder.name} cannot be read: {folder.reason}")


def show(ref: Annotated[str, typer.Argument(help="A saved model, such as local:bolts.")]) -> None:
    """Print a saved model's configuration, threshold and held-out scores as JSON."""
    config = admodels.LOCAL.show(ref)
    plain = {k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for k, v in config.items()}
    plain["calibration"] |= {"threshold": config["calibration"].threshold, "statement": config["calibration"].statement}
    print(json.dumps(plain, indent=2))


def threshold(
    ref: Annotated[str, typer.Argument(help="A saved model, such as local:bolts.")],
    rate: Annotated[float | None, typer.Option(help="Fraction of good pictures that may raise a false alarm.")] = None,
    value: Annotated[float | None, typer.Option(help="A raw score, set by hand.")] = None,
) -> None:
    """Change a saved model's threshold without a new fit; its scores stay the same.

    Example: python -m admodels threshold local:bolts --rate 0.05
    """
    detector = admodels.load(ref, device="cpu").with_threshold(false_alarm_rate=rate, threshold=value)
    admodels.save(detector, ref, overwrite=True)
    say(f"Threshold {detector.calibration_.threshold:.4g}. {detector.calibration_.statement}")


def delete(ref: Annotated[str, typer.Argument(help="A saved model, such as local:bolts.")]) -> None:
    """Delete a saved model."""
    admodels.delete(ref)
    say(f"Deleted {ref}.")


def options(method: Method) -> None:
    """List a method's options with their defaults."""
    table = Rows("option", "default", "what it does")
    config = admodels.create(method, device="cpu").config
    for field in dataclasses.fields(config):
        choices = field.metadata["choices"]
        text = field.metadata["help"] + (f" ({', '.join(map(str, choices))})" if choices else "")
        table.add_row(field.name, str(getattr(config, field.name)), text)
    say(table)

"""The commands `push`, `pull`, `search` and `verify`."""

from pathlib import Path
from typing import Annotated

import typer

import admodels
from admodels.cli.deploy import Assets, verify_file
from admodels.cli.terminal import Device, JsonFile, Rows, check_outputs, note, say, warn, write_json
from admodels.models.references import PREFIX, parse_reference

HubReference = Annotated[str, typer.Argument(help="owner/name, or hf-hub:owner/name@revision.")]


def push(
    ref: Annotated[str, typer.Argument(help="A saved model, such as local:bolts.")],
    repo_id: Annotated[str, typer.Argument(help="Repository, owner/name; created if missing.")],
    private: Annotated[bool, typer.Option(help="Only matters if the repository is created now.")] = True,
    category: Annotated[str, typer.Option(help='What it was fitted on, such as "hex nut".')] = "",
    licence: Annotated[str, typer.Option(help="Licence of the model, by its name on the Hub.")] = "other",
    data_terms: Annotated[str, typer.Option(help="Terms of use of the training pictures, for the card.")] = "",
    dataset: Annotated[str, typer.Option(help="Data set on the Hub that holds those pictures, owner/name.")] = "",
    preview: Annotated[
        Path | None, typer.Option(help="A picture that may be published, with its heatmap and without.")
    ] = None,
    overwrite_card: Annotated[
        bool, typer.Option("--overwrite-card", help="Replace a model card that somebody wrote or edited there.")
    ] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also push it as onnx/model.onnx, for other programs.")] = False,
) -> None:
    """Push a saved model to the Hugging Face Hub; the pictures it learned from stay here.

    Log in first with `hf auth login`, or set HF_TOKEN.

    Example: python -m admodels push local:bolts me/bolts --category "hex bolt" --licence mit
    """
    about = {"category": category, "licence": licence, "data_terms": data_terms, "dataset": dataset}
    asked = {"private": private, "preview": preview, "overwrite_card": overwrite_card, "onnx": onnx}
    done = admodels.push(ref, repo_id, **asked, **about)
    say(f"Pushed to {done.url} ({'private' if done.is_private else 'public'}).")
    note(done.notices)
    if done.kept_card:
        warn(
            "somebody wrote or edited the model card there, so it was kept. It may describe an earlier model, and "
            "without the tag admodels no search finds this one. Edit it, or push again with --overwrite-card."
        )
    say(f"Get it with: python -m admodels pull {done.reference}")


def pull(
    ref: HubReference,
    save: Annotated[str | None, typer.Option(help="Also save it here under this name.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing model.")] = False,
    device: Device = "auto",
) -> None:
    """Get a model from the Hub, check it, and score its stored picture again.

    Example: python -m admodels pull me/bolts --save bolts
    """
    if save is not None:
        admodels.LOCAL.check_name(save, overwrite=overwrite)
    pulled = admodels.pull_verified(ref, device=device)
    if save is not None:
        admodels.save(pulled.detector, save, overwrite=overwrite)
    if (asked := parse_reference(ref)).repo_id != pulled.reference.repo_id:
        note([f"{asked.repo_id} is called {pulled.reference.repo_id} now."])
    say(f"{pulled.reference}: {pulled.detector.title}")
    say(pulled.verification.statement)
    if save is not None:
        say(f"Saved as local:{save.removeprefix('local:')}")


def search(
    text: Annotated[str, typer.Argument(help="Part of a name.")] = "",
    owner: Annotated[str, typer.Option(help="Only this owner's.")] = "",
    json_file: JsonFile = None,
) -> None:
    """List models of this library on the Hub, the most downloaded first.

    Example: python -m admodels search bolts --owner me
    """
    check_outputs(json_file=json_file)
    found = admodels.search(text, owner=owner)
    write_json(json_file, [model.as_dict() for model in found])
    table = Rows("model", "category", "method", "image AUROC", "FPS", "MiB", "licence", "downloads", "updated")
    for model in found:
        figures = (model.image_auroc, model.predict_fps, model.size_mib)
        shown = ("–" if value is None else f"{value:.4g}" for value in figures)
        more = (model.licence or "–", str(model.downloads), model.updated)
        table.add_row(model.reference.repo_id, model.category, model.method, *shown, *more)
    say(table)


def verify(
    ref: Annotated[str, typer.Argument(help="owner/name, hf-hub:owner/name@revision, or an exported file.")],
    device: Device = "auto",
    assets: Assets = None,
) -> None:
    """Check that a model scores here as it did where it was pushed or exported; exit status 1 if not.

    Example: python -m admodels verify me/bolts
    Example: python -m admodels verify bolts.onnx
    """
    if Path(ref).is_file() or (ref.endswith(".onnx") and not ref.startswith(PREFIX)):
        if device != "auto":
            raise admodels.OptionError(f"--device is {device}; exported files are scored on the CPU. Leave it out.")
        verify_file(Path(ref), assets)
        return
    if assets is not None:
        raise admodels.OptionError(f"--assets is for exported files, and {ref} is no file. Leave it out.")
    found = admodels.verify(ref, device=device)
    say(found.statement)
    if not found.is_close:
        raise typer.Exit(1)

"""The commands `push`, `pull`, `search` and `verify`."""

from pathlib import Path
from typing import Annotated

import typer

import admodels
from admodels.cli.terminal import Device, JsonFile, Rows, check_outputs, say, warn, write_json

HubReference = Annotated[str, typer.Argument(help="owner/name, or hf-hub:owner/name@revision.")]


def push(
    ref: Annotated[str, typer.Argument(help="A saved model, such as local:bolts.")],
    repo_id: Annotated[str, typer.Argument(help="Where to, owner/name; made where it is not there.")],
    private: Annotated[bool, typer.Option(help="Only for a repository that is made now.")] = True,
    category: Annotated[str, typer.Option(help='What it was fitted on, such as "hex nut".')] = "",
    licence: Annotated[str, typer.Option(help="Of the model, as the Hub names licences.")] = "other",
    data_terms: Annotated[str, typer.Option(help="Terms of the pictures it learned from, for the card.")] = "",
    dataset: Annotated[str, typer.Option(help="Where those pictures are on the Hub, owner/name.")] = "",
    preview: Annotated[
        Path | None, typer.Option(help="A picture that may be published, shown with its heatmap.")
    ] = None,
    overwrite_card: Annotated[
        bool, typer.Option("--overwrite-card", help="Replace a model card that somebody wrote or edited there.")
    ] = False,
) -> None:
    """Give a saved model to the Hugging Face Hub; the pictures it learned from stay here.

    Log in before with `hf auth login`, or set HF_TOKEN.

    Example: python -m admodels push local:bolts me/bolts --category "hex bolt" --licence mit
    """
    about = {"category": category, "licence": licence, "data_terms": data_terms, "dataset": dataset}
    done = admodels.push(ref, repo_id, private=private, preview=preview, overwrite_card=overwrite_card, **about)
    say(f"Pushed to {done.url} ({'private' if done.is_private else 'public'}).")
    if done.kept_card:
        warn(
            "the model card there was written or edited by somebody, and was kept. It may describe an earlier model, "
            "and without the tag admodels no search finds this one: edit it, or push again with --overwrite-card."
        )
    say(f"Get it with: python -m admodels pull {done.reference}")


def pull(
    ref: HubReference,
    save: Annotated[str | None, typer.Option(help="Also save it here under this name.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a model of that name.")] = False,
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


def verify(ref: HubReference, device: Device = "auto") -> None:
    """Say whether a model on the Hub scores here as it did where it was pushed; the exit status is 1 where not.

    Example: python -m admodels verify me/bolts
    """
    found = admodels.verify(ref, device=device)
    say(found.statement)
    if not found.is_close:
        raise typer.Exit(1)

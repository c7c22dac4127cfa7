"""The command `publish`: every category of a data set as a model on the Hub, and a collection of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import admodels
from admodels.cli.terminal import (
    METHODS,
    Bar,
    Device,
    JsonFile,
    Options,
    Rows,
    check_outputs,
    complain,
    key_values,
    note,
    say,
    warn,
    write_json,
)
from admodels.evaluation.datasets import left_out, passed_over
from admodels.models.catalogue import Catalogue, Outcome, Row
from admodels.models.hub_errors import may_pass

N_COMMIT = 8  # characters of a commit's name


def publish(
    root: Annotated[Path, typer.Argument(help="A data set: a folder of categories, or one category.")],
    owner: Annotated[str, typer.Option(help="User or organisation on the Hub.")],
    method: Annotated[str, typer.Option(help=f"One of: {METHODS}.")] = "fapm",
    option: Options = None,
    private: Annotated[
        bool, typer.Option(help="Only matters for repositories and a collection that are created now.")
    ] = True,
    licence: Annotated[str, typer.Option(help="Licence of the models, by its name on the Hub.")] = "other",
    data_terms: Annotated[str, typer.Option(help="Terms of use of the training pictures, for the cards.")] = "",
    dataset: Annotated[str, typer.Option(help="Data set on the Hub that holds those pictures, owner/name.")] = "",
    collection: Annotated[str, typer.Option(help="Title of the collection. Default: the folder and the method.")] = "",
    with_picture: Annotated[
        bool,
        typer.Option(
            "--with-picture",
            help="Publish a defective test picture of each category, with its heatmap and without.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; fit and push nothing.")] = False,
    json_file: JsonFile = None,
    device: Device = "auto",
) -> None:
    """Fit, evaluate and push a model of every category of a data set, and put them into a collection on the Hub.

    A category goes to a repository of its own, OWNER/CATEGORY-METHOD. One that holds a model of the same method,
    options and good pictures already is passed over, so a run that was stopped can be started again. A category
    without test pictures is pushed without accuracy. If one fails, the others go on; the exit status is 1 then.

    Log in first with `hf auth login`, or set HF_TOKEN.

    Example: python -m admodels publish mvtec --owner me --licence cc-by-nc-sa-4.0 --dry-run
    """
    check_outputs(json_file=json_file)
    about = {"licence": licence, "data_terms": data_terms, "dataset": dataset, "title": collection}
    chosen = {"options": key_values(option), "device": device, "private": private, "with_picture": with_picture}
    found = admodels.catalogue(root, owner, method, **chosen, **about, on_wait=_say_waiting)
    datasets = {entry.name: entry.data for entry in found.entries}
    note(f"{root / name} has no good pictures that are known as such; skipped." for name in passed_over(root, datasets))
    note(line for data in datasets.values() for line in left_out(data.test, data.train))
    if dry_run:
        _say_plan(found, json_file)
        return
    rows: list[Row] = []

    def told(row: Row) -> None:
        rows.append(row)
        write_json(json_file, [row.as_dict() for row in rows])
        say(f"{row.name}: {_told(row)}")

    with Bar() as on_progress:
        done = found.publish(on_row=told, on_progress=on_progress)
    say(_table(done.rows, method))
    if done.collection:
        say(f"Collection: {done.collection}")
    for row in done.rows:
        if row.said:
            said = f"{row.name}: {row.said.rstrip('.')}."
            complain(said) if row.outcome is Outcome.FAILED else warn(said)
    if done.collection_fault:
        complain(f"the collection lacks models: {done.collection_fault}")
    if not done.is_complete:
        say("Run the same command again for what is missing; what is there is passed over.")
        raise typer.Exit(1)


def _say_plan(found: Catalogue, json_file: Path | None) -> None:
    """What would be done with every category; exit status 1 where one could not be published."""
    table = Rows("category", "repository", "good", "test", "what would be done", title=f"{found.key}, nothing done yet")
    plan, faults = [], []
    try:
        admodels.HUB.check_may_write()
    except admodels.HubError as error:
        if may_pass(error):
            raise
        warn(f"{error} Without it nothing can be pushed, and private repositories are not seen.")
    for entry in found.entries:
        try:
            there = found.look(entry)
        except admodels.AdmodelsError as error:
            if isinstance(error, admodels.HubError) and may_pass(error):
                raise  # the Hub itself cannot be asked: of no category can anything be said
            faults.append(f"{entry.name}: {error}")
            said, is_same = "could not be published", None
        else:
            measured = "fit, evaluate and push" if entry.data.test else "fit and push, without accuracy"
            said, is_same = there.said if there.is_same else f"{measured}; {there.said}", there.is_same
        test = f"{len(entry.data.test)}, {entry.n_defective} defective" if entry.data.test else "none"
        table.add_row(entry.name, entry.repo_id, str(len(entry.data.train)), test, said)
        row = {"name": entry.name, "repo_id": entry.repo_id, "n_train": len(entry.data.train)}
        plan.append(row | {"n_test": len(entry.data.test), "is_there": is_same, "said": said})
    write_json(json_file, plan)
    say(table)
    private = "private" if found.private else "public"
    say(f"Collection: {found.title}, of {found.owner}; what is created now is {private}.")
    for fault in faults:
        complain(fault)
    if faults:
        raise typer.Exit(1)


def _table(rows: Sequence[Row], method: str) -> Rows:
    columns = ("category", "repository", "image AUROC", "threshold", "fit s", "FPS", "commit", "")
    table = Rows(*columns, title=f"{method} on {len(rows)} {'category' if len(rows) == 1 else 'categories'}")
    for row in rows:
        auroc = "–" if row.image_auroc is None else f"{row.image_auroc:.4f}"
        if row.image_auroc is not None and row.n_test is not None:
            auroc += f", {row.n_test} pictures"
        threshold = "–" if row.threshold is None else f"{row.threshold:.4g}. {row.threshold_statement}"
        speeds = ("–" if value is None else f"{value:.1f}" for value in (row.fit_seconds, row.predict_fps))
        commit = row.reference.revision[:N_COMMIT] if row.reference is not None else "–"
        table.add_row(row.name, row.repo_id, auroc, threshold, *speeds, commit, str(row.outcome))
    return table


def _told(row: Row) -> str:
    """One line at once, since the next category may take minutes."""
    if row.outcome is Outcome.FAILED:
        return f"failed: {row.said}"
    auroc = "not measured" if row.image_auroc is None else f"image AUROC {row.image_auroc:.4f}"
    return f"{row.outcome}, {auroc}, {row.reference}"


def _say_waiting(seconds: float, error: admodels.HubError) -> None:
    note([f"{error} Trying again in {seconds:.0f} s."])

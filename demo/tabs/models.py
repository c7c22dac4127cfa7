"""The Models tab: keep models under names on this machine."""

import dataclasses
import itertools
import math
import shutil
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from admodels import Exported, ExportError, NotFittedError, OutputError, StoreError
from admodels.deploy import build_page, missing_packages, write_onnx
from admodels.models import LOCAL_PREFIX
from demo.errors import shown_errors
from demo.state import held, opening
from demo.state.current import Current
from demo.state.server import is_shared
from demo.state.session import Session
from demo.state.sessions import SESSIONS
from demo.tabs import marks, question
from demo.view import marks as said_of_marks
from demo.view import text
from demo.view.outputs import filling


def save_model(name: str, replace: bool, request: gr.Request) -> dict[str, Any]:
    """Save the current model, with its threshold and the pictures marked as defects.

    Args:
        name: letters, digits, dashes, underscores and inner dots.
        replace: whether to replace an existing model of that name.
    """
    session, store = SESSIONS.of(request), SESSIONS.of(request).store()
    with shown_errors():
        current = session.current
        if current is None:
            raise NotFittedError("there is no model to save yet. Train one in the Train tab first.")
        defects = marks.known_defects(session, current)
        held.check_disk(math.ceil(current.detector.model_mib * 2**20))
        saved = store.save(current.detector, name, overwrite=replace, defects=defects).name
        session.learned[store.identity(saved)] = current.learned  # the file does not say it
    session.replace(current, current.saved(saved))  # unless its threshold was moved meanwhile: that one is not saved
    session.keep_marks([defect.digest for defect in defects])
    SESSIONS.saved_again(store, saved, None, but=session)
    gr.Info(f"Saved as {saved}{said_of_marks.with_marked(len(defects))}.")
    return _listing(session)


def load_model(name: str, request: gr.Request) -> dict[str, Any]:
    """Load a saved model; Inspect uses it from now on, and the defects kept with it are marked again.

    Args:
        name: of a saved model.
    """
    session = SESSIONS.of(request)
    return _loaded(session, opening.use(session, LOCAL_PREFIX + _bare(name or "")))


def load_or_ask(name: str, request: gr.Request) -> dict[str, Any]:
    """Load a saved model; ask first where the current one would be lost."""
    session = SESSIONS.of(request)
    with shown_errors():  # nothing is asked about a model that is not there
        session.store().show(name)
    return _loaded(session, question.open_or_ask(session, LOCAL_PREFIX + _bare(name), _bare(name)))


def _loaded(session: Session, current: Current | None) -> dict[str, Any]:
    if current is not None:
        gr.Info(f"Loaded {current.label}.")
    return _listing(session)


def list_models(request: gr.Request) -> list[dict]:
    """The saved models: name, method, pictures learned and held out, threshold, size, time saved."""
    return [dataclasses.asdict(info) for info in SESSIONS.of(request).store().list_models()]


def delete_model(name: str, request: gr.Request) -> dict[str, Any]:
    """Delete a saved model from this machine; visitors who use it keep it, and can save it again.

    Args:
        name: of a saved model.
    """
    session, store = SESSIONS.of(request), SESSIONS.of(request).store()
    with shown_errors():
        store.delete(name)
    SESSIONS.saved_again(store, _bare(name), None)
    gr.Info(f"Deleted {name}.")
    return _listing(session)


def ask_to_delete(name: str) -> dict[str, Any]:
    """Name what would be deleted, on the button that does it: whatever is selected by then, it deletes this one."""
    button = gr.Button(f"Delete “{_bare(name or '')}” permanently")
    return {"confirm": gr.update(visible=True), "really": button, "asked": name}


def rename_model(name: str, new_name: str, request: gr.Request) -> dict[str, Any]:
    """Rename a saved model.

    Args:
        name: of a saved model.
        new_name: letters, digits, dashes, underscores and inner dots.
    """
    session, store = SESSIONS.of(request), SESSIONS.of(request).store()
    with shown_errors():
        store.rename(name, new_name)
    SESSIONS.saved_again(store, _bare(name), _bare(new_name))
    return _listing(session, _bare(new_name))


def download_model(name: str, request: gr.Request) -> str:
    """A saved model as one zip file.

    Args:
        name: of a saved model.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        return str(session.store().export_zip(name, session.download_folder()))


def export_onnx(name: str, request: gr.Request) -> str:
    """A saved model as one ONNX file, which scores alike in every runtime, without PyTorch and without this program.

    Args:
        name: of a saved model.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        done = _exported(name, session, session.download_folder() / f"{_bare(name)}.onnx")
    for notice in done.notices:
        gr.Info(notice)
    return str(done.path)


def export_page(name: str, request: gr.Request) -> str:
    """A saved model as a page without a server, zipped: static files that inspect pictures in the visitor's browser.

    Args:
        name: of a saved model.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        folder = session.download_folder()
        exported = _exported(name, session, folder / "exported" / "model.onnx")
        try:
            page = build_page(exported.path, folder / "page" / _bare(name))
        except ExportError:  # without npm or a network here, the page loads its runtime itself, once
            page = build_page(exported.path, folder / "page" / _bare(name), use_cdn=True)
        try:
            archive = shutil.make_archive(str(folder / f"{_bare(name)}-page"), "zip", folder / "page", _bare(name))
        except OSError as error:
            raise OutputError(f"the page could not be zipped ({error}). Free space, or try again.") from error
    for notice in (*exported.notices, *page.notices):
        gr.Info(notice)
    return archive


def _exported(name: str, session: Session, path: Path) -> Exported:
    return write_onnx(SESSIONS.saved(name, session).detector, path, source=f"{LOCAL_PREFIX}{_bare(name)}")


def upload_model(archive: str | None, name: str, request: gr.Request) -> dict[str, Any]:
    """Add a model from a zip that was downloaded here; everything in it is checked first.

    Args:
        archive: the zip.
        name: what to save it under.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        if not archive:
            raise StoreError("No zip selected. Choose one downloaded from a Models tab.")
        held.check_disk(Path(archive).stat().st_size)
        session.store().import_zip(archive, name)
    gr.Info(f"Added {name}.")
    return _listing(session)


def propose_name(request: gr.Request) -> dict[str, Any]:
    """A name for the current model: the one that it is saved under, else one of its method and the day."""
    session = SESSIONS.of(request)
    with shown_errors():
        current = session.in_use()
    if current.saved_as:
        return {"name": current.saved_as, "replace": True}
    base = f"{current.detector.key}-{date.today()}"
    taken = {info.name for info in session.store().list_models()}
    numbered = (base if n == 1 else f"{base}-{n}" for n in itertools.count(1))
    return {"name": next(name for name in numbered if name not in taken), "replace": False}


def refresh(selected: str, request: gr.Request) -> dict[str, Any]:
    """The list as it is now on disk; what is selected stays so."""
    return _listing(SESSIONS.of(request), selected)


class Tab(NamedTuple):
    """What the composition of the tabs needs of this one.

    Attributes:
        selected: what `refresh` takes.
        shown: what it fills.
        changes: events that change the model in use.
        names: events that change its name, or whether it is saved.
        save_as: what `propose_name` fills.
    """

    selected: Component
    shown: dict[str, Component]
    changes: list[Dependency]
    names: list[Dependency]
    save_as: dict[str, Component]


def build() -> Tab:
    """Lay out the tab."""
    where = (
        "are yours alone and are deleted when you leave: download or push what you want to keep"
        if is_shared()
        else ("stay on this machine, one folder each")
    )
    gr.Markdown(f"Models {where}. A loaded model gives exactly the same scores as before.")
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            gr.Markdown("#### Save the current model")
            with gr.Row():
                new_name = gr.Textbox(label="Name", placeholder="for example bolts-line-2", max_lines=1, scale=3)
                save_button = gr.Button("Save", variant="primary", scale=1, min_width=90)
            replace = gr.Checkbox(False, label="Replace an existing model")
            gr.Markdown("#### Saved models")
            cards = gr.HTML(text.models([], ""))
        with gr.Column(scale=1, min_width=320):
            gr.Markdown("#### Selected model")
            chosen = gr.Dropdown([], label="Model", interactive=True, allow_custom_value=True)
            with gr.Row():
                load_button = gr.Button("Load", variant="primary", min_width=90)
                download_button = gr.Button("Download", min_width=90)
                delete_button = gr.Button("Delete…", min_width=90)
            with gr.Row(visible=not (is_shared() and missing_packages())):
                onnx_button = gr.Button("ONNX for production", min_width=150)
                page_button = gr.Button("Page without a server", min_width=150)
            with gr.Row(visible=False) as confirm:
                really_button = gr.Button("Delete permanently", variant="stop", min_width=90)
                keep_button = gr.Button("Keep it", min_width=90)
            with gr.Row():
                other_name = gr.Textbox(label="New name", max_lines=1, scale=3)
                rename_button = gr.Button("Rename", scale=1, min_width=90)
            gr.Markdown("#### Add a model from a zip")
            archive = gr.File(label="Zip downloaded from a Models tab", file_types=[".zip"], height=150)
            with gr.Row():
                archive_name = gr.Textbox(label="Name", max_lines=1, scale=3)
                upload_button = gr.Button("Add", scale=1, min_width=90)
    prepared = gr.DownloadButton(visible="hidden", elem_id="prepared-download")
    listing = gr.JSON(visible=False)
    shown = {"cards": cards, "chosen": chosen}
    private = {"api_visibility": "private"}
    saved = save_button.click(**filling(save_model, shown), inputs=[new_name, replace], api_name="save_model")
    gr.on([], **filling(load_model, shown), inputs=chosen, api_name="load_model")
    loaded = load_button.click(**filling(load_or_ask, shown), inputs=chosen, **private)
    asked = gr.Textbox(label="Model", visible=False, max_lines=1)
    asks = {"confirm": confirm, "really": really_button, "asked": asked}
    delete_button.click(**filling(ask_to_delete, asks), inputs=chosen, **private)
    keep_button.click(lambda: gr.update(visible=False), None, confirm, **private)
    deleted = really_button.click(**filling(delete_model, shown), inputs=asked, api_name="delete_model")
    deleted.then(lambda: gr.update(visible=False), None, confirm, **private)
    renamed = rename_button.click(**filling(rename_model, shown), inputs=[chosen, other_name], api_name="rename_model")
    for button, prepare in (
        (download_button, download_model),
        (onnx_button, export_onnx),
        (page_button, export_page),
    ):
        button.click(prepare, chosen, prepared, api_name=prepare.__name__).success(
            None, js="() => document.querySelector('#prepared-download')?.click()", **private
        )
    upload_button.click(**filling(upload_model, shown), inputs=[archive, archive_name], api_name="upload_model")
    gr.on([], list_models, None, listing, api_name="list_models")
    return Tab(chosen, shown, [loaded, deleted], [saved, renamed], {"name": new_name, "replace": replace})


def _listing(session: Session, selected: str = "") -> dict[str, Any]:
    """What is saved.

    Args:
        selected: stays so, or is from now on; where there is no such model, the one in use is, else the first.
    """
    found, unreadable = session.store().look()
    names = [info.name for info in found]
    current = session.current
    in_use = current.saved_as if current is not None else ""
    value = next((name for name in (_bare(selected or ""), in_use, *names) if name in names), None)
    told = [text.note(f"{folder.name} cannot be read: {folder.reason}", "warning") for folder in unreadable]
    return {"cards": text.models(found, in_use) + "".join(told), "chosen": gr.Dropdown(names, value=value)}


def _bare(name: str) -> str:
    return name.removeprefix(LOCAL_PREFIX).strip()

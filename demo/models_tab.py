"""The Models tab: keep models under names on this machine."""

import dataclasses

import gradio as gr

from admodels import NotFittedError, StoreError
from demo import text
from demo.errors import shown_errors
from demo.session import SESSIONS, Session, is_shared


def save_model(name: str, replace: bool, request: gr.Request) -> tuple[str, gr.Dropdown]:
    """Save the current model, with its threshold.

    Args:
        name: letters, digits, dashes, underscores and inner dots.
        replace: take the place of a model of that name.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        if session.detector is None:
            raise NotFittedError("there is no model to save yet. Fit one in the Fit tab first.")
        session.model_label = session.store().save(session.detector, name, overwrite=replace).name
        session.threshold_moved = False
    gr.Info(f"Saved as {session.model_label}.")
    return _listing(session)


def load_model(name: str, request: gr.Request) -> tuple[str, gr.Dropdown]:
    """Load a saved model; Inspect uses it from now on.

    Args:
        name: of a saved model.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        detector, label = SESSIONS.saved(name, session)
        session.use(detector, label)
    gr.Info(f"Loaded {label}.")
    return _listing(session)


def list_models(request: gr.Request) -> list[dict]:
    """The saved models: name, method, pictures learned and held out, threshold, size, time saved."""
    return [dataclasses.asdict(info) for info in SESSIONS.of(request).store().list_models()]


def delete_model(name: str, request: gr.Request) -> tuple[str, gr.Dropdown]:
    """Delete a saved model from this machine.

    Args:
        name: of a saved model.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        session.store().delete(name)
    gr.Info(f"Deleted {name}.")
    return _listing(session)


def rename_model(name: str, new_name: str, request: gr.Request) -> tuple[str, gr.Dropdown]:
    """Give a saved model another name.

    Args:
        name: of a saved model.
        new_name: letters, digits, dashes, underscores and inner dots.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        session.store().rename(name, new_name)
    if session.model_label == name:
        session.model_label = new_name
    return _listing(session)


def download_model(name: str, request: gr.Request) -> str:
    """A saved model as one zip file.

    Args:
        name: of a saved model.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        return str(session.store().export_zip(name, session.download_folder()))


def upload_model(archive: str | None, name: str, request: gr.Request) -> tuple[str, gr.Dropdown]:
    """Take in a model that was downloaded as a zip; everything in it is checked first.

    Args:
        archive: the zip.
        name: what to save it under.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        if not archive:
            raise StoreError("no zip came. Choose a zip that was downloaded from a Models tab.")
        session.store().import_zip(archive, name)
    gr.Info(f"Added {name}.")
    return _listing(session)


def refresh(request: gr.Request) -> tuple[str, gr.Dropdown]:
    """The list as it is now on disk."""
    return _listing(SESSIONS.of(request))


def build() -> list:
    """Lay out the tab; returns the components that show the saved models, and `refresh` fills them."""
    where = (
        "are yours alone and go with your visit: download or push what you want to keep"
        if is_shared()
        else ("stay on this machine, one folder each")
    )
    gr.Markdown(f"Models {where}. A loaded model gives exactly the scores it gave before.")
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            gr.Markdown("#### Keep the current model")
            with gr.Row():
                new_name = gr.Textbox(label="Name", placeholder="for example bolts-line-2", max_lines=1, scale=3)
                save_button = gr.Button("Save", variant="primary", scale=1, min_width=90)
            replace = gr.Checkbox(False, label="Replace a model of that name")
            gr.Markdown("#### Saved models")
            cards = gr.HTML(text.models([], ""))
        with gr.Column(scale=1, min_width=320):
            gr.Markdown("#### With one of them")
            chosen = gr.Dropdown([], label="Model", interactive=True, allow_custom_value=True)
            with gr.Row():
                load_button = gr.Button("Load", variant="primary", min_width=90)
                download_button = gr.Button("Download", min_width=90)
                delete_button = gr.Button("Delete…", min_width=90)
            with gr.Row(visible=False) as confirm:
                really_button = gr.Button("Really delete", variant="stop", min_width=90)
                keep_button = gr.Button("Keep it", min_width=90)
            with gr.Row():
                other_name = gr.Textbox(label="New name", max_lines=1, scale=3)
                rename_button = gr.Button("Rename", scale=1, min_width=90)
            gr.Markdown("#### Add a model from a zip")
            archive = gr.File(label="Zip downloaded from a Models tab", file_types=[".zip"], height=150)
            with gr.Row():
                archive_name = gr.Textbox(label="Name", max_lines=1, scale=3)
                upload_button = gr.Button("Add", scale=1, min_width=90)
    prepared = gr.DownloadButton(visible="hidden", elem_id="prepared-zip")
    listing = gr.JSON(visible=False)
    shown = [cards, chosen]
    private = {"api_visibility": "private"}
    save_button.click(save_model, [new_name, replace], shown, api_name="save_model")
    load_button.click(load_model, chosen, shown, api_name="load_model")
    delete_button.click(lambda: gr.update(visible=True), None, confirm, **private)
    keep_button.click(lambda: gr.update(visible=False), None, confirm, **private)
    really_button.click(delete_model, chosen, shown, api_name="delete_model").then(
        lambda: gr.update(visible=False), None, confirm, **private
    )
    rename_button.click(rename_model, [chosen, other_name], shown, api_name="rename_model")
    download_button.click(download_model, chosen, prepared, api_name="download_model").success(
        None, js="() => document.querySelector('#prepared-zip')?.click()", **private
    )
    upload_button.click(upload_model, [archive, archive_name], shown, api_name="upload_model")
    gr.on([], list_models, None, listing, api_name="list_models")
    return shown


def _listing(session: Session) -> tuple[str, gr.Dropdown]:
    found, unreadable = session.store().look()
    names = [info.name for info in found]
    value = session.model_label if session.model_label in names else (names[0] if names else None)
    told = [text.note(f"{folder.name} cannot be read: {folder.reason}", "warning") for folder in unreadable]
    return text.models(found, session.model_label) + "".join(told), gr.Dropdown(names, value=value)

"""Compose the tabs, the theme and the header, and launch."""

import os
from importlib.util import find_spec
from pathlib import Path

import gradio as gr
from gradio.events import Dependency
from starlette.middleware import Middleware

from admodels import OptionError
from admodels.runtime import keep_freed_memory
from demo import languages
from demo.errors import close_with_next_success
from demo.sent import Page
from demo.state import scoring_api
from demo.state.held import UploadsWithin
from demo.state.limits import upload_limit
from demo.state.server import device_line, is_shared, on_space
from demo.state.sessions import SESSIONS
from demo.tabs import chip, question, webcam
from demo.tabs import evaluate as evaluate_tab
from demo.tabs import fit as fit_tab
from demo.tabs import hub as hub_tab
from demo.tabs import inspect as inspect_tab
from demo.tabs import models as models_tab
from demo.view import text
from demo.view.outputs import filling
from demo.view.theme import THEME

HOUR = 3600
STYLE, SCRIPT, FRAMES = (Path(__file__).with_name(name) for name in ("style.css", "page.js", "newest_frame.js"))


def build() -> gr.Blocks:
    """The whole app, not launched yet."""
    with Page(title="Visual anomaly detection", delete_cache=(HOUR, (4 if is_shared() else 24) * HOUR)) as demo:
        gr.HTML(header())
        opening = gr.HTML(elem_id="opening")
        head = chip.build()
        asked = question.build()
        with gr.Tabs() as tabs:
            with gr.Tab("Train", id="fit", elem_id="step-train") as training:
                fit = fit_tab.build()
            with gr.Tab("Inspect", id="inspect", elem_id="step-inspect") as inspecting:
                inspect = inspect_tab.build(head)
            with gr.Tab("Evaluate", id="evaluate", elem_id="step-evaluate") as evaluating:
                evaluated = evaluate_tab.build(head)
            with gr.Tab("Models", id="models", elem_id="step-models") as managing:
                models = models_tab.build()
            with gr.Tab("Hub", id="hub", elem_id="step-hub") as sharing:
                gallery = hub_tab.build()
        private = {"api_visibility": "private", "show_progress": "hidden"}
        listing = {**filling(models_tab.refresh, models.shown), "inputs": models.selected, **private}
        evaluation = {**filling(evaluate_tab.refresh, evaluated), **private}

        def show_model(event: Dependency) -> Dependency:
            """After what may have changed the model, or asked to: every tab shows it, and its pictures' new scores."""
            event = event.then(**filling(question.shown, asked.outputs), **private)
            event = event.then(**inspect.refresh).then(**listing).then(**evaluation)
            return event.then(**inspect.score_again)

        # Charts that were drawn while their tab was hidden have no width yet.
        for tab in (training, inspecting, evaluating):
            tab.select(None, js="() => { setTimeout(() => window.dispatchEvent(new Event('resize')), 50) }", **private)
        inspecting.select(**inspect.refresh).then(**inspect.score_again)
        evaluating.select(**evaluation)
        managing.select(**listing)
        for event in (*models.names, gallery.pushed):
            event.then(**filling(chip.refresh, head.outputs), **private)
        saving = head.save.click(lambda: gr.Tabs(selected="models"), None, tabs, **private)
        saving.then(**filling(models_tab.propose_name, models.save_as), **private)
        # Kept by the browser, unreadable for others: a refreshed page finds what its visitor had.
        visitor = gr.BrowserState("", storage_key="visual-anomaly-detection")
        arrived = demo.load(SESSIONS.arrive, visitor, visitor, **private)
        arrived.then(hub_tab.take_oauth if on_space() else hub_tab.say_login, None, gallery.login, **private)
        linked = arrived.then(hub_tab.say_linked, None, opening, **private)
        linked = linked.then(
            **filling(hub_tab.open_linked, {**gallery.pulled, "tabs": tabs}),
            api_visibility="private",
            concurrency_limit=None,  # those that wait only look on, as for a fit
            show_progress_on=opening,
        )
        show_model(linked.then(lambda: "", None, opening, **private))
        for step in fit.come_back:
            arrived = arrived.then(**step)
        for event in (arrived, *fit.fitted, *asked.answered, *models.changes, *inspect.changes):
            show_model(event)
        look = {"fn": lambda: gr.Tabs(selected="inspect"), "inputs": None, "outputs": tabs}
        for name, event in fit.tried.items():
            event.success(**look, **private)
            show_model(event).then(**inspect.tries, inputs=[gr.State(name), *inspect.look])
        live_tabs = [tabs, inspect.sources]
        opened = fit.live.click(
            lambda: (gr.Tabs(selected="inspect"), gr.Tabs(selected="live")), None, live_tabs, **private
        )
        opened.success(None, js=webcam.start("live-camera"), **private)
        gallery.shown(sharing.select(**gallery.list_saved, **private).then(**gallery.find, **private))
        show_model(gallery.tried.success(hub_tab.look_at_tried, None, tabs, **private))
        compares = filling(hub_tab.compare, inspect.compares)
        compared = gallery.compare.click(**compares, inputs=gallery.chosen, **private).success(**look, **private)
        # It is the last thing in its tab.
        show = "() => setTimeout(() => document.querySelector('#compared')?.scrollIntoView({block: 'center'}), 200)"
        compared.success(None, js=show, **private)
        demo.unload(SESSIONS.close)
        close_with_next_success(demo)
    return demo


def header() -> str:
    """The page's head; on a Space that visitors share it says how to have one to oneself."""
    space = os.environ["SPACE_ID"] if on_space() and is_shared() else ""
    return text.head(device_line(), f"https://huggingface.co/spaces/{space}?duplicate=true" if space else "")


def _wants_mcp() -> bool:
    """Whether the endpoints are tools of the Model Context Protocol too: `ADMODELS_MCP=1`.

    Raises:
        OptionError: on a shared server, or where the package is missing.
    """
    if os.environ.get("ADMODELS_MCP", "") in ("", "0"):
        return False
    if is_shared():  # Gradio gives all of them one session
        raise OptionError(
            "ADMODELS_MCP is set on a server that visitors share, and all callers of that protocol would see each "
            "other's pictures and models. Leave it out here; use it on a machine of your own."
        )
    if find_spec("mcp") is None:
        raise OptionError("ADMODELS_MCP is set, but the package mcp is missing: pip install 'gradio[mcp]>=6.31,<7'")
    return True


def launch(demo: gr.Blocks, **overrides: object) -> object:
    """Serve the app; `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT` are honoured by Gradio itself.

    Args:
        overrides: passed on to `gr.Blocks.launch`, for tests.
    """
    settings = {
        "theme": THEME,
        "css": STYLE.read_text(encoding="utf-8"),
        "js": SCRIPT.read_text(encoding="utf-8"),
        "head": f"<script>{FRAMES.read_text(encoding='utf-8')}</script>",
        "max_file_size": upload_limit(),
        "ssr_mode": False,
        "footer_links": ["api", "gradio", "settings"],
        "mcp_server": _wants_mcp(),
        "i18n": languages.translations(),
        "app_kwargs": {"middleware": [Middleware(UploadsWithin)], "routes": scoring_api.routes()},
    }
    keep_freed_memory()
    # Not open to what passes by the queue: such calls name no session, or whose they like, and wait for nobody.
    return demo.queue(default_concurrency_limit=4, max_size=64, api_open=False).launch(**(settings | overrides))

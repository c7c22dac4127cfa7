"""Compose the tabs, the theme and the header, and launch."""

import os
from html import escape
from importlib.util import find_spec

import gradio as gr
from gradio.events import Dependency

from admodels import OptionError
from admodels.runtime import keep_freed_memory
from demo import api
from demo.errors import close_with_next_success
from demo.sent import Page
from demo.state.limits import upload_limit
from demo.state.session import SESSIONS, device_line, is_shared, on_space
from demo.tabs import evaluate as evaluate_tab
from demo.tabs import fit as fit_tab
from demo.tabs import hub as hub_tab
from demo.tabs import inspect as inspect_tab
from demo.tabs import models as models_tab
from demo.tabs import question

HOUR = 3600

# System fonts: the app looks the same without a network.
THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.teal,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_md,
    font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    block_border_width="1px",
    block_shadow="none",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
    button_primary_text_color="white",
)

CSS = """
.gradio-container { width: 100%; max-width: 1180px !important; margin: 0 auto !important; }
.gradio-container main { width: 100%; min-width: 0; }
.thumbs .grid-container { grid-template-columns: repeat(auto-fill, minmax(76px, 1fr)) !important; }
.thumbs.wide .grid-container { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)) !important; }
.thumbs .grid-container > * { min-width: 0; }
/* Label and buttons stand above the pictures, not over their corners. */
.thumbs:has(> label) .grid-wrap, .whole .image-container { box-sizing: border-box; padding-top: 2.2rem; }
.thumbs .thumbnail-item:has(.caption-label) img { box-sizing: border-box; padding-bottom: 1.3rem; }
/* Gradio gives the original and the heatmap boxes of different sizes; one box, and each is whole in it. */
.whole .slider-wrap img { position: absolute; inset: 0; width: 100%; height: 100%; max-height: none !important;
  object-fit: contain; }
.thumbs .caption-label { left: 0; right: 0; bottom: 0; max-width: none; padding: 0 .2rem; font-size: .68rem; }
button[role=tab][aria-selected=true] { color: var(--primary-700); }
.dark button[role=tab][aria-selected=true] { color: var(--primary-300); }
.head { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; align-items: baseline; padding: .6rem 0 .2rem; }
.head h1 { font-size: 1.5rem; font-weight: 700; margin: 0; letter-spacing: -.02em; }
.head p { margin: 0; color: var(--body-text-color-subdued); }
.head .device { font-family: var(--font-mono); font-size: .8rem; margin-left: auto; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.2rem, 1fr)); gap: .5rem; margin: .3rem 0; }
dl.facts > div { background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary);
  border-radius: 8px; padding: .45rem .6rem; }
dl.facts dt { font-size: .74rem; color: var(--body-text-color-subdued); margin: 0; }
dl.facts dd { font-size: 1rem; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
p.note, p.warning, p.error { margin: .35rem 0; font-size: .88rem; overflow-wrap: anywhere; }
p.note { color: var(--body-text-color-subdued); }
p.warning { border-left: 3px solid #d97706; padding: .15rem .6rem; }
p.error { border-left: 3px solid #e11d48; padding: .15rem .6rem; }
p.verdict { font-size: 1.25rem; font-weight: 700; margin: .2rem 0; padding: .4rem .7rem; border-radius: 8px; }
p.verdict, p.verdict span { color: #fff; }
p.verdict.good { background: #0f766e; }
p.verdict.alarm { background: #be123c; }
.colourbar > div { height: 12px; border-radius: 6px; position: relative; }
.colourbar i { position: absolute; top: -3px; bottom: -3px; width: 2px; background: var(--body-text-color); }
.colourbar p { display: flex; justify-content: space-between; font-size: .76rem; margin: .2rem 0;
  color: var(--body-text-color-subdued); }
.colourbar span { text-align: center; }
.colourbar span:first-child { text-align: left; }
.colourbar span:last-child { text-align: right; }
.scroll { overflow-x: auto; }
table.figures { border: 0 !important; border-collapse: collapse; font-size: .85rem; width: 100%; margin: .2rem 0; }
table.figures tr { border: 0 !important; }
table.figures th { text-align: left; font-weight: 600; }
table.figures td { font-variant-numeric: tabular-nums; white-space: nowrap; }
table.figures th, table.figures td { padding: .25rem .4rem !important; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; }
table.tiles { border-collapse: separate; border-spacing: 3px; margin: .2rem 0; }
table.tiles td { border: 1px solid var(--border-color-primary) !important; border-radius: 6px; padding: .3rem .5rem;
  text-align: center; font-variant-numeric: tabular-nums; font-size: .85rem; min-width: 4.2rem;
  background: color-mix(in srgb, var(--primary-500) calc(var(--strength) * 35%), transparent); }
table.tiles small { display: block; font-size: .7rem; }
ul.cards { list-style: none; padding: 0; margin: .3rem 0; display: grid; gap: .5rem; }
ul.cards li { display: flex; flex-direction: column; border: 1px solid var(--border-color-primary); border-radius: 8px;
  padding: .5rem .7rem; background: var(--background-fill-secondary); overflow-wrap: anywhere; }
ul.cards span { font-size: .82rem; color: var(--body-text-color-subdued); }
/* All tabs fit on a narrow window; Gradio measures hidden copies of them without a role. */
@media (max-width: 480px) { .tab-container button { padding: 0 .55rem; font-size: .85rem; } }
img.picture { width: 100%; max-height: 26rem; object-fit: contain; border-radius: 8px; }
/* An error is said once, in its toast: not over every output of what failed. */
[data-testid=status-tracker]:has(> .error) { display: none !important; }
.toast-body { user-select: text; }
.toast-messages { max-height: 50vh; overflow-y: auto; }
.toast-message-text { white-space: pre-line; }
.block:has(> .wrap.hide):has(> .html-container > .prose:empty) { display: none; }
.beside { align-self: end; margin-bottom: var(--block-padding); }
footer, footer button, footer a { color: var(--body-text-color-subdued) !important; }
"""


def build() -> gr.Blocks:
    """The whole app, not launched yet."""
    with Page(title="Visual anomaly detection", delete_cache=(HOUR, 24 * HOUR)) as demo:
        gr.HTML(
            '<div class="head"><h1>Visual anomaly detection</h1><p>Learn from good parts, find the odd one.</p>'
            f'<p class="device" title="device and precision in use">{escape(device_line())}</p>{duplicate_hint()}</div>'
        )
        opening = gr.HTML(elem_id="opening")
        asked = question.build()
        with gr.Tabs() as tabs:
            with gr.Tab("Fit", id="fit"):
                fit = fit_tab.build()
            with gr.Tab("Inspect", id="inspect") as inspecting:
                inspect = inspect_tab.build()
            with gr.Tab("Evaluate", id="evaluate") as evaluating:
                evaluated = evaluate_tab.build()
            with gr.Tab("Models", id="models") as managing:
                models = models_tab.build()
            with gr.Tab("Hub", id="hub") as sharing:
                gallery = hub_tab.build()
        private = {"api_visibility": "private", "show_progress": "hidden"}

        def show_model(event: Dependency) -> Dependency:
            """After what may have changed the model, or asked to: every tab shows it, and its pictures' new scores."""
            event = event.then(question.shown, None, asked.outputs, **private)
            event = event.then(**inspect.refresh).then(models_tab.refresh, None, models.shown, **private)
            event = event.then(evaluate_tab.refresh, None, evaluated, **private)
            return event.then(**inspect.score_again)

        inspecting.select(**inspect.refresh).then(**inspect.score_again)
        evaluating.select(evaluate_tab.refresh, None, evaluated, **private)
        managing.select(models_tab.refresh, None, models.shown, **private)
        # Kept by the browser, unreadable for others: a refreshed page finds what its visitor had.
        visitor = gr.BrowserState("", storage_key="visual-anomaly-detection")
        arrived = demo.load(SESSIONS.arrive, visitor, visitor, **private)
        if on_space():
            arrived.then(hub_tab.take_oauth, None, gallery.login, **private)
        linked = arrived.then(hub_tab.say_linked, None, opening, **private)
        linked = linked.then(
            hub_tab.open_linked,
            None,
            [*gallery.pulled, tabs],
            api_visibility="private",
            concurrency_limit=None,  # those that wait only look on, as for a fit
            show_progress_on=opening,
        )
        show_model(linked.then(lambda: "", None, opening, **private))
        for step in fit.come_back:
            arrived = arrived.then(**step)
        for event in (arrived, fit.fitted, *asked.answered, *models.changes):
            show_model(event)
        sharing.select(**gallery.list_saved, **private).then(**gallery.find, **private)
        show_model(gallery.tried.success(hub_tab.look_at_tried, None, tabs, **private))
        look = {"fn": lambda: gr.Tabs(selected="inspect"), "inputs": None, "outputs": tabs}
        gallery.compare.click(hub_tab.compare, gallery.chosen, inspect.compares, **private).success(**look, **private)
        demo.unload(SESSIONS.close)
        close_with_next_success(demo)
        api.document(demo)
    return demo


def duplicate_hint() -> str:
    """On a Space: how to have it to oneself."""
    if not on_space():
        return ""
    address = f"https://huggingface.co/spaces/{escape(os.environ['SPACE_ID'])}?duplicate=true"
    return (
        f'<p>Visitors share this Space. <a href="{address}" target="_blank" rel="noopener">Duplicate it</a> to '
        "have it, and what you save, to yourself.</p>"
    )


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
        "css": CSS,
        "max_file_size": upload_limit(),
        "ssr_mode": False,
        "footer_links": ["api", "gradio", "settings"],
        "mcp_server": _wants_mcp(),
    }
    keep_freed_memory()
    # Not open to what passes by the queue: such calls name no session, or whose they like, and wait for nobody.
    return demo.queue(default_concurrency_limit=4, max_size=64, api_open=False).launch(**(settings | overrides))

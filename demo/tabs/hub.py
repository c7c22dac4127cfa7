"""The Hub tab: find models on the Hugging Face Hub and here, try them, compare them, push one."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from admodels import HUB, AdmodelsError, HubError, NotFittedError, create
from admodels.evaluation import normal_images
from admodels.models import HUB_PREFIX, LICENCES, LOCAL_PREFIX, Store, parse_reference
from demo.errors import refusal, shown_errors
from demo.state import opening
from demo.state.current import Current
from demo.state.examples import EXAMPLE_SETS
from demo.state.jobs import JOBS, Tell
from demo.state.limits import limit
from demo.state.server import device_name, is_shared, on_space, own_tab
from demo.state.session import HubLogin, Session
from demo.state.sessions import SESSIONS, is_local
from demo.tabs import cards, comparison, question
from demo.view import text
from demo.view.outputs import filling

COLUMNS = ("model", "category", "method", "image AUROC", "FPS", "MiB", "licence", "downloads", "updated")
FIELDS = ("category", "method", "image_auroc", "predict_fps", "size_mib", "licence", "downloads", "updated")
TYPES = ("str", "str", "str", "number", "number", "number", "str", "number", "str")
NOT_CHOSEN = "Choose a card, or write a name: what is known of the model and its preview are shown here."
NOT_PUSHED = "Where the model went, and a link that opens it here, are shown after a push."
OF_LOGIN = (
    "This login lets the app create repositories in your name and reach those that it created, no others. For others, "
    "use a token."
)
# The browser's word for it is third-party cookies: a Space is shown in a frame of another site.
OWN_TAB = "Login does not work? Open this app in its own tab"
# Without https, browsers let a page copy only what is selected.
COPY = """async (address) => {
  try {
    await navigator.clipboard.writeText(address);
    return 'Copied';
  } catch {
    document.querySelector('#pushed-link input, #pushed-link textarea').select();
    return document.execCommand('copy') ? 'Copied' : 'Press Ctrl+C';
  }
}"""
EXAMPLE_METHOD = "fapm"  # small and quick: something to try in seconds


def search_hub(words: str, owner: str, request: gr.Request) -> dict[str, Any]:
    """Find models of this library on the Hub, the most downloaded first; saved ones of this machine are listed too.

    Args:
        words: part of a repository's name; may be empty.
        owner: only this user's or organisation's; may be empty.

    Returns:
        The table, a line about the search, and for each model reference, method, category, image_auroc, predict_fps,
        size_mib, licence, downloads, updated, is_private, measured_on and n_test (what image_auroc was measured on).
    """
    session = SESSIONS.of(request)
    session.n_searches = mine = session.n_searches + 1
    rows, said = _saved(words, owner, session.store())
    try:
        there = HUB.search(words.strip(), owner=owner.strip(), token=session.token())
        rows += [model.as_dict() for model in there]
        said += f", {len(there)} on the Hub."
    except HubError as error:
        said += f". {error}"
    if mine != session.n_searches:  # another search began meanwhile: its rows are those that the page shows
        return {"rows": rows}
    return {"table": _listed(session, rows), "line": text.note(said), "rows": rows}


def list_saved(words: str, owner: str, request: gr.Request) -> dict[str, Any]:
    """What is saved on this machine, at once; the Hub's answer may take a while, or never come."""
    session = SESSIONS.of(request)
    session.n_searches = mine = session.n_searches + 1
    rows, said = _saved(words, owner, session.store())
    if mine != session.n_searches:
        return {}
    line = text.note(f"{said}. Searching the Hub …")
    return {"table": _listed(session, rows), "line": line, "cards": cards.draw(session) if rows else ""}


def select(request: gr.Request, event: gr.SelectData) -> dict[str, Any]:
    """Show the model whose row was clicked."""
    # The table may have been sorted in the page, so that the name tells, not the row.
    return _chosen(str(event.row_value[0]), SESSIONS.of(request))


def choose(request: gr.Request, event: gr.EventData) -> dict[str, Any]:
    """Show the model whose card was pressed."""
    return _chosen(str(event.model), SESSIONS.of(request))


def _chosen(name: str, session: Session) -> dict[str, Any]:
    row = session.found.get(name)
    if row is None:
        raise refusal("This model is no longer in the list. Search again.")
    session.n_chosen = mine = session.n_chosen + 1
    about = text.hub_model(row)
    if not name.startswith(LOCAL_PREFIX):
        with suppress(AdmodelsError):  # a card without a preview is still a card
            found = HUB.preview(parse_reference(row["reference"]), token=session.token())
            about += text.picture(found, f"Preview of {name}: a picture and its heatmap")
    return {"chosen": name, "about": about} if mine == session.n_chosen else {}


def page_of(reference: str) -> dict[str, Any]:
    """The button that opens a model's page on the Hub; there is none for a saved model, or half a name."""
    try:
        return {"open": gr.Button(link=parse_reference(reference).url, visible=True)}
    except HubError:
        return {"open": gr.Button(link=None, visible=False)}


def pull(reference: str, request: gr.Request) -> dict[str, Any]:
    """Get a model; Inspect uses it from now on.

    Args:
        reference: of the Hub, owner/name or hf-hub:owner/name@revision; or a saved one, local:name.

    Returns:
        What verifying it said, and reference, verified, score and expected_score.
    """
    return _opened(opening.use(SESSIONS.of(request), reference))


def try_or_ask(reference: str, request: gr.Request) -> dict[str, Any]:
    """Get a model; ask first where the current one would be lost."""
    session = SESSIONS.of(request)
    given = reference.strip()
    with shown_errors():  # nothing is asked about a model that cannot be there
        if is_local(given):
            session.store().show(given)
        else:
            parse_reference(given)
    opened = question.open_or_ask(session, given, given)
    if opened is None:
        return {"verified": text.note("Answer the question at the top of the page first.", "warning")}
    return _opened(opened)


def open_linked(
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by its default value
) -> dict[str, Any]:
    """Open the model that the page's address names (`?model=owner/name`), in Inspect; ask first as a press of Try."""
    reference = dict(request.query_params).get("model", "").strip()
    if not reference:
        return {}
    session = SESSIONS.of(request)
    opened = question.open_or_ask(session, reference, reference, progress)
    return {} if opened is None else _opened(opened) | {"tabs": gr.Tabs(selected="inspect")}


def say_linked(request: gr.Request) -> str:
    """What the page does because its address names a model."""
    reference = dict(request.query_params).get("model", "").strip()
    if not reference or SESSIONS.of(request).has_unsaved:
        return ""
    return text.note(
        f"Opening {reference}, as this page's address asks: a download of up to "
        f"{limit('ADMODELS_MAX_LINK_MIB'):g} MiB, queued behind other jobs."
    )


def look_at_tried(request: gr.Request) -> Any:
    """Go to Inspect, unless there is a question to answer first."""
    asked = SESSIONS.of(request).question
    return gr.skip() if asked is not None and asked.reference else gr.Tabs(selected="inspect")


def _opened(current: Current) -> dict[str, Any]:
    """What a model that was opened says of itself."""
    label, pulled = current.label, current.pulled
    if pulled is None:
        result = {"reference": f"local:{label}", "verified": None}
        return {"verified": text.note(f"Loaded {label}."), "pulled": result}
    found = pulled.verification
    kind = "note" if found.is_close else "warning"
    result = {
        "reference": str(pulled.reference),
        "verified": found.is_close,
        "score": found.score,
        "expected_score": found.expected_score,
    }
    said = text.note(f"{label}: {found.statement} Look at it in the Inspect tab.", kind)
    return {"verified": said, "pulled": result}


def push(
    repo_id: str,
    category: str,
    licence: str,
    data_terms: str,
    private: bool,
    with_picture: bool,
    dataset: str,
    onnx: bool,
    request: gr.Request,
) -> dict[str, Any]:
    """Push the current model to the Hub, in one commit. The pictures it learned from stay here.

    Args:
        repo_id: owner/name; created if missing.
        category: what the model was fitted on, such as hex bolt; may be empty.
        licence: of the model, as the Hub names licences.
        data_terms: under which terms the pictures may be used; may be empty.
        private: only matters if the repository is created now.
        with_picture: publish the picture shown in Inspect, with its heatmap and without; else a generated one.
        dataset: where the pictures it learned from are on the Hub, owner/name; empty where they are not.
        onnx: also push it as onnx/model.onnx, for programs without PyTorch.

    Returns:
        Where it went, and url, reference, private and kept_card (a model card that somebody edited there stays).
    """
    session = SESSIONS.of(request)
    current, evaluated = session.current, session.evaluated
    with shown_errors():
        shown = session.shown_on(request.session_hash) if with_picture else None
        if current is None:
            raise NotFittedError("there is no model to push yet. Train one in the Train tab, or load one.")
        token = session.token()
        if token is False:
            raise HubError("you are not logged in. Log in above with a token that has write access, then push again.")
        if with_picture and (shown is None or not shown.current.is_same_model(current)):
            raise HubError("no picture to publish as preview. Inspect one first, or clear that box.")
        accuracy = None
        if evaluated is not None and evaluated.current.is_same_model(current):
            accuracy = evaluated.judged(current).accuracy
        done = HUB.push(
            current.detector,
            repo_id,
            private=private,
            category=category.strip(),
            licence=licence,
            data_terms=data_terms,
            dataset=dataset.strip(),
            evaluation=accuracy,
            preview=shown.decoded.pixels if with_picture else None,
            learned_digests=[digest.hex() for digest in current.learned],
            onnx=onnx,
            token=token,
        )
    session.replace(current, current.pushed(done.reference.repo_id))
    session.pushed_to = done.reference.repo_id
    who = "private: only its owner sees it" if done.is_private else "public"
    result = {
        "url": done.url,
        "reference": str(done.reference),
        "private": done.is_private,
        "kept_card": done.kept_card,
    }
    said = text.note(f"Pushed to {done.url} ({who}). Get it with {done.reference}")
    said += "".join(text.note(notice, "warning") for notice in done.notices)
    if done.kept_card:
        said += text.note(
            "Somebody wrote or edited the model card there, so it was kept. It may describe an earlier model: edit it "
            "on the Hub, or push with --overwrite-card from the command line.",
            "warning",
        )
    return {"pushed": said, "went": result}


def link(request: gr.Request) -> dict[str, Any]:
    """The address of this page that opens the model that was pushed last."""
    to = SESSIONS.of(request).pushed_to
    if not to:
        return {}
    address = f"{_page_address(request)}?model={to}"
    return {"link": gr.Textbox(address, visible=True), "copy": gr.Button("Copy", visible=True)}


def _page_address(request: gr.Request) -> str:
    """Where this app is for who asks, as the browser has it; behind a proxy the server knows another address."""
    came_from = request.headers.get("referer", "").partition("?")[0].partition("#")[0]
    return came_from or f"{request.request.base_url}"


def log_in(token: str, request: gr.Request) -> dict[str, Any]:
    """Use a token of the Hub in this session; it is kept in memory only, and forgotten with the visit.

    Args:
        token: of the Hub; empty to log out.

    Returns:
        An empty text for the field, and who is logged in.
    """
    session = SESSIONS.of(request)
    given = token.strip()
    with shown_errors():
        name = HUB.who_is(given) if given else None
    session.login = HubLogin(given) if given else None
    return {"token": "", "login": text.note(f"Logged in as {name}." if name else _login_line(session))}


def add_examples(request: gr.Request, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008 - as Gradio wants it
    """Fit a small model on each of the example sets and save both, so that there is something to try."""
    store = SESSIONS.of(request).store()

    def work(tell: Tell) -> None:
        there = {info.name for info in store.list_models()}
        for i, (title, folder) in enumerate(EXAMPLE_SETS.items()):
            name = f"example-{title.lower().replace(' ', '-')}"
            tell(i / len(EXAMPLE_SETS), f"fitting {title}")
            if name not in there:
                store.save(create(EXAMPLE_METHOD, device=device_name()).fit(normal_images(folder)), name)

    JOBS.run(work, threading.Event(), progress)
    return text.note("Added.")


class Gallery(NamedTuple):
    """What the composition of the tabs needs of this one: the search, the event of a try, and components.

    Attributes:
        shown: has what a search found shown as cards, after the event of the search.
        pushed: the end of a push.
    """

    list_saved: dict[str, Any]
    find: dict[str, Any]
    shown: Callable[[Dependency], Dependency]
    tried: Dependency
    pulled: dict[str, Component]
    chosen: gr.Textbox
    compare: gr.Button
    login: gr.HTML
    pushed: Dependency


def compare(reference: str, request: gr.Request) -> dict[str, Any]:
    """Score the picture that Inspect shows with this model too; both heatmaps have the same colours."""
    return comparison.compare_models(reference, request) | {"section": gr.Accordion(open=True)}


def build() -> Gallery:
    """Lay out the tab."""
    gr.Markdown("Models that others pushed, and those on this machine. A model you try is checked and verified first.")
    with gr.Row():
        words = gr.Textbox(label="Name contains", max_lines=1, scale=3, min_width=140)
        owner = gr.Textbox(label="Owner", max_lines=1, scale=2, min_width=140)
        search_button = gr.Button("Search", variant="primary", scale=1, min_width=90, elem_classes="beside")
    said = gr.HTML(text.note("Models that are found are shown here. Press Search."))
    found = gr.HTML(js_on_load=cards.CHOOSE, elem_id="hub-cards", max_height=620)
    with gr.Accordion("All of them as a table", open=False):
        table = gr.Dataframe(
            headers=list(COLUMNS),
            datatype=list(TYPES),
            interactive=False,
            show_search="filter",
            wrap=False,
            elem_id="hub-models",
            max_height=340,
            label="Models: choose one",
            show_label=False,
            visible=False,
        )
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            chosen = gr.Textbox(label="Model", placeholder="owner/name, or choose a card above", max_lines=1)
            with gr.Row():
                try_button = gr.Button("Try", variant="primary", min_width=90)
                compare_button = gr.Button("Compare", min_width=90)
                open_button = gr.Button("Open on the Hub", link_target="_blank", visible=False, scale=2, min_width=170)
            verified = gr.HTML(elem_id="verified")
            about = gr.HTML(text.note(NOT_CHOSEN), elem_id="about-model")
            examples_button = gr.Button("Add two small example models", size="sm")
        with gr.Column(scale=1, min_width=320):
            gr.Markdown("#### Push the current model")
            login = gr.HTML()  # who is logged in is known when the page has said whose it is
            if on_space():
                gr.Markdown(OF_LOGIN)
                gr.LoginButton()
                if own_tab():
                    gr.Button(OWN_TAB, link=own_tab(), link_target="_blank", size="sm")
            with gr.Row():
                token = gr.Textbox(
                    label="Hub token", type="password", max_lines=1, scale=3, info="Kept for this visit only."
                )
                login_button = gr.Button("Log in", scale=1, min_width=90, elem_classes="beside")
            repo_id = gr.Textbox(label="Repository", placeholder="owner/name", max_lines=1)
            category = gr.Textbox(label="Category", placeholder="for example hex bolt", max_lines=1)
            licence = gr.Dropdown(list(LICENCES), value="other", label="Licence of the model")
            terms = gr.Textbox(label="Terms of use of the training pictures", placeholder="for example CC BY 4.0")
            dataset = gr.Textbox(label="Data set on the Hub, if published", placeholder="owner/name", max_lines=1)
            private = gr.Checkbox(True, label="Private")
            with_picture = gr.Checkbox(
                False,
                label="Publish the picture shown in Inspect, with its heatmap and without, to try the model on",
                min_width=300,
            )
            onnx = gr.Checkbox(False, label="Also push it as ONNX, for programs without PyTorch", min_width=300)
            push_button = gr.Button("Push", variant="primary")
            pushed = gr.HTML(text.note(NOT_PUSHED), elem_id="pushed")
            with gr.Row():
                link_to = gr.Textbox(
                    label="Link that opens this model here",
                    info="A private model opens for its owner only, logged in.",
                    interactive=False,
                    max_lines=1,
                    scale=3,
                    min_width=260,
                    visible=False,
                    elem_id="pushed-link",
                )
                # Not the text box's own: its label would name that button, and not the text.
                copy_button = gr.Button("Copy", scale=1, min_width=90, visible=False, elem_classes="beside")
    rows, pulled, went = (gr.JSON(visible=False) for _ in range(3))
    listed, opened = {"table": table, "line": said}, {"verified": verified, "pulled": pulled}
    asked = [words, owner]
    # Who searches again while the Hub is silent is answered all the same.
    again = {"trigger_mode": "always_last"}
    find = {**filling(search_hub, {**listed, "rows": rows}), "inputs": asked, **again}
    hidden = {"api_visibility": "private"}
    quiet = {**hidden, "show_progress": "hidden"}
    # "always_last" would send the first one's name again.
    each = {"trigger_mode": "multiple", **hidden}

    def shown(event: Dependency) -> Dependency:
        event = event.then(**filling(cards.show, {"cards": found}), **again, **quiet)
        return event.then(**filling(cards.show_pictures, {"cards": found}), **again, **quiet)

    shown(search_button.click(**find, api_name="search_hub", show_progress_on=said))
    shown(gr.on([words.submit, owner.submit], **find, **hidden))
    detail = {"chosen": chosen, "about": about}
    table.select(**filling(select, detail), **each)
    found.click(**filling(choose, detail), show_progress_on=about, **each)
    chosen.change(**filling(page_of, {"open": open_button}), inputs=chosen, **quiet)
    opens = {"concurrency_id": "open", "concurrency_limit": 2}  # a slow download keeps nobody from inspecting
    gr.on([], **filling(pull, opened), inputs=chosen, api_name="pull", **opens)
    trying = {"show_progress_on": verified, **opens}
    tried = try_button.click(**filling(try_or_ask, opened), inputs=chosen, **trying, **hidden)
    login_button.click(**filling(log_in, {"token": token, "login": login}), inputs=token, api_name="log_in")
    went_up = push_button.click(
        **filling(push, {"pushed": pushed, "went": went}),
        inputs=[repo_id, category, licence, terms, private, with_picture, dataset, onnx],
        api_name="push",
        show_progress_on=pushed,
    )
    went_up.success(**filling(link, {"link": link_to, "copy": copy_button}), **quiet)
    copy_button.click(None, link_to, copy_button, js=COPY, **hidden)
    added = examples_button.click(add_examples, None, said, api_name="add_examples", concurrency_limit=None)
    shown(added.then(**find, **hidden))
    at_once = {**filling(list_saved, {**listed, "cards": found}), "inputs": asked}
    return Gallery(at_once, find, shown, tried, opened, chosen, compare_button, login, went_up)


def take_oauth(oauth: gr.OAuthToken | None, request: gr.Request) -> str:
    """On a Space: use the token of who logged in with the button, and no longer than that login lasts.

    A token that was typed is its visitor's own decision: it stays, whether that login is there or not.
    """
    session = SESSIONS.of(request)
    if session.login is None or not session.login.is_typed:
        session.login = HubLogin(oauth.token, False, oauth.expires_at) if oauth is not None else None
    return text.note(_login_line(session))


def say_login(request: gr.Request) -> str:
    """Who is logged in: a page that is loaded again still has its visitor's token."""
    return text.note(_login_line(SESSIONS.of(request)))


def _listed(session: Session, rows: list[dict[str, Any]]) -> Any:
    session.found = {_name(row): row for row in rows}
    listed = [[name, *(row[field] for field in FIELDS)] for name, row in session.found.items()]
    return gr.Dataframe(listed, visible=bool(listed))


def _saved(words: str, owner: str, store: Store) -> tuple[list[dict[str, Any]], str]:
    """Saved models of this machine in the form of the Hub's, and how many; what is not known of them is None."""
    rows = [
        dict.fromkeys(("image_auroc", "measured_on", "n_test", "predict_fps", "licence", "downloads"))
        | {
            "reference": info.reference,
            "method": info.title,
            "category": "",
            "size_mib": round(info.size_mib, 2),
            "updated": info.saved_at[:10],
            "is_private": True,
        }
        for info in store.list_models()
        if not owner.strip() and words.strip().lower() in info.name.lower()
    ]
    return rows, f"{len(rows)} saved on this machine"


def _name(row: dict[str, Any]) -> str:
    """What a model is called in the table: owner/name, or local:name."""
    return row["reference"].removeprefix(HUB_PREFIX).partition("@")[0]


def _login_line(session: Session) -> str:
    if session.is_logged_in:
        how = "with a token that you typed" if session.login.is_typed else "with your Hugging Face account"
        return f"You are logged in {how}."
    if session.login is not None:
        return "Your login has expired. Log in again to push."
    if is_shared():
        return "You are not logged in. You can try public models; log in to push."
    return "Without a token here, this machine's token is used, if any (HF_TOKEN, or hf auth login)."

"""The Inspect tab: pictures, a camera or painted defects scored with the current model, and the threshold moved.

What was found stands above what is given: nothing of it is there before the first picture.
"""

import csv
import dataclasses
import threading
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from admodels import NotFittedError
from admodels.core import BATCH_SIZE
from admodels.evaluation import load_dataset
from admodels.evaluation import measure_speed as speed_of
from admodels.pictures import READABLE, Listing, sort_out, unpack
from admodels.tiling import TiledEnsemble
from demo.errors import refusal, shown_errors
from demo.state.cores import CORES
from demo.state.current import Current
from demo.state.examples import EXAMPLE_SETS
from demo.state.jobs import JOBS, Tell
from demo.state.session import Session
from demo.state.sessions import SESSIONS
from demo.state.speed import batch_seconds
from demo.tabs import camera, chip, comparison, marks, paint, picking, scoring, threshold
from demo.tabs.chip import Chip
from demo.tabs.scoring import COLUMNS, OF_A_PICTURE, WHOLE
from demo.view import text
from demo.view.outputs import filling

NOTHING_YET = "Drop pictures below, or press an example: what stands out in them is shown here, the most unusual first."


def inspect(
    files: list[str] | None,
    opacity: float,
    contour: bool,
    add: bool,
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
) -> dict[str, Any]:
    """Score pictures with the current model and show the most unusual one.

    Args:
        files: pictures of any size, or one zip.
        opacity: of the heatmap, from 0 to 1.
        contour: draw the edge of what is above the pixel threshold.
        add: to the pictures inspected before, instead of in their place.

    Returns:
        What was found in all, whether it is shown, which pictures are listed, gallery (the most unusual first), whether
        others are added, slider of picture and heatmap, verdict, colour bar, histogram, scores of tiles, parts of the
        map, whether the colours are this picture's, table, speed, and for each picture, in the order in which they
        came, a row as from `score`.
    """
    with shown_errors():
        found = unpack(files or [])
    tell_passed_over(found)
    return scoring.score(found.images, opacity, contour, *_whose(request), progress, add=add)


def score(files: list[str] | None, request: gr.Request) -> list[dict]:
    """Score pictures with the current model, for programs: nothing is drawn, and the page goes on showing what it did.

    Args:
        files: pictures of any size, or one zip.

    Returns:
        For each picture a row with name, score, threshold, p_value, rarer_than, is_anomalous, verdict (good, borderline
        or suspected), regions and notices. Regions are those of a suspected picture, the highest peak first, with left,
        top, right, bottom, area and peak, in pixels of the picture as it came.
    """
    with shown_errors():
        found = unpack(files or [])
        tell_passed_over(found)
        scored = scoring.predictions(found.images, SESSIONS.of(request).in_use())
        return [scoring.row(prediction, name=decoded.name) for _, decoded, prediction in scored]


def inspect_folder(
    files: list[str] | None,
    opacity: float,
    contour: bool,
    add: bool,
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
) -> dict[str, Any]:
    """Score the pictures of a folder; other files in it are passed over, as in a zip."""
    # By name, since the folders they were uploaded to have names of no meaning.
    found = sort_out(sorted(map(Path, files or []), key=lambda file: file.name))
    if files and not found.images:
        raise refusal(f"The folder holds {len(files)} files but no pictures; {READABLE} are read.")
    tell_passed_over(found)
    return scoring.score([*map(str, found.images)], opacity, contour, *_whose(request), progress, add=add)


def tell_passed_over(found: Listing) -> None:
    """Say what was no picture among files that came."""
    if found.statement:
        gr.Warning(escape(found.statement))


def inspect_photo(photo: str | None, opacity: float, contour: bool, add: bool, request: gr.Request) -> dict[str, Any]:
    """Score a picture just taken with the camera."""
    images = [photo] if photo else []
    return scoring.score(images, opacity, contour, *_whose(request), names=[camera.NAME] * len(images), add=add)


def scores_file(request: gr.Request) -> str:
    """The scores of the pictures inspected last, at the current threshold, as a CSV file."""
    session = SESSIONS.of(request)
    inspection = session.inspected
    if inspection is None:
        raise refusal("There are no scores yet. Inspect pictures first.")
    found, where = scoring.scores(inspection), scoring.regions(inspection)
    file = session.download_folder() / "scores.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        columns = (*scoring.SCORES_COLUMNS, *scoring.REGION_COLUMNS)
        rows = ((*scores, *places) for scores, places in zip(found, where, strict=True))
        csv.writer(opened).writerows([columns, *rows])
    return str(file)


def inspect_example(name: str, opacity: float, contour: bool, request: gr.Request) -> dict[str, Any]:
    """Score the defective pictures of an example set."""
    images = [item.path for item in load_dataset(EXAMPLE_SETS[name]).test if item.is_defective]
    return scoring.score(images, opacity, contour, *_whose(request))


def inspect_tried(name: str, opacity: float, contour: bool, request: gr.Request) -> dict[str, Any]:
    """Score the defective pictures of an example set with the model that was just fitted on it, if it was."""
    job = SESSIONS.of(request).job
    if job is None or job.is_running or job.outcome.exception() is not None:
        return {}
    return inspect_example(name, opacity, contour, request)


def select(opacity: float, contour: bool, request: gr.Request, event: gr.SelectData) -> dict[str, Any]:
    """Show the picture that was clicked in the gallery."""
    session, page = _whose(request)
    with shown_errors():
        inspection = session.inspected_on(page)
    shown = scoring.in_gallery(inspection) if inspection is not None else []
    return scoring.select(shown[event.index] if event.index < len(shown) else -1, opacity, contour, session, page)


def select_row(opacity: float, contour: bool, request: gr.Request, event: gr.SelectData) -> dict[str, Any]:
    """Show the picture whose row was clicked; the table may have been sorted in the page, so its number tells."""
    session, page = _whose(request)
    with shown_errors():
        session.inspected_on(page)
    return scoring.select(int(event.row_value[0]) - 1, opacity, contour, session, page)


def redraw(opacity: float, contour: bool, part: str, own_scale: bool, request: gr.Request) -> dict[str, Any]:
    """Draw the heatmap again after a change of opacity, contour, part or scale.

    Args:
        own_scale: the colours end where the picture's values do, not where the model's scale does.
    """
    session, page = _whose(request)
    now, shown = session.now, session.shown
    if shown is None:
        return {}
    if session.seen.get(page) != now:  # the page shows something else than what would be drawn
        return scoring.judged(session, page, opacity, contour)
    decoded, prediction = shown.decoded, shown.prediction
    if part in prediction.parts:
        prediction = dataclasses.replace(prediction, anomaly_map=prediction.parts[part])
    if own_scale:
        prediction = dataclasses.replace(prediction, scale=prediction.own_scale)
    bar = text.colour_bar(prediction, of_this_picture=own_scale)
    drawn = {"slider": scoring.slider(decoded, prediction, opacity, contour), "bar": bar}
    return drawn if session.now == now else {}


def list_only(which: str, request: gr.Request) -> dict[str, Any]:
    """List all pictures inspected, or those suspected."""
    session, page = _whose(request)
    with shown_errors():
        inspection = session.inspected_on(page)
    if inspection is None:
        return {}
    chosen = dataclasses.replace(inspection, only_suspected=which == scoring.SUSPECTED)
    kept = session.keep(chosen)
    return scoring.overview(kept[0] if kept else chosen)


def moved(how: str, rate: float, value: float, opacity: float, contour: bool, request: gr.Request) -> dict[str, Any]:
    """Judge what is shown by another threshold."""
    session, page = _whose(request)
    panel = threshold.with_evaluation(session, page, threshold.react(session, page, how, rate, value))
    return panel | scoring.judged(session, page, opacity, contour)


def measure_speed(
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
) -> dict[str, Any]:
    """Measure the current model's speed on the pictures inspected, one at a time and in batches: warm, synchronised.

    Returns:
        The figures as HTML, and for batch 1 and batch 8 the fields of `Speed`, in seconds for a batch.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        current, inspection = session.in_use(), session.inspected
        if inspection is None:
            raise NotFittedError("no picture to measure with yet. Inspect one first.")
        pictures = inspection.pictures
        images = [pictures[i % len(pictures)].image for i in range(BATCH_SIZE)]

    def work(tell: Tell) -> list:
        tell(0.1, "measuring")
        return [speed_of(current.detector, batch) for batch in (images[:1], images)]

    # Alone, since what runs beside it would be measured too.
    measured = JOBS.run(work, threading.Event(), progress)
    said = text.note(f"{current.label}:") + text.speed(measured)
    return {"measured": said, "figures": [dataclasses.asdict(value) for value in measured]}


def learn_speed(request: gr.Request) -> dict[str, Any]:
    """Measure in a moment how fast a model is that was opened, not fitted here, and say it at the head of the page."""
    session = SESSIONS.of(request)
    current, inspection = session.current, session.inspected
    if current is None or current.seconds or inspection is None or not inspection.current.is_same_model(current):
        return {}
    images = [item.image for item in inspection.pictures[:BATCH_SIZE]]
    with shown_errors(), CORES.all():
        seconds = batch_seconds(current.detector, images)
    known = session.change(current, lambda model: dataclasses.replace(model, seconds=seconds))
    return chip.shown(session) if known is not None else {}


def refresh(opacity: float, contour: bool, request: gr.Request) -> dict[str, Any]:
    """What the tab shows of the current model, and of what was inspected with it on an earlier page.

    What a model said that was replaced is taken away; `score_again` follows.
    """
    session, page = _whose(request)
    current, inspection, shown = session.current, session.inspected, session.shown
    scored: dict[str, Any] = {}
    if session.again is not None:
        n = len(session.again.images)
        several = f"the {n} pictures again" if n > 1 else "the picture again"
        what = "the picture published with it" if session.again.is_own else several
        said = text.note(f"Scoring {what}, with {_label(current)} …")
        session.n_announced += 1
        hidden = gr.update(visible=False)
        scored = dict.fromkeys(OF_A_PICTURE, "") | {"slider": None, "chart": hidden, "part": hidden, "own_scale": False}
        scored |= {"found": said, "results": hidden, "gallery": [], "table": [], "time": "", "rows": None}
    elif shown is not None and session.seen.get(page) == session.now:  # the model may have got a name meanwhile
        scored["verdict"] = scoring.verdict(shown)
    elif inspection is not None:  # on an earlier page, or judged by another threshold since
        scored = scoring.judged(session, page, opacity, contour)
    is_tiled = current is not None and isinstance(current.detector.method, TiledEnsemble)
    return {
        "model": "" if current is not None else text.no_model(),
        "other": gr.update(choices=[info.name for info in session.store().list_models()]),
        "single": gr.Button(visible=is_tiled),
        **threshold.with_evaluation(session, page, threshold.shown(session, page)),
        **scored,
    }


def score_again(
    opacity: float,
    contour: bool,
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
) -> dict[str, Any]:
    """Score the pictures that are there with the current model, where it took the place of another one.

    Two events may have announced it, and the page may show the second announcement after the answer to the first: then
    that answer is given again.
    """
    session, page = _whose(request)
    was_announced = session.n_announced > 0
    session.n_announced = max(0, session.n_announced - 1)
    try:
        answer = scoring.score_again(opacity, contour, session, page, progress)
    except gr.Error as error:  # nobody pressed anything, so it is said where the verdict would be
        answer = {"found": text.note(error.message, "error")}
    if answer:
        session.answer = session.inspected, answer
    elif was_announced and session.answer is not None and session.answer[0] is session.inspected:
        answer = session.answer[1]
        session.seen[page] = session.now
    if not session.n_announced:
        session.answer = None
    return answer


def _whose(request: gr.Request) -> tuple[Session, str]:
    """The session of a visitor, and which of its pages this is."""
    return SESSIONS.of(request), request.session_hash


def _label(current: Current | None) -> str:
    return current.label if current is not None else ""


class Tab(NamedTuple):
    """What the composition of the tabs needs of this one.

    Attributes:
        refresh, score_again: arguments of event listeners that belong together, one after the other.
        compares: what `compare` of the Hub tab fills.
        tries: arguments of event listeners for `inspect_tried`, less its inputs: a name, and `look`.
        sources: where pictures come from: "live" is one of them.
        changes: events that change the model.
    """

    refresh: dict[str, Any]
    score_again: dict[str, Any]
    compares: dict[str, Component]
    tries: dict[str, Any]
    look: list[Component]
    sources: gr.Tabs
    changes: list[Dependency]


def build(head: Chip) -> Tab:
    """Lay out the tab."""
    current = gr.HTML(text.no_model())
    shared = {"concurrency_id": "inspect", "concurrency_limit": 2}
    # Laid out beside what is on the left, but needed by it.
    opacity = gr.Slider(0, 1, value=0.7, step=0.05, label="Heatmap opacity", render=False)
    contour = gr.Checkbox(True, label="Contour of pixels above the threshold", render=False)
    look = [opacity, contour]
    found = gr.HTML(text.note(NOTHING_YET), elem_id="found")
    marking = marks.build_above()
    with gr.Column(visible=False) as results:
        with gr.Row(elem_classes="looked-at"):
            with gr.Column(scale=3, min_width=320):
                slider = gr.ImageSlider(
                    elem_classes="whole",
                    elem_id="slider",
                    label="Original and heatmap",
                    format="png",
                    height=460,
                    interactive=False,
                    slider_position=30,
                )
                bar = gr.HTML(elem_id="colours")
            with gr.Column(scale=2, min_width=320):
                verdict = gr.HTML(elem_id="verdict")
                marking |= marks.build()
                chart = gr.Plot(
                    label="Score among good pictures kept aside", show_label=False, visible=False, elem_id="histogram"
                )
                tiled = gr.HTML()
        only = gr.Radio(
            [scoring.ALL, scoring.SUSPECTED],
            value=scoring.ALL,
            show_label=False,
            label="Which pictures are listed",
            container=False,
            elem_id="listed",
            visible=False,
        )
        gallery = gr.Gallery(
            elem_classes="thumbs",
            label=scoring.CHOOSE_ONE,
            columns=8,
            height=170,
            interactive=False,
            allow_preview=False,
            object_fit="contain",
            elem_id="inspected",
        )
        time = gr.HTML()
    with gr.Row():
        with gr.Column(scale=1, min_width=320), gr.Tabs() as sources:
            with gr.Tab("Pictures"):
                files = picking.upload("Pictures to inspect, or one zip")
                folder = gr.UploadButton("A whole folder", file_count="directory", size="sm")
                adding = gr.Checkbox(False, label="Add to the pictures above", visible=False, container=False)
                with gr.Row():
                    example_buttons = [gr.Button(f"Defective: {name}", size="sm") for name in EXAMPLE_SETS]
            with gr.Tab("Camera"):
                photo = gr.Image(
                    label="Take a picture",
                    sources=["webcam"],
                    webcam_options=camera.AS_IT_IS,
                    type="filepath",
                    format="png",
                    height=300,
                )
            with gr.Tab("Live", id="live"):
                camera.build_live(*look)
            painting = gr.Tab("Paint a defect")
        with gr.Column(scale=1, min_width=320):
            panel = threshold.build(head)
            with gr.Accordion("All scores", open=False):
                table = gr.Dataframe(
                    headers=list(COLUMNS),
                    datatype=["number", "html", "str", "number", "number", "str", "str"],
                    column_widths=[46, 70, 120, 80, 80, 116, 90],
                    interactive=False,
                    show_search="filter",
                    max_height=360,
                    label="Scores: choose one",
                    show_label=False,
                    elem_id="scores",
                )
                csv_button = gr.Button("Download as CSV", size="sm")
                prepared = gr.DownloadButton(visible="hidden", elem_id="prepared-scores")
            with gr.Accordion("Display", open=False):
                opacity.render()
                contour.render()
                own_scale = gr.Checkbox(False, label="Scale the colours to this picture")
                part = gr.Radio([WHOLE], value=WHOLE, label="Part of the map", visible=False)
            speed_button = gr.Button("Measure speed", size="sm")
            measured = gr.HTML()
    compared = comparison.build(shared)
    rows, figures, moved_to, scores = (gr.JSON(visible=False) for _ in range(4))
    detail = dict(zip(OF_A_PICTURE, (slider, verdict, bar, chart, tiled, part, own_scale), strict=True))
    whole = {"found": found, "results": results, "filter": only, "gallery": gallery, "adding": adding}
    outputs = {**whole, **detail, "table": table, "time": time, "rows": rows}
    with painting:
        paint.build(look, outputs, shared)
    scored = {"show_progress_on": found, **shared}
    private = {"api_visibility": "private"}
    uploaded = {"inputs": [files, *look, adding], "api_name": "inspect"}
    given = {**scored, "trigger_mode": "multiple"}  # what is given while others are scored takes their place
    inspected = [files.upload(**filling(inspect, outputs), **uploaded, **given)]
    for event, source, handler in ((folder.upload, folder, inspect_folder), (photo.input, photo, inspect_photo)):
        inspected.append(event(**filling(handler, outputs), inputs=[source, *look, adding], **private, **given))
    for name, button in zip(EXAMPLE_SETS, example_buttons, strict=True):
        example = {"inputs": [gr.State(name), *look], **private, **scored}
        inspected.append(button.click(**filling(inspect_example, outputs), **example))
    for event in inspected:
        event.success(**filling(learn_speed, head.outputs), show_progress="hidden", **private)
    chosen_one = {"show_progress": "minimal", **private, **shared}
    # With the keys many may be chosen one after the other; "always_last" would send the first one's place again.
    gallery.select(**filling(select, detail), inputs=look, trigger_mode="multiple", **chosen_one)
    table.select(**filling(select_row, detail), inputs=look, trigger_mode="multiple", **chosen_one)
    csv_button.click(scores_file, None, prepared, api_name="scores_file").success(
        None, js="() => document.querySelector('#prepared-scores')?.click()", **private
    )
    measuring = {"show_progress_on": measured, "concurrency_limit": None}  # waits for its turn, as a job
    speeds = {"measured": measured, "figures": figures}
    speed_button.click(**filling(measure_speed, speeds), api_name="measure_speed", **measuring)
    # As one event: two that are drawn side by side could each undo what the other one shows.
    drawn = {**filling(redraw, {**whole, **detail, "table": table}), "inputs": [*look, part, own_scale]}
    displayed = [opacity.release, contour.change, part.input, own_scale.input]
    gr.on(displayed, **drawn, trigger_mode="always_last", show_progress="hidden", **private, **shared)
    only.input(**filling(list_only, {**whole, "table": table}), inputs=only, **chosen_one)
    moves = filling(moved, {**panel.outputs, **whole, **detail, "table": table})
    threshold.on_move(panel, {**moves, "inputs": [*panel.inputs, *look], **shared})
    gr.on([], score, files, scores, api_name="score", **shared)
    gr.on([], threshold.set_threshold, panel.inputs, moved_to, api_name="set_threshold")
    filled = {"model": current, **panel.outputs, "other": compared.other, "single": compared.single, **outputs}
    looked_at = {**filling(refresh, filled), "inputs": look, "show_progress": "hidden", **private}
    again = {**filling(score_again, outputs), "inputs": look, **private, **scored}
    tries = {**filling(inspect_tried, outputs), **private, **scored}
    changes = marks.connect(marking, panel.said, (head.said, found, verdict))
    compares = {**compared.outputs, "section": compared.section}
    return Tab(looked_at, again, compares, tries, look, sources, changes)

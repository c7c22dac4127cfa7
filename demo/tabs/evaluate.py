"""The Evaluate tab: labelled pictures in, evidence out, judged at a threshold that can be moved."""

import dataclasses
import json
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from gradio.components import Component

from admodels import Calibration, Cancelled, DataError, Progress
from admodels.evaluation import (
    Accuracy,
    TestImage,
    conditions,
    evaluation_page,
    fewest_errors,
    folders_of,
    labelled_images,
    left_out,
    load_dataset,
    measure,
    mistakes,
    pair_masks,
)
from admodels.pictures import content_digest, extract_zip, inspect_set, overlay, thumbnail
from demo.errors import refusal, shown_errors
from demo.state.cores import predict
from demo.state.current import Current, Evaluated
from demo.state.examples import EXAMPLE_SETS
from demo.state.jobs import Tell
from demo.state.limits import PICTURE_TYPES, check_number
from demo.state.session import Session
from demo.state.sessions import SESSIONS
from demo.tabs import marks, set_comparison, threshold
from demo.tabs.chip import Chip
from demo.tabs.stop import begin, stop_beside
from demo.view import charts, text
from demo.view import marks as said_of_marks
from demo.view.outputs import filling

STAGES = {"testing": (0.0, 0.6), "checking robustness": (0.6, 0.4)}
N_MISTAKES = 8
SHOWN = ("histogram", "roc", "curve", "mistakes", "robustness", "html", "json", "best")  # once there is a result


def evaluate(
    archive: str | None,
    good: list[str] | None,
    defective: list[str] | None,
    masks: list[str] | None,
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by its default value
) -> dict[str, Any]:
    """Measure the current model on labelled pictures.

    Args:
        archive: a zip with test/good, test/<kind> and ground_truth/<kind> as in MVTec AD, or good and <kind>; or
        good: pictures of good parts, none of which the model learned from, and
        defective: pictures of defective parts, and
        masks: black and white pictures of the defects, each named like its picture or <name>_mask; not needed.

    Returns:
        Summary, histogram, ROC curve, precision-recall curve, worst mistakes, robustness, and all figures with every
        picture's raw score; `evaluation_report` then gives the same as files.
    """
    session, folder, understood = SESSIONS.of(request), None, ()
    with shown_errors():
        if archive:
            folder = TemporaryDirectory(prefix="admodels-")
            found = extract_zip(archive, folder.name)
            test = labelled_images(folder.name)
            understood = tuple(line for line in (*folders_of(test), found.statement) if line)
        else:
            test = pair_masks(good or [], defective or [], masks or [])
    return _evaluate(session, test, progress, folder, understood)


def evaluate_example(
    name: str,
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
) -> dict[str, Any]:
    """Measure the current model on the labelled pictures of an example set."""
    return _evaluate(SESSIONS.of(request), load_dataset(EXAMPLE_SETS[name]).test, progress)


def moved(how: str, rate: float, value: float, request: gr.Request) -> dict[str, Any]:
    """Judge the same scores by another threshold."""
    session = SESSIONS.of(request)
    panel = threshold.react(session, request.session_hash, how, rate, value)
    evaluated = session.evaluated
    return panel | (_results(evaluated) if evaluated is not None else {}) | set_comparison.shown(session)


def use_best(request: gr.Request) -> dict[str, Any]:
    """Judge by the threshold that judges the fewest of the evaluated pictures wrongly."""
    session = SESSIONS.of(request)
    evaluated = session.evaluated
    best = fewest_errors(evaluated.accuracy.labels, evaluated.accuracy.scores) if evaluated is not None else None
    if best is None:
        raise refusal("There is no evaluation of good and defective pictures yet. Upload both, and press Evaluate.")
    return moved(threshold.BY_HAND, 0.0, best[0], request) | threshold.shown(session, request.session_hash)


def evaluation_report(kind: str, request: gr.Request) -> str:
    """The last evaluation at the current threshold as one file.

    Args:
        kind: "html", a page that needs no other file, or "json".
    """
    session = SESSIONS.of(request)
    evaluated = session.evaluated
    if kind not in ("html", "json"):
        raise refusal(f"kind is {kind!r}; expected html or json.")
    if evaluated is None:
        raise refusal("There is no evaluation yet. Upload labelled pictures in the Evaluate tab first.")
    content, accuracy, current = _content(evaluated), evaluated.accuracy, evaluated.current
    file = session.download_folder() / f"evaluation.{'json' if kind == 'json' else 'html'}"
    if kind == "json":
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    else:
        page = evaluation_page(
            f"{content['model']}: {content['n_test']} labelled pictures",
            text.accuracy_facts(accuracy),
            [*content["notes"], content["statement"], f"{content['conditions']}."],
            _charts(accuracy, current.calibration),
            mistakes(current.detector, evaluated.test, accuracy, N_MISTAKES),
            accuracy,
        )
        file.write_text(page, encoding="utf-8")
    return str(file)


def refresh(request: gr.Request) -> dict[str, Any]:
    """What the tab shows of the current model; what was measured on an earlier one is taken away."""
    session = SESSIONS.of(request)
    current, evaluated, before = session.current, session.evaluated, session.evaluated_before
    model = {"model": "" if current is not None else text.no_model(), **threshold.shown(session, request.session_hash)}
    if evaluated is None:
        said = text.note(
            f"The last evaluation was of {before}. Press Evaluate to measure the current model."
            if before
            else text.NO_RESULT
        )
        model |= dict.fromkeys(SHOWN, gr.update(visible=False)) | {"summary": said, "figures": None}
    else:
        model |= _results(evaluated)
    return model | set_comparison.shown(session) | set_comparison.choices(session)


def build(head: Chip) -> dict[str, Component]:
    """Lay out the tab; returns what `refresh` fills."""
    current = gr.HTML(text.no_model())
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            gr.Markdown("Good and defective pictures with a known verdict, **none of which the model learned from**.")
            with gr.Row():
                example_buttons = [gr.Button(f"Test set: {name}", size="sm") for name in EXAMPLE_SETS]
            many = {"file_count": "multiple", "file_types": PICTURE_TYPES, "height": 130}
            with gr.Row():  # side by side where there is room; in less, Gradio's list leaves "0.png" of "001.png"
                good = gr.File(label="Good", min_width=320, **many)
                defective = gr.File(label="Defective", min_width=320, **many)
                archive = gr.File(
                    label="Or one zip: test/good, test/<kind>, ground_truth/<kind>",
                    file_types=[".zip"],
                    height=130,
                    min_width=320,
                )
            with gr.Accordion("Masks of the defects", open=False):
                masks = gr.File(label="Masks, named like their pictures", **many)
            with gr.Row():
                evaluate_button = gr.Button("Evaluate", variant="primary")
                stop_button = gr.Button("Stop", variant="stop")
            panel = threshold.build(head)
        with gr.Column(scale=1, min_width=320):
            summary = gr.HTML(text.note(text.NO_RESULT), elem_id="evaluation", min_height=120)
            best = gr.Button("Use that threshold", visible=False, size="sm")
            histogram = gr.Plot(show_label=False, visible=False)
    with gr.Row():
        roc = gr.Plot(label="ROC", visible=False, min_width=300)
        curve = gr.Plot(label="Precision and recall", visible=False, min_width=300)
    gallery = gr.Gallery(
        label="Worst mistakes at this threshold",
        columns=4,
        height=250,
        interactive=False,
        visible=False,
        object_fit="contain",
        elem_classes="thumbs wide",
    )
    robustness = gr.HTML(visible=False)
    with gr.Row():
        html_button = gr.Button("Download the report (HTML)", visible=False)
        json_button = gr.Button("Download the figures (JSON)", visible=False)
    prepared = gr.DownloadButton(visible="hidden", elem_id="prepared-report")
    compares = set_comparison.build()
    figures = gr.JSON(visible=False)
    outputs = {
        "summary": summary,
        "histogram": histogram,
        "roc": roc,
        "curve": curve,
        "mistakes": gallery,
        "robustness": robustness,
        "html": html_button,
        "json": json_button,
        "best": best,
        "figures": figures,
    }
    shared = {"concurrency_id": "inspect", "concurrency_limit": 2}
    running = {"show_progress_on": summary, "concurrency_limit": None}
    private = {"api_visibility": "private"}
    at_once = {"concurrency_limit": None, **private}
    click = "() => document.querySelector('#prepared-report')?.click()"
    wanted = gr.Textbox("html", visible=False, max_lines=1)
    gr.on([], evaluation_report, wanted, prepared, api_name="evaluation_report")  # the first of this name
    for kind, button in (("html", html_button), ("json", json_button)):
        button.click(evaluation_report, gr.State(kind), prepared, **private).success(None, js=click, **private)
    asked = evaluate_button.click(begin, None, None, **at_once)
    evaluated = {**filling(evaluate, outputs), "inputs": [archive, good, defective, masks], "api_name": "evaluate"}
    asked.success(**evaluated, **running).then(**compares.shows)
    for name, button in zip(EXAMPLE_SETS, example_buttons, strict=True):
        asked = button.click(begin, None, None, **at_once)
        asked.success(**filling(evaluate_example, outputs), inputs=gr.State(name), **private, **running).then(
            **compares.shows
        )
    stop_button.click(stop_beside, None, None, **at_once)
    judged = {**panel.outputs, **outputs, **compares.outputs}
    best.click(**filling(use_best, judged), **private, **shared)
    moves = filling(moved, judged)
    threshold.on_move(panel, {**moves, "inputs": panel.inputs, **shared})
    return {"model": current, **judged}


def _evaluate(
    session: Session,
    test: list[TestImage],
    progress: gr.Progress,
    folder: TemporaryDirectory | None = None,
    understood: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Measure the current model; `folder` is kept as long as the pictures in it are needed."""
    with shown_errors():
        current = session.in_use()
        marked = marks.labelled(session, test)
        test = [*test, *marked]
        understood += said_of_marks.and_marked(len(marked))
        check_number(len(test), "ADMODELS_MAX_PICTURES")

    def work(tell: Tell) -> Evaluated:
        def on_progress(at: Progress) -> None:
            start, width = STAGES[at.stage]
            tell(start + width * at.fraction, f"{at.stage}: {at.done} of {at.total} pictures")

        notes = _checked(test, current)
        accuracy = measure(current.detector, test, on_progress=on_progress)
        return Evaluated(current, test, accuracy, notes, folder, understood)

    try:
        evaluated = session.run(work, progress)
    except Cancelled:
        return {"summary": text.note("Stopped. Nothing was changed."), "figures": {"stopped": True}}
    kept = session.keep(evaluated)
    if kept is not None:
        return _results(kept[0])
    said = (
        f"Another model replaced {current.label} in the meantime. These figures are for {current.label} and are not "
        "kept."
    )
    shown = _results(replace(evaluated, notes=(said, *evaluated.notes)))
    return shown | dict.fromkeys(("html", "json", "best"), gr.update(visible=False))


def _checked(test: list[TestImage], current: Current) -> tuple[str, ...]:
    """What the user must know about these pictures before believing the figures."""
    if not test:
        raise DataError(
            "no labelled pictures selected. Upload good and defective pictures or a zip, or press a test set."
        )
    errors = inspect_set([item.path for item in test], thorough=True).errors
    if errors:
        listed = "\n".join(f"• {error}" for error in errors)
        raise DataError(f"{len(errors)} pictures cannot be used. Remove or replace them:\n{listed}")
    notes = left_out(test)
    n_defective = sum(item.is_defective for item in test)
    if n_defective in (0, len(test)):
        missing = "good" if n_defective else "defective"
        notes.append(f"No {missing} pictures given: AUROC and the curves need both kinds.")
    n_learned = sum(content_digest(item.path) in current.learned for item in test)
    if n_learned:
        notes.append(
            f"{n_learned} of these pictures were used for the fit, so the figures are too good. Leave them out."
        )
    return tuple(notes)


def _results(evaluated: Evaluated) -> dict[str, Any]:
    """Everything the tab shows of an evaluation."""
    accuracy, detector = evaluated.accuracy, evaluated.current.detector
    calibration = detector.calibration_
    mistakes = []
    for position in accuracy.mistakes(N_MISTAKES):
        if position not in evaluated.thumbnails:  # without a contour, so that it stays true when the threshold moves
            decoded = detector.read(evaluated.test[position].path)
            shown = overlay(decoded.pixels, predict(detector, [decoded])[0], contour=False)
            evaluated.thumbnails[position] = thumbnail(shown)
        kind = "missed" if accuracy.labels[position] else "false alarm"
        caption = f"{kind}: {accuracy.scores[position]:.3g} {accuracy.pictures[position].name}"
        mistakes.append((evaluated.thumbnails[position], caption))
    curves = zip(("histogram", "roc", "curve"), _charts(accuracy, calibration), strict=True)
    return {
        "best": gr.update(visible=accuracy.fewer_errors() is not None),
        "summary": text.accuracy(accuracy, calibration, evaluated.notes)
        + "".join(map(text.note, evaluated.understood)),
        **{name: gr.update(value=curve, visible=True) for name, curve in curves},
        "mistakes": gr.update(value=mistakes, visible=bool(mistakes)),
        "robustness": gr.update(value=text.robustness(accuracy), visible=True),
        **dict.fromkeys(("html", "json"), gr.update(visible=True)),
        "figures": _content(evaluated),
    }


def _content(evaluated: Evaluated) -> dict[str, Any]:
    detector = evaluated.current.detector
    return dataclasses.asdict(evaluated.accuracy) | {
        "model": evaluated.current.label,
        "method": detector.key,
        "options": detector.config.stored(),
        "calibration": dataclasses.asdict(detector.calibration_),
        "statement": detector.calibration_.statement,
        "notes": [*evaluated.notes, *evaluated.understood],
        "conditions": conditions(detector, detector.working_shape_, 1),
    }


def _charts(accuracy: Accuracy, calibration: Calibration) -> list:
    return [
        charts.score_histogram(calibration, accuracy=accuracy),
        charts.roc(accuracy),
        charts.precision_recall(accuracy),
    ]

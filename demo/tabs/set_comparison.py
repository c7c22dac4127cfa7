"""The section of the Evaluate tab that measures another model on the pictures that were evaluated."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component

from admodels import Cancelled, DataError, NotFittedError, OptionError, Progress
from admodels.core import verdict_of
from admodels.evaluation import Paired, compare_verdicts, is_same_model, measure, measure_network
from admodels.pictures import as_address, as_jpeg, content_digest, overlay
from demo.errors import shown_errors
from demo.state.cores import predict
from demo.state.current import Compared, Current, Evaluated
from demo.state.jobs import Tell
from demo.state.session import Session
from demo.state.sessions import SESSIONS
from demo.tabs.comparison import same_colours
from demo.tabs.stop import begin, stop_beside
from demo.view import paired, text
from demo.view.outputs import filling

N_DRAWN = 20  # pictures whose heatmaps are shown
HEATMAP_SIDE = 360
TIMED_SECONDS = 0.5
TESTING, TIMING = 0.8, 0.9  # the parts of the whole after which each ends


@dataclass(frozen=True)
class Controls:
    """The components of the section."""

    outputs: dict[str, Component]
    shows: dict[str, Any]  # arguments of an event listener that follows what may have changed the evaluation


def build() -> Controls:
    """Lay out the section; it stays hidden until there is an evaluation."""
    with gr.Column(visible=False) as section:
        gr.Markdown("#### Compare with a saved model on these pictures")
        with gr.Row():
            other = gr.Dropdown(
                [],
                label="Saved model, or hf-hub:owner/name",
                interactive=True,
                allow_custom_value=True,
                scale=4,
                min_width=240,
                elem_id="other-model",
            )
            button = gr.Button("Compare on these pictures", scale=1, min_width=280, elem_classes="beside")
            stop_button = gr.Button("Stop comparing", variant="stop", scale=1, min_width=140, elem_classes="beside")
        said = gr.HTML(elem_id="set-compared")
        differing = gr.HTML(elem_id="differing")
        bar = gr.HTML()
        table = gr.Dataframe(
            headers=list(paired.COLUMNS),
            datatype=["str", "str", "str", "number", "number", "str", "number", "number", "str"],
            column_widths=[86, 104, 84, 88, 108, 172, 122, 166, 172],
            interactive=False,
            show_search="filter",
            max_height=420,
            label="Every picture",
            visible=False,
            elem_id="verdicts",
        )
    comparison = gr.JSON(visible=False)
    found = {"said": said, "differing": differing, "bar": bar, "table": table, "comparison": comparison}
    outputs = {"section": section, "other": other, **found}
    private = {"api_visibility": "private"}
    at_once = {"concurrency_limit": None, **private}
    asked = button.click(begin, None, None, **at_once)
    compares = {"inputs": other, "api_name": "compare_evaluated", "concurrency_limit": None, "show_progress_on": said}
    asked.success(**filling(compare_evaluated, found), **compares)
    stop_button.click(stop_beside, None, None, **at_once)
    return Controls(outputs, {**filling(refresh, outputs), "show_progress": "hidden", **private})


def compare_evaluated(
    name: str,
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by its default value
) -> dict[str, Any]:
    """Measure another model on the pictures that the current one was evaluated on last, and compare the verdicts.

    Args:
        name: a saved model, or hf-hub:owner/name@revision.

    Returns:
        Summary, the pictures on which the verdicts differ with both heatmaps, colour bar, a table of every picture, and
        all figures: statement, notes, models (the current and the other one, each with its figures), verdicts (of
        defective, good and all pictures, how many both, only one or neither judges rightly, and the p_value of the
        exact McNemar test) and pictures, those on which the verdicts differ first, each with score, threshold, verdict
        and is_right of both models.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        session.in_use()
        evaluated = session.evaluated
        if evaluated is None:
            raise NotFittedError(
                "there is no evaluation to compare with yet. Upload labelled pictures in the Evaluate tab and press "
                "Evaluate first."
            )
        if not (name or "").strip():
            raise OptionError("no other model is named. Choose a saved model, or write hf-hub:owner/name.")
        other = SESSIONS.opened(name, session)
        _check(evaluated, other)

    def work(tell: Tell) -> Compared:
        return _measured(evaluated, other, tell)

    try:
        compared = session.run(work, progress)
    except Cancelled:
        return {"said": text.note("Stopped. Nothing was changed."), "comparison": {"stopped": True}}
    kept = session.keep(compared)
    if kept is not None:
        return _results(kept[0])
    late = (
        f"{evaluated.current.label} was replaced or evaluated on other pictures in the meantime. This comparison is of "
        "what was there before, and is not kept."
    )
    return _results(dataclasses.replace(compared, notes=(late, *compared.notes)))


def refresh(request: gr.Request) -> dict[str, Any]:
    """What the section shows: nothing without an evaluation, and a comparison only with the evaluation it is of."""
    session = SESSIONS.of(request)
    return shown(session) | choices(session)


def choices(session: Session) -> dict[str, Any]:
    """The models that may be chosen, as they are now on disk."""
    return {"other": gr.update(choices=[info.name for info in session.store().list_models()])}


def shown(session: Session) -> dict[str, Any]:
    """The section as the session has it."""
    evaluated, compared = session.evaluated, session.compared
    if evaluated is None:
        return {"section": gr.update(visible=False), **NOTHING}
    return {"section": gr.update(visible=True)} | (_results(compared) if compared is not None else NOTHING)


NOTHING = {"said": "", "differing": "", "bar": "", "table": gr.update(visible=False), "comparison": None}


def _check(evaluated: Evaluated, other: Current) -> None:
    """See that there is something to compare.

    Raises:
        OptionError: both are the same model with the same threshold.
        DataError: the pictures are gone.
    """
    current = evaluated.current
    is_same = is_same_model(current.detector, other.detector)
    if is_same and current.calibration.threshold == other.calibration.threshold:
        raise OptionError(
            f"{other.label} is the model in use itself, with the same threshold, so there is nothing to compare. "
            "Choose another model."
        )
    gone = [path.name for item in evaluated.test for path in (item.path, *item.masks) if not path.is_file()]
    if gone:
        raise DataError(
            f"{len(gone)} of the evaluated pictures and masks are no longer there, {gone[0]} for one: uploads are "
            "deleted after a day. Upload them again, and press Evaluate before you compare."
        )


def _notes(evaluated: Evaluated, other: Current) -> tuple[str, ...]:
    """What must be known before believing the figures: whether a model learned from these very pictures."""
    models, notes = [evaluated.current, other], []
    if is_same_model(models[0].detector, other.detector):
        notes.append("Both are the same model with two thresholds: the scores are alike, only the verdicts can differ.")
        models = models[:1]
    unknown = [model.label for model in models if not model.learned]
    if unknown:
        notes.append(
            f"Which pictures {' and '.join(unknown)} learned from is not known here. If these were among them, the "
            "figures are too good."
        )
    known = [model for model in models if model.learned]
    digests = [content_digest(item.path) for item in evaluated.test] if known else []
    for model in known:
        n_learned = sum(digest in model.learned for digest in digests)
        if n_learned:
            notes.append(
                f"{n_learned} of these pictures were used to fit {model.label}, so its figures are too good. Leave "
                "them out and evaluate again."
            )
    return tuple(notes)


def _measured(evaluated: Evaluated, other: Current, tell: Tell) -> Compared:
    """The other model measured on the pictures, both timed, and heatmaps drawn where they differ."""

    def on_progress(at: Progress) -> None:
        tell(TESTING * at.fraction, f"{other.label}: {at.done} of {at.total} pictures")

    notes = _notes(evaluated, other)
    accuracy = measure(other.detector, evaluated.test, robustness=False, on_progress=on_progress)
    milliseconds = []
    for model in (evaluated.current, other):
        tell(TESTING, f"timing {model.label}")
        quantiles, _ = measure_network(model.detector, [evaluated.test[0].path], TIMED_SECONDS)
        milliseconds.append(1e3 * quantiles.p50)
    compared = Compared(evaluated, other, accuracy, tuple(milliseconds), notes)
    positions = _differing(compared)[:N_DRAWN]
    for done, position in enumerate(positions):
        tell(TIMING + (1 - TIMING) * done / len(positions), f"heatmaps: {done} of {len(positions)}")
        _draw(compared, position)
    return compared


def _in_order(compared: Compared) -> list[int]:
    """Positions of the pictures, those that only one model judges rightly first, then those that none does.

    Among each, defective pictures come first, and what the other model does better.
    """
    first, second = compared.evaluated.accuracy, compared.accuracy
    this, other, labels = first.is_right, second.is_right, first.labels
    return np.lexsort((this, ~labels, this & other, this == other)).tolist()  # the last of them counts most


def _differing(compared: Compared) -> list[int]:
    """Of `_in_order`, those whose verdicts differ."""
    this, other = compared.evaluated.accuracy.is_right, compared.accuracy.is_right
    return [i for i in _in_order(compared) if this[i] != other[i]]


def _draw(compared: Compared, position: int) -> None:
    """Put both heatmaps of a picture into the comparison; without a contour they stay true when a threshold moves."""
    path, pair = compared.evaluated.test[position].path, []
    models = [compared.current, compared.other]
    _, levels = same_colours([model.calibration for model in models])
    for model, of_model in zip(models, levels, strict=True):
        decoded = model.detector.read(path)
        prediction = predict(model.detector, [decoded])[0]
        drawn = overlay(decoded.pixels, prediction, contour=False, levels=of_model)
        pair.append(as_address(as_jpeg(drawn, HEATMAP_SIDE)))
    compared.heatmaps[position] = tuple(pair)


def _results(compared: Compared) -> dict[str, Any]:
    """Everything the section shows of a comparison."""
    labels = (compared.current.label, compared.other.label)
    verdicts, order = compare_verdicts(compared.evaluated.accuracy, compared.accuracy), _in_order(compared)
    content = _content(compared, verdicts, order)
    rows = dict(zip(order, content["pictures"], strict=True))
    differing = [position for position, row in rows.items() if row["differ"]]
    for position in differing[:N_DRAWN]:  # after the threshold was moved, others than before
        if position not in compared.heatmaps and compared.evaluated.test[position].path.is_file():
            _draw(compared, position)
    drawn = [position for position in differing[:N_DRAWN] if position in compared.heatmaps]
    smallest, _ = same_colours([compared.current.calibration, compared.other.calibration])
    return {
        "said": paired.summary(content["statement"], content["models"], verdicts, compared.notes),
        "differing": paired.differing(
            [rows[position] for position in drawn],
            [compared.heatmaps[position] for position in drawn],
            labels,
            len(differing),
        ),
        "bar": text.rarity_bar(smallest) if drawn else "",
        "table": gr.update(value=paired.every_picture(content["pictures"]), visible=True),
        "comparison": content,
    }


def _content(compared: Compared, verdicts: Paired, order: list[int]) -> dict[str, Any]:
    """What the API says of a comparison.

    Args:
        order: of the pictures, as `_in_order` has it.
    """
    both = [(compared.current, compared.evaluated.accuracy), (compared.other, compared.accuracy)]
    models = []
    for (model, accuracy), milliseconds in zip(both, compared.milliseconds, strict=True):
        labels, is_right = accuracy.labels, accuracy.is_right
        models.append(
            {
                "model": model.label,
                "method": model.detector.key,
                "title": model.detector.title,
                "image_auroc": accuracy.image_auroc,
                "image_auroc_ci": accuracy.image_auroc_ci,
                "pixel_auroc": accuracy.pixel_auroc,
                "aupro": accuracy.aupro,
                "threshold": accuracy.threshold,
                "n_defective": int(labels.sum()),
                "n_missed": int((labels & ~is_right).sum()),
                "n_good": int((~labels).sum()),
                "n_false_alarms": int((~labels & ~is_right).sum()),
                "milliseconds": milliseconds,
                "fps": 1e3 / milliseconds,
                "model_mib": model.detector.model_mib,
            }
        )
    return {
        "statement": verdicts.statement(),
        "notes": list(compared.notes),
        "models": models,
        "verdicts": verdicts.counts(),
        "pictures": _pictures(compared, order),
    }


def _pictures(compared: Compared, order: list[int]) -> list[dict[str, Any]]:
    """A row for each picture, in this order."""
    both = [(compared.current, compared.evaluated.accuracy), (compared.other, compared.accuracy)]
    sides = [(model.calibration, accuracy, accuracy.is_right) for model, accuracy in both]
    rows = []
    for position in order:
        picture, verdicts = both[0][1].pictures[position], []
        for calibration, accuracy, is_right in sides:
            score, threshold = accuracy.pictures[position].score, accuracy.threshold
            verdict = verdict_of(score, threshold, calibration.p_value(score)).value
            right = bool(is_right[position])
            verdicts.append({"score": score, "threshold": threshold, "verdict": verdict, "is_right": right})
        rows.append(
            {
                "name": picture.name,
                "kind": picture.kind,
                "is_defective": picture.is_defective,
                "differ": verdicts[0]["is_right"] != verdicts[1]["is_right"],
                "verdicts": verdicts,
            }
        )
    return rows

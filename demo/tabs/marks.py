"""Learning from mistakes: a picture inspected is marked as a defect, or added to the good ones that the model knows.

A marked defect is kept with the session, whatever the model, and with the models saved meanwhile: Evaluate counts it,
and each model says whether it finds it. A good picture is learned from, after the visitor was told what that changes;
the pictures inspected are then scored again.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from admodels import AdmodelsError, Detector, OptionError, Progress
from admodels.core import MIN_GROUP, drift_of
from admodels.evaluation import TestImage
from admodels.models import KnownDefect
from admodels.pictures import ImageLike, content_digest, picture_name, unpack
from demo.errors import refusal, shown_errors
from demo.state.cores import predict
from demo.state.current import Current
from demo.state.jobs import Tell
from demo.state.limits import check_number
from demo.state.marks import Added, Addition, MarkScores
from demo.state.session import Session
from demo.state.sessions import SESSIONS
from demo.tabs import scoring, threshold
from demo.view import marks as said_of_marks
from demo.view import text
from demo.view.outputs import filling

KIND = "marked in Inspect"
GONE = "This picture is no longer here. Inspect it again."
STAGES = {"learning": (0.0, 0.6), "setting the threshold": (0.6, 0.4)}


# --- for programs --------------------


def drift(files: list[str] | None, request: gr.Request) -> dict[str, Any]:
    """Say whether pictures are unlike the good ones as a group: light, camera or product may have changed.

    Args:
        files: pictures or one zip, at least 8 pictures; where empty, those inspected last.

    Returns:
        n, score_exceeds and background_exceeds (in what fraction of all pairs a picture exceeds a good one kept aside,
        by its score and by its background, where it is most normal), score_rise and background_rise (in units of the
        good pictures' spread), score_chance and background_chance (about how often good pictures exceed as much),
        is_drift and statement.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        current, inspection = session.in_use(), session.inspected
        if files:
            found = [prediction for *_, prediction in scoring.predictions(unpack(files).images, current)]
        elif inspection is not None:
            current, found = inspection.current, inspection.pictures
        else:
            raise OptionError(f"no pictures to look at. Upload at least {MIN_GROUP}, or inspect them first.")
        if not current.calibration.backgrounds:
            raise OptionError(
                "this model was saved by an earlier version, without what this takes. Train it again to use this."
            )
        value = drift_of(current.calibration, [p.score for p in found], [p.background for p in found])
        if value is None:
            raise OptionError(f"{len(found)} pictures received; at least {MIN_GROUP} are needed to speak of a group.")
    return dataclasses.asdict(value) | {"is_drift": value.is_drift, "statement": value.statement}


def update(
    files: list[str] | None,
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by its default value
) -> dict[str, Any]:
    """Learn from more good pictures without starting again; the current model becomes the new one, not saved yet.

    Args:
        files: good pictures, or one zip.

    Returns:
        model (its label), n_added, n_learned, n_held_out, threshold_before, threshold, and statement.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        images = unpack(files or []).images
        addition = _addition(session, images, [picture_name(image, i) for i, image in enumerate(images)])
        added = _add(session, addition, progress)
    report, calibration = added.after.detector.fit_report_, added.after.calibration
    return {
        "model": added.after.label,
        "n_added": len(addition.images),
        "n_learned": report.n_learned,
        "n_held_out": report.n_held_out,
        "threshold_before": added.before.calibration.threshold,
        "threshold": calibration.threshold,
        "statement": calibration.statement,
    }


def mark_defects(files: list[str] | None, request: gr.Request) -> list[dict[str, Any]]:
    """Keep pictures as known defects: Evaluate counts them, and the models used from now on are checked against them.

    Args:
        files: pictures with a defect, or one zip; where empty, nothing is added to those marked before.

    Returns:
        For each marked picture name, score, is_found, and found_at, the false-alarm rate from which on it is found, or
        null.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        session.in_use()
        images = unpack(files or []).images
        _check_room(session, len(images))
        for i, image in enumerate(images):
            session.mark(image, picture_name(image, i))
        scored = scores(session)
        if scored is None:
            raise OptionError("another model replaced this one in the meantime. Ask again.")
    calibration = scored.current.calibration
    return [
        {
            "name": mark.name,
            "score": scored.scores[mark.digest],
            "is_found": scored.is_found(mark),
            "found_at": calibration.finding_rate(scored.scores[mark.digest]),
        }
        for mark in session.marks
        if mark.digest in scored.scores
    ]


def unmark_defects(request: gr.Request) -> dict[str, int]:
    """Forget all pictures marked as defects.

    Returns:
        n_unmarked.
    """
    session = SESSIONS.of(request)
    n = len(session.marks)
    session.unmark([mark.digest for mark in session.marks])
    return {"n_unmarked": n}


# --- what the tabs ask --------------------


def scores(session: Session) -> MarkScores | None:
    """What the current model says of the marked pictures; None where there is no model, or it changes meanwhile.

    Raises:
        ImageError: a marked picture cannot be read by this model.
    """
    current, marks, known = session.current, session.marks, session.mark_scores
    if current is None:
        return None
    found = dict(known.scores) if known is not None and known.current.is_same_model(current) else {}
    missing = [mark for mark in marks if mark.digest not in found and mark.file is not None]
    for mark in missing:
        decoded = current.detector.read(mark.file, name=mark.name)
        found[mark.digest] = predict(current.detector, [decoded])[0].score
    kept = session.keep(MarkScores(current, found))
    return kept[0] if kept is not None else None


def labelled(session: Session, test: Sequence[TestImage]) -> list[TestImage]:
    """The marked pictures for an evaluation, less those that are among its own."""
    if not session.marks:
        return []
    there = {content_digest(item.path) for item in test}
    return [TestImage(m.file, KIND) for m in session.marks if m.file is not None and m.digest not in there]


def known_defects(session: Session, current: Current) -> list[KnownDefect]:
    """The marked pictures that a model has scored, to be saved with it.

    Raises:
        ImageError: a marked picture cannot be read by this model.
    """
    scored = scores(session)
    if scored is None or not scored.current.is_same_model(current):
        return []
    return [KnownDefect(m.digest, scored.scores[m.digest], m.file) for m in session.marks if m.digest in scored.scores]


# --- the tab's own --------------------


def good(request: gr.Request) -> None:
    """Ask whether the picture shown is to be added to the good ones."""
    session = SESSIONS.of(request)
    image, name = _in_view(request)
    with shown_errors():
        session.addition = _addition(session, [image], [name])


def all_good(request: gr.Request) -> None:
    """Ask whether all pictures inspected are to be added to the good ones."""
    session = SESSIONS.of(request)
    inspection = session.inspected
    if inspection is None:
        raise refusal(GONE)
    with shown_errors():
        images, names = [p.image for p in inspection.pictures], [p.name for p in inspection.pictures]
        session.addition = _addition(session, images, names)


def add(
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
) -> None:
    """Add what was asked about."""
    session = SESSIONS.of(request)
    addition, session.addition = session.addition, None
    if addition is not None:
        with shown_errors():
            _add(session, addition, progress)


def leave(request: gr.Request) -> None:
    """Add nothing."""
    SESSIONS.of(request).addition = None


def undo(request: gr.Request) -> None:
    """Go back to the model before the last addition."""
    session = SESSIONS.of(request)
    added, session.added = session.added, None
    if added is None or not added.after.is_same_model(session.current):
        raise refusal("The model was changed since. Load or train the one you want.")
    session.use(added.before)


def defect(request: gr.Request) -> None:
    """Mark the picture shown as a defect."""
    session = SESSIONS.of(request)
    image, name = _in_view(request)
    with shown_errors():
        _check_room(session, 1)
        session.mark(image, name)


def unmark(request: gr.Request) -> None:
    """Take the mark off the picture shown."""
    session = SESSIONS.of(request)
    with shown_errors():
        session.unmark([content_digest(_in_view(request)[0])])


def unmark_all(request: gr.Request) -> None:
    """Take all marks off."""
    unmark_defects(request)


def shown(request: gr.Request) -> dict[str, Any]:
    """What may be said of the picture in view, what was said, and what the model makes of it."""
    session = SESSIONS.of(request)
    in_view, marks, asked, added = session.shown, session.marks, session.addition, session.added
    checked, said = text.note(added.said) if added is not None else "", ""
    scored = here = None
    try:
        scored = scores(session) if marks else None
        here = session.mark_of(in_view.image) if in_view is not None and in_view.image is not None else None
    except AdmodelsError as error:  # nobody pressed anything
        checked += text.note(str(error), "error")
    if scored is not None:
        calibration, known = scored.current.calibration, [mark for mark in marks if mark.digest in scored.scores]
        if here in known:
            said = said_of_marks.marked_here(here.name, scored.scores[here.digest], calibration, here.is_kept)
        if known:
            checked += said_of_marks.marked(
                [m.name for m in known], [scored.scores[m.digest] for m in known], calibration
            )
    inspection = session.inspected
    value = scoring.drift(inspection) if inspection is not None else None
    return {
        "checked": gr.update(value=checked, visible=bool(checked)),
        "all_good": gr.update(visible=value is not None and value.is_drift),
        "undo": gr.update(visible=added is not None),
        # One whose picture is not here cannot be shown and unmarked.
        "unmark_all": gr.update(
            visible=len(marks) > 1 or any(mark.file is None for mark in marks),
            value=f"Unmark all {len(marks)}" if len(marks) > 1 else "Unmark it",
        ),
        "asking": gr.update(visible=asked is not None),
        "asked": asked.said if asked is not None else "",
        "box": gr.update(visible=in_view is not None and in_view.image is not None),
        "good": gr.update(visible=here is None),
        "defect": gr.update(visible=here is None),
        "unmark": gr.update(visible=here is not None),
        "said": gr.update(value=said, visible=bool(said)),
        **threshold.said_again(session, request.session_hash),
    }


def build_above() -> dict[str, Component]:
    """Lay out what stands below the headline: of the model and of all pictures together."""
    with gr.Row():
        all_good_button = gr.Button(
            "They are all good: add them to the model", size="sm", visible=False, scale=0, min_width=300
        )
    checked = gr.HTML(visible=False, elem_id="marks")
    with gr.Row():
        undo_button = gr.Button("Undo the addition", size="sm", visible=False, scale=0, min_width=170)
        unmark_all_button = gr.Button("Unmark all", size="sm", visible=False, scale=0, min_width=130)
    with gr.Group(visible=False) as asking:
        asked = gr.HTML(elem_classes="padded", elem_id="adding")
        with gr.Row():
            yes = gr.Button("Yes, add", variant="primary", size="sm", min_width=90)
            no = gr.Button("No", size="sm", min_width=90)
    return {
        "checked": checked,
        "all_good": all_good_button,
        "undo": undo_button,
        "unmark_all": unmark_all_button,
        "asking": asking,
        "asked": asked,
        "yes": yes,
        "no": no,
    }


def build() -> dict[str, Component]:
    """Lay out what stands below the verdict on a picture; it stays hidden until there is one."""
    with gr.Column(visible=False, elem_id="marking") as box:
        with gr.Row():
            good_button = gr.Button("This is good", size="sm", min_width=110)
            defect_button = gr.Button("This is a defect", size="sm", min_width=110)
            unmark_button = gr.Button("Unmark", size="sm", visible=False, min_width=110)
        said = gr.HTML(visible=False, elem_id="marked")
    return {"box": box, "good": good_button, "defect": defect_button, "unmark": unmark_button, "said": said}


def connect(buttons: dict[str, Component], panel_said: gr.HTML, shown_by: Sequence[gr.HTML]) -> list[Dependency]:
    """Wire the buttons; the events after which the model is another one.

    Args:
        buttons: what both functions above laid out.
        panel_said: what the panel of the threshold says; it names marked defects too.
        shown_by: when one of these changes, the model, the picture in view or what was said of it may have.
    """
    outputs, private = {**buttons, "panel_said": panel_said}, {"api_visibility": "private"}
    refresh = {**filling(shown, outputs), "show_progress": "hidden", **private}
    gr.on([html.change for html in shown_by], **refresh, trigger_mode="always_last")
    for name, handler in (
        ("good", good),
        ("all_good", all_good),
        ("no", leave),
        ("defect", defect),
        ("unmark", unmark),
        ("unmark_all", unmark_all),
    ):
        buttons[name].click(handler, None, None, **private).then(**refresh)
    files, told, drifted, rows, n = (
        gr.File(visible=False, file_count="multiple"),
        *(gr.JSON(visible=False) for _ in range(4)),
    )
    gr.on([], drift, files, drifted, api_name="drift", concurrency_id="inspect", concurrency_limit=2)
    gr.on([], update, files, told, api_name="update", concurrency_limit=None)
    gr.on([], mark_defects, files, rows, api_name="mark_defects", concurrency_id="inspect", concurrency_limit=2)
    gr.on([], unmark_defects, None, n, api_name="unmark_defects")
    # Both wait for their turn as a job does, and only look on meanwhile.
    added = buttons["yes"].click(add, None, None, concurrency_limit=None, show_progress_on=buttons["asked"], **private)
    undone = buttons["undo"].click(undo, None, None, **private)
    for event in (added, undone):
        event.then(**refresh)
    return [added, undone]


def _in_view(request: gr.Request) -> tuple[ImageLike, str]:
    """The picture that this page shows, as it came.

    Raises:
        gr.Error: there is none.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        shown = session.shown_on(request.session_hash)
    if shown is None or shown.image is None:
        raise refusal(GONE)
    return shown.image, shown.decoded.name


def _check_room(session: Session, n: int) -> None:
    check_number(len(session.marks) + n, "ADMODELS_MAX_INSPECTED")


def _addition(session: Session, images: Sequence[ImageLike], names: Sequence[str]) -> Addition:
    """Good pictures that can be added to the current model, and what that changes, in words.

    Raises:
        NotFittedError: there is no model.
        OptionError: none of them can be added, or the model cannot learn so.
    """
    current = session.in_use()
    detector, calibration = current.detector, current.calibration
    if not images:
        raise OptionError("no pictures selected. Upload good pictures.")
    check_number(len(images), "ADMODELS_MAX_PICTURES")
    if not detector.method.learns_held_out:
        raise OptionError(
            f"a {detector.title} model is trained in many steps and cannot learn from single pictures afterwards. "
            "Train it again, with these pictures among the good ones."
        )
    marked = {mark.digest for mark in session.marks}
    chosen = {}
    for image, name in zip(images, names, strict=True):
        digest = content_digest(image)
        if digest in marked:
            if len(images) == 1:
                raise OptionError(f"{name} is marked as a defect. Unmark it first.")
        elif digest not in current.learned:
            chosen.setdefault(digest, (image, name))
    if not chosen:
        what = names[0] if len(names) == 1 else "each of these pictures"
        raise OptionError(f"the model learned from {what} already; to learn from it once more would change nothing.")
    new_images, new_names = zip(*chosen.values(), strict=True)
    after, n_others, n_lost = None, 0, 0
    if len(new_images) == 1:
        score = predict(detector, [detector.read(new_images[0], name=new_names[0])])[0].score
        then = dataclasses.replace(calibration, scores=tuple(sorted((*calibration.scores, score))))
        after, known, inspection = then.threshold, session.mark_scores, session.inspected

        def n_below(scores: Iterable[float]) -> int:
            return sum(calibration.threshold < value <= after for value in scores)

        if known is not None and known.current.is_same_model(current):
            n_lost = n_below(known.scores[mark.digest] for mark in session.marks if mark.digest in known.scores)
        if inspection is not None and inspection.current.is_same_model(current):
            n_others = n_below(p.score for p in inspection.pictures if p.image is not new_images[0])
    said = said_of_marks.to_add(list(new_names), calibration, detector.fit_report_.n_learned, after, n_others, n_lost)
    return Addition(current, new_images, new_names, said)


def _add(session: Session, addition: Addition, progress: gr.Progress) -> Added:
    """Let the model learn from them, in the queue, and use it.

    Raises:
        gr.Error, AdmodelsError: it cannot, or another model took its place meanwhile; nothing is changed then.
    """

    def work(tell: Tell) -> Detector:
        def on_progress(at: Progress) -> None:
            start, width = STAGES.get(at.stage, (0.6, 0.1))
            tell(start + width * at.fraction, f"{at.stage}: {at.done} of {at.total}")

        # A detector of its own: others may be using this one.
        before = addition.current.detector
        return Detector(before.method, before.fitted_).update(addition.images, on_progress=on_progress)

    session.side_stop.begin()
    detector = session.run(work, progress)
    before = session.current
    if before is None or not addition.current.is_same_model(before):
        raise OptionError("another model replaced this one in the meantime. Nothing was added.")
    digests = frozenset(content_digest(image) for image in addition.images)
    after = before.extended(_judged_as(before, detector), digests)
    said = said_of_marks.added(list(addition.names), before.calibration.threshold, after.calibration.threshold)
    session.added = Added(before, after, said)
    session.use(after)
    return session.added


def _judged_as(before: Current, detector: Detector) -> Detector:
    """A detector with the threshold that was asked for last, which may have been moved while it learned."""
    calibration = before.calibration
    if calibration.hand_threshold is not None:
        return detector.with_threshold(threshold=calibration.hand_threshold)
    return detector.with_threshold(false_alarm_rate=calibration.false_alarm_rate)

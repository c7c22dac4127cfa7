"""The work of the Train tab: what a fit will take, the fit, followed by its page or a later one, and its loss."""

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import gradio as gr

from admodels import METHODS, AdmodelsError, Cancelled, Detector, Enough, OptionError, Progress, create
from admodels.core import n_apart
from admodels.pictures import content_digest, inspect_set, overlay, picture_name, thumbnail
from demo import sent
from demo.errors import nothing_follows, refusal, shown_errors
from demo.state import held, reach, zero_gpu
from demo.state.current import NOT_SAVED, Current
from demo.state.jobs import JOBS, Job, Tell
from demo.state.limits import check_number, limit
from demo.state.server import device_name
from demo.state.session import Chosen, Session
from demo.state.sessions import SESSIONS
from demo.state.speed import batch_seconds
from demo.state.time_left import TimeLeft
from demo.tabs import question, tiles
from demo.tabs.picking import chosen, show_picked
from demo.view import charts, options, text

# The part of a fit's time that each stage takes, start and width, as measured with 24 to 150 pictures on two cores: so
# the time that is left follows from how far it is. A method without one of them skips it.
STAGES = {
    "learning": (0.0, 0.5),
    "selecting the coreset": (0.5, 0.2),
    "computing the covariances": (0.5, 0.2),
    "computing the components": (0.5, 0.2),
    "training": (0.05, 0.9),
    "setting the threshold": (0.7, 0.3),
}
OTHER_STAGE = (0.5, 0.2)  # of a method that was added
# With folds the last stage learns as many models; before a training that takes minutes, to look at the pictures is a
# small part.
FOLDED = {"learning": (0.0, 0.15), "setting the threshold": (0.28, 0.72)}
OTHER_STAGE_FOLDED = (0.15, 0.13)
TRAINED = {"learning": (0.0, 0.05), "training": (0.05, 0.9), "setting the threshold": (0.95, 0.05)}
MAX_LOSS_POINTS = 1000
N_REVIEWED = 5  # of the good pictures, the most unusual, after each fit
NO_ESTIMATE = "Choose pictures first; then time, memory and model size are estimated here."


def estimate(request: gr.Request, folds: str, method: str, *values: Any) -> dict[str, Any]:
    """Say what a fit will take, before it starts; nothing where the options were changed again meanwhile."""
    session = SESSIONS.of(request)
    session.n_estimates = mine = session.n_estimates + 1
    pictures = session.pictures
    if pictures is None:
        return {"estimated": text.note(NO_ESTIMATE)}
    try:
        asked = collect_options(method, *values)
        found = _detector(*asked).estimate(pictures, n_folds=sent.folds(folds))
        session.estimated = (*asked, folds, len(pictures.images)), found.seconds
        said = text.estimate(found)
    except AdmodelsError as error:
        said = text.note(str(error), "error")
    return {"estimated": said} if mine == session.n_estimates else {}


def fit(
    files: list[str] | None,
    method: str,
    false_alarm_rate: float,
    options: str,
    seed: float,
    folds: str,
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by its default value
) -> dict[str, Any]:
    """Learn from good pictures and set the threshold from those held out.

    Args:
        files: good pictures, or one zip; where empty, the example set chosen before.
        method: a method's key, such as padim_isvd, or tiled.
        false_alarm_rate: fraction of good pictures that may alarm, between 0 and 1.
        options: the method's options as a JSON object, such as {"n_components": 32}; for tiled such as
            {"method": "fapm", "tile_size": 256, "member.grid": 5}.
        seed: which pictures are held out.
        folds: how pictures are held out: auto, a number of folds such as 5, or 0 for one split.

    Returns:
        Summary, chart of the held-out scores, and what the fit did: the fields of `FitReport`, method, model_mib,
        threshold, statement, fps, by batch size, unusual, the good pictures that were most unlike the others with their
        scores, apart, the names of those that stand apart, left_out, for each picture that could not be read a name and
        a reason, and zero_gpu, what ZeroGPU did not do where it was asked, and why; else empty. After a stop stopped is
        true; a network that was being trained is then not used before `keep_stopped`.
    """
    session = SESSIONS.of(request)
    stop = session.fit_stop.take()
    with _beginning(session), shown_errors():  # at once, not when its turn comes
        settings = {
            "false_alarm_rate": sent.number(false_alarm_rate, "false_alarm_rate", above=0, below=1),
            "n_folds": sent.folds(folds),
            "seed": sent.seed(seed),
        }
        asked, picked = _detector(method, options), chosen(session, files)
        pictures, left_out = dataclasses.replace(picked.images, errors=[]), picked.images.errors
        check_number(len(pictures.images), "ADMODELS_MAX_PICTURES")
        minutes = limit("ADMODELS_MAX_FIT_MINUTES")
        held.check_memory(session)

    def work(tell: Tell) -> Ended:
        session.losses, end = [], time.monotonic() + 60 * minutes
        for_what, estimated = session.estimated or (None, None)
        time_left = TimeLeft(estimated if for_what == (method, options, folds, len(pictures.images)) else None)
        was_stopped = threading.Event()
        is_folded = False

        def tell_left(stage: str, fraction: float, words: str) -> None:
            start, width = _part(stage, is_folded, is_trained=not asked.method.folds_by_default)
            whole = start + width * fraction
            left = time_left.seconds(whole)
            if left is not None:
                words += f"{', ' if ':' in words else ': '}{text.time_left(left)}"
            tell(whole, words)

        def on_progress(at: Progress) -> None:
            nonlocal is_folded, time_left
            if time.monotonic() > end:
                raise OptionError(
                    f"the fit took more than {minutes:g} minutes, the limit of this server. Nothing was changed. Give "
                    "fewer pictures, a smaller image_size or, for a method that is trained, max_minutes."
                )
            if at.stage == zero_gpu.WAITING and at.loss is None:
                time_left = dataclasses.replace(time_left)  # the fit's own time starts later
            if at.stage == "learning":  # with folds from all of them before any is held out
                is_folded = at.total == len(pictures.images)
            try:
                _on_progress(session, stop, at, partial(tell_left, "training" if at.loss is not None else at.stage))
            except Enough:
                was_stopped.set()
                raise

        not_done = ""
        if zero_gpu.is_there():
            detector, not_done = zero_gpu.fit(asked, pictures, on_progress, **settings)
        else:
            detector = asked.fit(pictures, on_progress=on_progress, **settings)
        learned = frozenset(content_digest(image) for image in pictures.images)
        unusual = [(picture_name(pictures.images[i], i), score) for i, score in detector.held_out_]
        apart = detector.held_out_[: n_apart([score for _, score in unusual])]
        session.apart = tuple(pictures.images[i] for i, _ in apart)
        session.n_fits += 1
        seconds = batch_seconds(detector, pictures.images)
        label = f"{detector.title}, fit {session.n_fits}{NOT_SAVED}"
        current = Current(detector, label, learned, seconds=seconds)
        result = dataclasses.asdict(detector.fit_report_) | {
            "method": method,
            "model_mib": detector.model_mib,
            "threshold": detector.calibration_.threshold,
            "statement": detector.calibration_.statement,
            "fps": {str(n): n / taken for n, taken in seconds.items()},
            "unusual": [{"name": name, "score": score} for name, score in unusual[: max(N_REVIEWED, len(apart))]],
            "apart": [name for name, _ in unusual[: len(apart)]],
            "left_out": [{"name": error.picture, "reason": error.reason} for error in left_out],
            "zero_gpu": not_done,
        }
        if was_stopped.is_set():
            session.question = question.of_stopped(session, current)
            result |= {"stopped": True}
        else:
            session.use(current)
        return Ended(detector, result, seconds, picked)

    with _beginning(session), shown_errors():
        session.job = job = JOBS.submit(work, stop)
    session.has_begun()
    return _follow(session, job, request.session_hash, progress)


@contextmanager
def _beginning(session: Session) -> Iterator[None]:
    """A fit that fails in here will never begin."""
    try:
        yield
    except BaseException:
        session.has_begun()
        raise


class Ended(NamedTuple):
    """A fit that ended: the detector, and what the API says of it."""

    detector: Detector
    result: dict[str, Any]
    seconds: dict[int, float]  # as in `Current`
    picked: Chosen  # what it learned from: a camera's files are there as long as this is


def follow_fit(
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
) -> dict[str, Any]:
    """Show the fit that this visitor asked for on an earlier page, as it goes on or as it ended."""
    session = SESSIONS.of(request)
    job = session.job
    if job is None or not job.is_there:
        return {}
    return _follow(session, job, request.session_hash, progress)


def _follow(session: Session, job: Job, page: str, progress: gr.Progress) -> dict[str, Any]:
    is_page = page in session.pages

    def told(*at: Any, **named: Any) -> None:
        if is_page and page not in session.pages:  # it was closed: to look on for it would take a place from others
            raise nothing_follows()
        progress(*at, **named)

    try:
        detector, result, seconds, picked = JOBS.follow(job, told)
    except Cancelled:
        current = session.current
        kept = f" Your model {current.label!r} is still there." if current is not None else ""
        return {"result": text.note(f"Stopped. Nothing was changed.{kept}"), "report": {"stopped": True}}
    figure = gr.Plot(charts.score_histogram(detector.calibration_), visible=True)
    said = text.fit_summary(detector, seconds, text.NEXT if picked.captured is None else text.NEXT_LIVE)
    if result["zero_gpu"]:
        said = text.note(result["zero_gpu"], "warning") + said
    if result["left_out"]:
        listed = "\n".join(f"• {item['name']}: {item['reason']}" for item in result["left_out"])
        warning = f"{len(result['left_out'])} pictures could not be read and were left out:\n{listed}"
        said = text.note(warning, "warning") + said
    return {"result": said, "chart": figure, "report": result}


def review(request: gr.Request) -> dict[str, Any]:
    """The most unusual of the good pictures, for somebody to look at: one with a defect makes a model miss others."""
    job = SESSIONS.of(request).job
    if job is None or job.is_running or job.outcome.exception() is not None:
        return {}
    detector, result, _, picked = job.outcome.result()
    captions = [f"{item['score']:.3g} {item['name']}" for item in result["unusual"]]
    pictures = []
    for position, _ in detector.held_out_[: len(captions)]:
        decoded = detector.read(picked.images.images[position])
        said = detector.held_out_prediction(position, decoded)
        pictures.append(thumbnail(overlay(decoded.pixels, said) if said is not None else decoded.pixels))
    apart = result["apart"]
    return {
        "reviewed": gr.Gallery(list(zip(pictures, captions, strict=True)), visible=True),
        "apart": gr.HTML(text.apart(apart), visible=bool(apart)),
        "leave_out": gr.Button(visible=bool(apart)),
        "live": gr.Button(visible=picked.captured is not None),
    }


def leave_out(request: gr.Request) -> dict[str, Any]:
    """Choose the good pictures of the last fit again, without those that stand apart."""
    session = SESSIONS.of(request)
    picked, apart = session.chosen, session.apart
    rest = [image for image in picked.images.images if not any(image is other for other in apart)] if picked else []
    if not apart or len(rest) != len(picked.images.images) - len(apart):
        raise refusal("These good pictures were changed since. Choose them again, and train.")
    session.n_picks += 1
    looked_at = dataclasses.replace(inspect_set(rest), notices=picked.images.notices, errors=picked.images.errors)
    session.chosen = picked = dataclasses.replace(
        picked, images=looked_at, source=f"{picked.source}; {len(apart)} left out"
    )
    session.apart = ()
    return show_picked(picked)


def _part(stage: str, is_folded: bool, is_trained: bool) -> tuple[float, float]:
    """Start and width of a stage in the whole of a fit, which goes from 0 to 1."""
    if stage == zero_gpu.WAITING:
        return 0.0, 0.0
    if is_trained:
        return TRAINED.get(stage, OTHER_STAGE)
    return FOLDED.get(stage, OTHER_STAGE_FOLDED) if is_folded else STAGES.get(stage, OTHER_STAGE)


def _on_progress(session: Session, stop: threading.Event, at: Progress, tell: Tell) -> None:
    """Note a fit's progress, and tell how far its stage is, from 0 to 1, and in words."""
    if stop.is_set():
        if at.loss is not None:
            stop.clear()  # what is trained is kept; another press then stops the rest
            raise Enough("stopped")
        raise Cancelled("stopped")
    if at.stage == "training" and at.loss is None:
        description = "training: before the first step"
    elif at.stage == "training":
        description = f"training: step {at.done:,} of {at.total:,}, loss {at.loss:.3g}"
        session.losses.append((at.done, at.loss))
        if len(session.losses) > MAX_LOSS_POINTS:
            session.losses = session.losses[::2]
    elif at.loss is not None:  # between two calls of ZeroGPU
        description = f"{at.stage}, after step {at.done:,} of {at.total:,}"
    elif at.stage in ("learning", "setting the threshold"):
        description = f"{at.stage}: {at.done} of {at.total} pictures"
    else:
        description = at.stage  # the bar has the percentage, of the whole fit
    tell(at.fraction, description)


def losses(request: gr.Request) -> dict[str, Any]:
    """The loss of the training so far, for methods that train a network."""
    session = SESSIONS.of(request)
    return {"loss_chart": gr.Plot(charts.losses(session.losses), visible=True)} if session.losses else {}


def follow_losses(request: gr.Request) -> dict[str, Any]:
    """Go on looking at the loss as long as a fit runs: this may come late, when another one was begun meanwhile."""
    session = SESSIONS.of(request)
    return {"clock": gr.Timer(active=session.has_fit)}


def begin_fit(request: gr.Request) -> None:
    """Let a fit begin, unless one runs already, or a stopped one still asks what to do with its network."""
    session = SESSIONS.of(request)
    if session.has_fit:
        raise refusal("A fit of yours runs already, perhaps on another page. Press Stop to end it, or wait for it.")
    if session.question is not None and session.question.stopped is not None:
        raise refusal(question.FIRST)
    session.capturing = None
    session.begin_fit()


def start_anew(request: gr.Request) -> dict[str, Any]:
    """Take away what an earlier fit left, and look at the loss from now on."""
    session = SESSIONS.of(request)
    if not session.is_fitting:
        session.losses = []
    hidden = gr.Plot(None, visible=False)
    review = dict.fromkeys(("reviewed", "apart", "leave_out", "live"), gr.update(visible=False))
    charts_gone = {"loss_chart": hidden, "chart": hidden}
    return {"clock": gr.Timer(active=True), "result": text.note(text.NO_RESULT), **charts_gone, **review}


def method_changed(method: str) -> dict[str, Any]:
    """Show the chosen method's options only, the common ones and, as `<method>.expert`, the others."""
    return {f"{key}{more}": gr.update(visible=key == method) for key in METHODS for more in ("", ".expert")}


def collect_options(method: str, *values: Any) -> tuple[str, str]:
    """The same with the options as JSON, as the API's `fit` takes them."""
    asked, found = chosen_options(method, *values)
    return asked, json.dumps(found)


def chosen_options(method: str, *values: Any) -> tuple[str, dict[str, Any]]:
    """The method to fit and its options that differ from their defaults, from the values of all controls."""
    n_tiled = 1 + len(tiles.FIELDS)
    of_tiles, rest = values[:n_tiled], list(values[n_tiled:])
    chosen: dict[str, Any] = {}
    for key, cls in METHODS.items():
        fields = dataclasses.fields(cls.Config)
        mine, rest = rest[: len(fields)], rest[len(fields) :]
        if key == method:
            chosen = options.changed(fields, mine)
    return tiles.asked(method, chosen, *of_tiles)


def _detector(method: str, options: str) -> Detector:
    values = sent.json_object(options, "options")
    if "device" in values:
        raise OptionError("device is not an option here; the server chooses it. Remove it.")
    reach.check(values)
    return create(method, device=device_name(), **values)

"""The Fit tab: choose good pictures, see what a fit will take, fit, stop."""

import dataclasses
import json
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.events import Dependency

from admodels import METHODS, AdmodelsError, Cancelled, Detector, Enough, ImageError, OptionError, Progress, create
from admodels.evaluation import normal_images
from admodels.pictures import ImageSet, choose_value_range, content_digest, decode, inspect_set, thumbnail, unpack
from admodels.tiling import OF_THE_TILES, TiledEnsemble
from demo import sent
from demo.errors import refusal, shown_errors
from demo.state import zero_gpu
from demo.state.current import Current
from demo.state.jobs import JOBS, Job, Tell
from demo.state.limits import PICTURE_TYPES, check_number, limit
from demo.state.session import SESSIONS, Chosen, Session, device_name
from demo.tabs import question, tiles
from demo.view import charts, options, text

# How much of the bar each stage of a fit takes, start and width; a method without one of them skips it.
STAGES = {
    "learning": (0.0, 0.6),
    "selecting the coreset": (0.6, 0.1),
    "computing the covariances": (0.6, 0.1),
    "computing the components": (0.6, 0.1),
    "training": (0.1, 0.8),
    "setting the threshold": (0.7, 0.3),
}
MAX_LOSS_POINTS = 1000
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EXAMPLE_SETS = {"Paper with specks": EXAMPLES / "pa_brg02_rl", "Paper with fibres": EXAMPLES / "pa_brg03_tl"}
N_THUMBNAILS = 10
NO_RESULT = "The result will appear here."
CHOICES = [(cls.title, key) for key, cls in METHODS.items()]


def pick_files(files: list[str] | None, request: gr.Request) -> tuple[Any, Any]:
    """Take uploaded pictures as the good ones; what cannot be read is listed, all at once."""
    session = SESSIONS.of(request)
    session.n_picks = mine = session.n_picks + 1
    chosen = None
    if files:
        with shown_errors():
            chosen = Chosen(_look(files), tuple(files))
    if mine != session.n_picks:  # others were chosen while these were looked at
        return gr.skip(), gr.skip()
    session.chosen = chosen
    if chosen is None:
        return text.note("No pictures chosen yet."), []
    return text.picked(chosen.images, "your upload"), _thumbnails(chosen.images)


def pick_example(name: str, request: gr.Request) -> tuple[Any, Any, Any]:
    """Take one of the example sets as the good pictures."""
    session = SESSIONS.of(request)
    session.n_picks = mine = session.n_picks + 1
    images = inspect_set(normal_images(EXAMPLE_SETS[name]))
    if mine != session.n_picks:
        return gr.skip(), gr.skip(), gr.skip()
    session.chosen = Chosen(images)
    return text.picked(images, f"the example “{name}”"), _thumbnails(images), None


def estimate(request: gr.Request, folds: str, method: str, *values: Any) -> Any:
    """Say what a fit will take, before it starts; nothing where the options were changed again meanwhile."""
    session = SESSIONS.of(request)
    session.n_estimates = mine = session.n_estimates + 1
    pictures = session.pictures
    if pictures is None:
        return text.note("Choose pictures first; then time, memory and model size are estimated here.")
    try:
        detector = _detector(*collect_options(method, *values))
        said = text.estimate(detector.estimate(pictures, n_folds=sent.folds(folds)))
    except AdmodelsError as error:
        said = text.note(str(error), "error")
    return said if mine == session.n_estimates else gr.skip()


def fit(
    files: list[str] | None,
    method: str,
    false_alarm_rate: float,
    options: str,
    seed: float,
    folds: str,
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by its default value
) -> tuple[str, Any, dict]:
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
        threshold, statement, and left_out, for each picture that could not be read a name and a reason. After a stop
        stopped is true; a network that was being trained is then not used before `keep_stopped`.
    """
    session = SESSIONS.of(request)
    with shown_errors():  # at once, not when its turn comes
        settings = {
            "false_alarm_rate": sent.number(false_alarm_rate, "false_alarm_rate", above=0, below=1),
            "n_folds": sent.folds(folds),
            "seed": sent.seed(seed),
        }
        asked, (pictures, left_out) = _detector(method, options), _chosen(session, files)
        check_number(len(pictures.images), "ADMODELS_MAX_PICTURES")
        minutes = limit("ADMODELS_MAX_FIT_MINUTES")

    def work(tell: Tell) -> Ended:
        session.losses, end = [], time.monotonic() + 60 * minutes
        was_stopped = threading.Event()

        def on_progress(at: Progress) -> None:
            if time.monotonic() > end:
                raise OptionError(
                    f"the fit took more than {minutes:g} minutes, the most that this server gives to one. Nothing was "
                    "changed. Give fewer pictures, a smaller image_size, or for EfficientAD max_minutes."
                )
            try:
                _on_progress(session, at, tell)
            except Enough:
                was_stopped.set()
                raise

        if zero_gpu.takes(asked):
            detector = zero_gpu.fit(asked, pictures, on_progress, **settings)
        else:
            detector = asked.fit(pictures, on_progress=on_progress, **settings)
        learned = frozenset(content_digest(image) for image in pictures.images)
        session.n_fits += 1
        current = Current(detector, f"{detector.title}, fit {session.n_fits}, not saved yet", learned)
        result = dataclasses.asdict(detector.fit_report_) | {
            "method": method,
            "model_mib": detector.model_mib,
            "threshold": detector.calibration_.threshold,
            "statement": detector.calibration_.statement,
            "left_out": [{"name": error.picture, "reason": error.reason} for error in left_out],
        }
        if was_stopped.is_set():
            session.question = question.of_stopped(session, current)
            result |= {"stopped": True}
        else:
            session.use(current)
        return Ended(detector, result)

    with shown_errors():
        session.job = job = JOBS.submit(work, session.stop)
    return _follow(session, job, progress)


class Ended(NamedTuple):
    """A fit that ended: the detector, and what the API says of it."""

    detector: Detector
    result: dict[str, Any]


def follow_fit(
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
) -> tuple[str, Any, dict]:
    """Show the fit that this visitor asked for on an earlier page, as it goes on or as it ended."""
    session = SESSIONS.of(request)
    job = session.job
    if job is None or not job.is_there:
        return (gr.skip(),) * 3
    return _follow(session, job, progress)


def _follow(session: Session, job: Job, progress: gr.Progress) -> tuple[str, Any, dict]:
    try:
        detector, result = JOBS.follow(job, progress)
    except Cancelled:
        current = session.current
        kept = f" Your model {current.label!r} is still there." if current is not None else ""
        return text.note(f"Stopped. Nothing was changed.{kept}"), gr.skip(), {"stopped": True}
    figure = gr.Plot(charts.score_histogram(detector.calibration_), visible=True)
    said = text.fit_summary(detector)
    if result["left_out"]:
        listed = "\n".join(f"• {item['name']}: {item['reason']}" for item in result["left_out"])
        warning = f"{len(result['left_out'])} pictures could not be read and were left out:\n{listed}"
        said = text.note(warning, "warning") + said
    return said, figure, result


def _on_progress(session: Session, at: Progress, tell: Tell) -> None:
    if session.stop.is_set():
        if at.stage == "training" and at.loss is not None:
            session.stop.clear()  # what is trained is kept; another press then stops the rest
            raise Enough("stopped")
        raise Cancelled("stopped")
    start, width = STAGES[at.stage]
    if at.stage.startswith(("selecting", "computing")):
        description = f"{at.stage}: {at.fraction:.0%}"
    elif at.stage == "training" and at.loss is None:
        description = "training: asking the teacher"
    elif at.stage == "training":
        left = text.duration(at.seconds / at.done * (at.total - at.done))
        description = f"training: step {at.done:,} of {at.total:,}, loss {at.loss:.3g}, {left} left"
        session.losses.append((at.done, at.loss))
        if len(session.losses) > MAX_LOSS_POINTS:
            session.losses = session.losses[::2]
    else:
        description = f"{at.stage}: {at.done} of {at.total} pictures"
    tell(start + width * at.fraction, description)


def losses(request: gr.Request) -> Any:
    """The loss of the training so far, for methods that train a network."""
    session = SESSIONS.of(request)
    return gr.Plot(charts.losses(session.losses), visible=True) if session.losses else gr.skip()


def follow_losses(request: gr.Request) -> Any:
    """Go on looking at the loss as long as a fit runs: this may come late, when another one was begun meanwhile."""
    return gr.Timer(active=SESSIONS.of(request).is_fitting)


def begin(request: gr.Request) -> None:
    """Forget an earlier press of Stop; from here on it counts for what was just asked for."""
    SESSIONS.of(request).begin()


def begin_fit(request: gr.Request) -> None:
    """The same before a fit, which waits for the answer to what a stopped one asked."""
    session = SESSIONS.of(request)
    if session.question is not None and session.question.stopped is not None:
        raise refusal(question.FIRST)
    session.begin()


def start_anew(request: gr.Request) -> tuple[Any, str, Any, Any]:
    """Take away what an earlier fit left, and look at the loss from now on."""
    session = SESSIONS.of(request)
    if not session.is_fitting:
        session.losses = []
    return gr.Timer(active=True), text.note(NO_RESULT), gr.Plot(None, visible=False), gr.Plot(None, visible=False)


def stop(request: gr.Request) -> None:
    """Stop this visitor's fit or evaluation: at the next batch, or before it starts if it is still waiting.

    A network that is being trained is kept as it is then, and calibrated.
    """
    SESSIONS.of(request).stop.set()
    gr.Info("Stopping.")


def method_changed(method: str) -> list:
    """Show the chosen method's sentence and options only."""
    shown = [gr.update(visible=key == method) for key in METHODS]
    return [text.note(METHODS[method].summary), *shown]


def collect_options(method: str, *values: Any) -> tuple[str, str]:
    """The method to fit and, as JSON, its options that differ from their defaults, from the values of all controls."""
    n_tiled = 1 + len(tiles.FIELDS)
    of_tiles, rest = values[:n_tiled], list(values[n_tiled:])
    chosen: dict[str, Any] = {}
    for key, cls in METHODS.items():
        fields = dataclasses.fields(cls.Config)
        mine, rest = rest[: len(fields)], rest[len(fields) :]
        if key == method:
            chosen = options.changed(fields, mine)
    asked, found = tiles.asked(method, chosen, *of_tiles)
    return asked, json.dumps(found)


class Tab(NamedTuple):
    """What the composition of the tabs needs of this one: the end of a fit, and how a page that comes back goes on.

    Attributes:
        come_back: functions and their outputs, one after the other; the last one ends with the visitor's fit.
    """

    fitted: Dependency
    come_back: list[dict[str, Any]]


def chosen_before(request: gr.Request) -> tuple[Any, Any, Any]:
    """What this visitor had chosen on an earlier page; the loss chart moves while a fit runs."""
    session = SESSIONS.of(request)
    clock = gr.Timer(active=session.is_fitting)
    if session.pictures is None:
        return gr.skip(), gr.skip(), clock
    shown = gr.Gallery(_thumbnails(session.pictures), visible=True)
    return text.picked(session.pictures, "before"), shown, clock


def build() -> Tab:
    """Lay out the tab."""
    gr.Markdown("Teach it what **good** parts look like: 20 to 100 pictures taken the same way. No defects are needed.")
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            with gr.Row():
                example_buttons = [gr.Button(f"Try: {name}", size="sm") for name in EXAMPLE_SETS]
            files = gr.File(
                label="Good pictures, or one zip",
                file_count="multiple",
                file_types=[*PICTURE_TYPES, ".zip"],
                height=150,
            )
            picked = gr.HTML(text.note("No pictures chosen yet."))
            gallery = gr.Gallery(
                elem_classes="thumbs",
                label="First pictures",
                columns=5,
                height=230,
                show_label=False,
                interactive=False,
                visible=False,
                object_fit="contain",
                buttons=[],
            )
            method = gr.Dropdown(CHOICES, value=CHOICES[0][1], label="Method")
            summary = gr.HTML(text.note(METHODS[CHOICES[0][1]].summary))
            cut = tiles.build()
            with gr.Accordion("Which method?", open=False):
                gr.HTML(text.chooser(json.loads((EXAMPLES / "methods.json").read_text(encoding="utf-8"))))
            rate = gr.Slider(
                0.001,
                0.2,
                value=0.01,
                step=0.001,
                label="False-alarm rate",
                info="The fraction of good pictures that may alarm; the threshold is set for it.",
            )
            groups, controls = [], []
            with gr.Accordion("Options", open=False):
                for key, cls in METHODS.items():
                    with gr.Group(visible=key == CHOICES[0][1]) as group:
                        controls += [options.control(field) for field in dataclasses.fields(cls.Config)]
                    groups.append(group)
                folds = gr.Dropdown(
                    [("auto", "auto"), ("5 folds: each held out once", "5"), ("one split: a fifth held out", "0")],
                    value="auto",
                    label="Held-out pictures",
                    info="They set the threshold. auto takes folds for up to 100 pictures.",
                    allow_custom_value=True,
                )
                seed = gr.Number(0, label="Seed", precision=0, info="Which pictures are held out.")
        with gr.Column(scale=1, min_width=320):
            gr.Markdown("#### What it will take")
            estimated = gr.HTML(
                text.note("Choose pictures first; then time, memory and model size are estimated here.")
            )
            with gr.Row():
                fit_button = gr.Button("Fit", variant="primary")
                stop_button = gr.Button("Stop", variant="stop")
            result = gr.HTML(text.note(NO_RESULT), elem_id="fit-result", min_height=120)
            loss_chart = gr.Plot(show_label=False, visible=False)
            chart = gr.Plot(label="Held-out normals", show_label=False, visible=False)
    clock = gr.Timer(2.0, active=False)
    asked_method, asked_options = gr.Textbox(CHOICES[0][1], visible=False, max_lines=1), gr.Textbox("{}", visible=False)
    report = gr.JSON(visible=False)

    shown = [picked, gallery]
    every = [method, *cut.inputs, *controls]
    collect = {
        "fn": collect_options,
        "inputs": every,
        "outputs": [asked_method, asked_options],
        "api_visibility": "private",
    }
    guess = {
        "fn": estimate,
        "inputs": [folds, *every],
        "outputs": estimated,
        "api_visibility": "private",
        "show_progress": "minimal",
        "trigger_mode": "always_last",  # else a change while an estimate runs would leave the old one standing
    }
    draw = {
        "fn": tiles.show,
        "inputs": [method, *cut.inputs],
        "outputs": cut.outputs,
        "api_visibility": "private",
        "show_progress": "hidden",
        "trigger_mode": "always_last",
    }
    # The last change counts, whatever came while others were looked at.
    pick = {"fn": pick_files, "inputs": files, "outputs": shown, "api_visibility": "private"}
    pick |= {"trigger_mode": "always_last"}
    picks = [files.upload(**pick)]
    for event in (files.clear, files.delete):
        event(**pick).then(**guess)
    for name, button in zip(EXAMPLE_SETS, example_buttons, strict=True):
        choose = gr.State(name)
        picks.append(button.click(pick_example, choose, [*shown, files], api_visibility="private"))
    for event in picks:
        event.then(lambda: gr.update(visible=True), None, gallery, api_visibility="private").then(**guess)
        event.then(**draw)
    method.change(method_changed, method, [summary, *groups], api_visibility="private").then(**guess)
    gr.on([folds.change, *(c.change for c in (*cut.inputs, *controls))], **guess)
    gr.on([c.change for c in cut.inputs], **draw)
    # An ensemble has such options of its own, and its method's would not count.
    names = [field.name for cls in METHODS.values() for field in dataclasses.fields(cls.Config)]
    shared = [control for name, control in zip(names, controls, strict=True) if name in OF_THE_TILES]
    cut.on.change(
        lambda on: [gr.update(visible=not on)] * len(shared),
        cut.on,
        shared,
        api_visibility="private",
        show_progress="hidden",
    )
    hidden = {"api_visibility": "private", "show_progress": "hidden"}
    asked = fit_button.click(begin_fit, None, None, api_visibility="private", queue=False)
    asked = asked.success(start_anew, None, [clock, result, loss_chart, chart], **hidden)
    clock.tick(losses, None, loss_chart, **hidden)
    fitted = asked.success(show_progress="hidden", **collect).success(
        fit,
        [files, asked_method, rate, asked_options, seed, folds],
        [result, chart, report],
        api_name="fit",
        concurrency_limit=None,  # those that wait only look on; the jobs themselves are done one at a time
        show_progress_on=result,
    )
    still = {"fn": follow_losses, "inputs": None, "outputs": clock, **hidden}
    fitted.then(losses, None, loss_chart, **hidden).then(**still)
    gr.on([], stop, None, None, api_name="stop")  # the first of this name
    stop_button.click(stop, None, None, api_visibility="private", queue=False)
    come_back = [
        {"fn": chosen_before, "inputs": None, "outputs": [*shown, clock], **hidden},
        guess,
        {
            "fn": follow_fit,
            "inputs": None,
            "outputs": [result, chart, report],
            "api_visibility": "private",
            "concurrency_limit": None,
            "show_progress_on": result,
        },
        {"fn": losses, "inputs": None, "outputs": loss_chart, **hidden},
        still,
    ]
    return Tab(fitted, come_back)


def _detector(method: str, options: str) -> Any:
    values = sent.json_object(options, "options")
    if "device" in values:
        raise OptionError("device is no option; the server chooses it. Leave it out.")
    detector = create(method, device=device_name(), **values)
    method = detector.method
    for config in [method.config, method.member.config] if isinstance(method, TiledEnsemble) else [method.config]:
        for field in dataclasses.fields(config):
            words, value = field.metadata["for_all"], getattr(config, field.name)
            if words is not None and value not in words:
                raise OptionError(
                    f"{field.name} is {value!r}; in the app it may be {' or '.join(words)}, since a visitor has no "
                    "business with the server's files and cluster. Use Python or the command line for it."
                )
    return detector


def _chosen(session: Session, files: list[str] | None) -> tuple[ImageSet, list[ImageError]]:
    """The pictures to fit on, and those that cannot be read."""
    chosen = session.chosen
    if files and (chosen is None or tuple(files) != chosen.files):  # an API call, or a click before they were looked at
        session.n_picks += 1
        session.chosen = chosen = Chosen(_look(files), tuple(files))
    if chosen is None:
        raise OptionError("no pictures were chosen. Upload good pictures or press an example set first.")
    return dataclasses.replace(chosen.images, errors=[]), chosen.images.errors


def _look(files: list[str]) -> ImageSet:
    found = unpack(files)
    looked_at = inspect_set(found.images, thorough=True)
    if found.statement:
        return dataclasses.replace(looked_at, notices=(*looked_at.notices, found.statement))
    return looked_at


def _thumbnails(images: ImageSet) -> list:
    try:
        scale = choose_value_range(images.deep)
    except OptionError:  # said by the estimate, with the remedy
        scale = None
    return [thumbnail(decode(image, value_range=scale).pixels) for image in images.images[:N_THUMBNAILS]]

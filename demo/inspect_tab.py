"""The Inspect tab: score pictures with the current model, look at one of them, move the threshold, compare models."""

import csv
import dataclasses
import threading
import time
from typing import Any

import gradio as gr
import numpy as np

from admodels import (
    Cancelled,
    Detector,
    ImageSetError,
    NotFittedError,
    OptionError,
    Prediction,
    Progress,
    create,
)
from admodels.base import BATCH_SIZE
from admodels.datasets import load_dataset
from admodels.images import DecodedImage, ImageLike, content_digest, decode, picture_name, unpack
from admodels.render import overlay, rarity, thumbnail
from admodels.tiled import OF_THE_TILES, TiledEnsemble
from admodels.timing import measure_speed
from demo import charts, text, threshold, tiles
from demo.errors import shown_errors
from demo.fit_tab import EXAMPLE_SETS
from demo.jobs import JOBS, Tell
from demo.limits import check_number
from demo.session import SESSIONS, Inspected, Session, device_name

WHOLE = "combined"
N_DETAIL = 6  # outputs that show one picture
AT_ONCE = 4 * BATCH_SIZE  # pictures whose maps are in memory together
COLUMNS = ("picture", "score", "p-value", "verdict")


def inspect(
    files: list[str] | None,
    opacity: float,
    contour: bool,
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
) -> tuple:
    """Score pictures with the current model and show the first one.

    Args:
        files: pictures of any size, or one zip; at most 64 unless the server allows more.
        opacity: of the heatmap, from 0 to 1.
        contour: draw the edge of what is above the pixel threshold.

    Returns:
        Gallery, slider of picture and heatmap, verdict, colour bar, histogram, scores of tiles, parts of the map,
        table, speed, and for each picture a row with name, score, threshold, p_value, rarer_than and is_anomalous.
    """
    with shown_errors():
        images = unpack(files or [])
    return _inspect(images, opacity, contour, SESSIONS.of(request), progress)


def scores_file(request: gr.Request) -> str:
    """The scores of the pictures inspected last, at the current threshold, as a CSV file."""
    session = SESSIONS.of(request)
    if not session.inspected:
        raise gr.Error("There are no scores yet. Inspect pictures first.")
    file = session.download_folder() / "scores.csv"
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([COLUMNS, *_table(session, digits=17)])
    return str(file)


def inspect_example(name: str, opacity: float, contour: bool, request: gr.Request) -> tuple:
    """Score the defective pictures of an example set."""
    images = [item.path for item in load_dataset(EXAMPLE_SETS[name]).test if item.is_defective]
    return _inspect(images, opacity, contour, SESSIONS.of(request))


def select(opacity: float, contour: bool, request: gr.Request, event: gr.SelectData) -> tuple:
    """Show the picture that was clicked in the gallery."""
    session = SESSIONS.of(request)
    if event.index >= len(session.inspected):
        raise gr.Error("These pictures are no longer here. Upload them again.")
    image = session.inspected[event.index].image
    with shown_errors():
        prediction = session.model().predict(image)
    session.shown = decode(image, position=event.index), prediction
    return _detail(session, opacity, contour)


def redraw(opacity: float, contour: bool, part: str, request: gr.Request) -> Any:
    """Draw the heatmap again after a change of opacity, contour or part."""
    session = SESSIONS.of(request)
    if session.shown is None:
        return None
    decoded, prediction = session.shown
    if part in prediction.parts:
        prediction = dataclasses.replace(prediction, anomaly_map=prediction.parts[part])
    return _slider(decoded, prediction, opacity, contour)


def moved(how: str, rate: float, value: float, opacity: float, contour: bool, request: gr.Request) -> tuple:
    """Judge what is shown by another threshold."""
    session = SESSIONS.of(request)
    panel = threshold.react(session, how, rate, value)
    shown = _detail(session, opacity, contour) if session.shown else (gr.skip(),) * N_DETAIL
    return (*panel, _gallery(session), *shown, _table(session))


def speed(
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
) -> tuple[str, list[dict]]:
    """Measure the current model's speed on the pictures inspected, one at a time and in batches: warm, synchronised.

    Returns:
        The figures as HTML, and for batch 1 and batch 8 the fields of `Speed`, in seconds for a batch.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        detector = session.model()
        if not session.inspected:
            raise NotFittedError("there is no picture to measure with yet. Inspect one first.")
        images = [session.inspected[i % len(session.inspected)].image for i in range(BATCH_SIZE)]

    def work(tell: Tell) -> list:
        tell(0.1, "measuring")
        return [measure_speed(detector, images[:1]), measure_speed(detector, images)]

    # Alone, since what runs beside it would be measured too.
    measured = JOBS.run(work, threading.Event(), progress)
    return text.speed(measured), [dataclasses.asdict(value) for value in measured]


def compare(name: str, request: gr.Request) -> tuple[str, Any, Any, str, list[dict]]:
    """Score the picture that is shown with a saved model too; both heatmaps are coloured by their pixels' p-values.

    Args:
        name: a saved model, or hf-hub:owner/name@revision.

    Returns:
        A table, both heatmaps, the colour bar, and for the current and the other model a row with model, score,
        threshold, p_value, is_anomalous, milliseconds, model_mib and fit_seconds.
    """
    session = SESSIONS.of(request)
    with shown_errors():
        _picture_to_compare_on(session)
        return _compared(session, *SESSIONS.opened(name, session))


def compare_single(
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by its default value
) -> tuple[str, Any, Any, str, list[dict]]:
    """Fit a single model of a tiled ensemble's method on the same pictures, at the ensemble's size, and compare both.

    Returns:
        As `compare_models`.
    """
    session = SESSIONS.of(request)
    session.stop.clear()
    with shown_errors():
        ensemble = session.model()
        if not isinstance(ensemble, TiledEnsemble):
            raise OptionError("the current model is a single one. Fit a tiled ensemble in the Fit tab first.")
        _picture_to_compare_on(session)
        pictures = session.pictures
        known = session.single is not None or (
            pictures is not None and {content_digest(image) for image in pictures.images} == session.learned
        )
        if not known:
            raise OptionError(
                "the pictures that this ensemble was fitted on are not chosen here any more. Choose them in the "
                "Fit tab, or compare with a saved model."
            )

    def work(tell: Tell) -> Detector:
        def told(at: Progress) -> None:
            if session.stop.is_set():
                raise Cancelled("stopped")
            tell(at.fraction, f"the single model: {at.stage}")

        config, calibration = ensemble.config, ensemble.calibration_
        same = {name: getattr(config, name) for name in OF_THE_TILES}
        return create(config.method, device=device_name(), **same, **config.member).fit(
            dataclasses.replace(pictures, errors=[]),
            false_alarm_rate=calibration.false_alarm_rate,
            n_folds=calibration.n_folds,
            on_progress=told,
        )

    with shown_errors():
        if session.single is None:
            session.single = JOBS.run(work, session.stop, progress)
        return _compared(session, session.single, f"single {session.single.title}")


def _picture_to_compare_on(session: Session) -> None:
    session.model()
    if session.shown is None:
        raise NotFittedError("there is no picture to compare on yet. Inspect one first.")


def _compared(session: Session, other: Detector, label: str) -> tuple[str, Any, Any, str, list[dict]]:
    """The current model and another one on the picture that is shown."""
    decoded = session.shown[0]
    found, rows = [], []
    for name, detector in ((session.model_label, session.model()), (label, other)):
        detector.predict_decoded([decoded])  # the first pass loads what it needs
        started = time.perf_counter()
        prediction = detector.predict_decoded([decoded])[0]
        costs = {
            "milliseconds": 1e3 * (time.perf_counter() - started),
            "model_mib": detector.model_mib,
            "fit_seconds": detector.fit_report_.seconds,
        }
        found.append((name, detector.calibration_, prediction))
        rows.append(_row(prediction, model=name) | costs)
    # The model with fewer held-out pixels cannot tell rarer ones apart; both end where it does.
    smallest = max(1 / (calibration.n_pixels + 1) for _, calibration, _ in found)
    shown = []
    for name, calibration, prediction in found:
        picture = overlay(decoded.pixels, prediction, levels=_rarity_levels(calibration.pixel_p_values, smallest))
        shown.append(gr.update(value=picture, label=name, visible=True))
    return text.compared(decoded.name, rows), *shown, text.rarity_bar(smallest), rows


def refresh(opacity: float, contour: bool, request: gr.Request) -> tuple:
    """What the tab shows of the current model; pictures that an earlier one scored are scored again."""
    session = SESSIONS.of(request)
    if session.detector is not None and session.inspected and session.shown is None:
        scored = _inspect([item.image for item in session.inspected], opacity, contour, session)
    else:
        scored = [gr.skip()] * (N_DETAIL + 4)
        if session.detector is not None and session.shown is not None:  # it may have got a name meanwhile
            decoded, prediction = session.shown
            scored[2] = text.verdict(decoded.name, prediction, session.model_label)
    names = [info.name for info in session.store().list_models()]
    line = text.model_in_use(session.model_label, session.threshold_moved)
    single = gr.Button(visible=isinstance(session.detector, TiledEnsemble))
    return (line, *threshold.shown(session), gr.update(choices=names), single, *scored)


def build() -> tuple[list, list, list]:
    """Lay out the tab; returns what `refresh` takes, what `compare` fills and what `refresh` fills, for other tabs."""
    current = gr.HTML(text.model_in_use("", False))
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            files = gr.File(
                label="Pictures to inspect, or one zip",
                file_count="multiple",
                file_types=["image", ".zip"],
                height=150,
            )
            with gr.Row():
                example_buttons = [gr.Button(f"Defective: {name}", size="sm") for name in EXAMPLE_SETS]
            gallery = gr.Gallery(
                elem_classes="thumbs",
                label="Inspected: choose one",
                columns=4,
                height=280,
                interactive=False,
                allow_preview=False,
                object_fit="contain",
            )
            verdict = gr.HTML(text.note("Drop pictures above; the first one is shown here."), elem_id="verdict")
            tiled = gr.HTML()
            taken = gr.HTML()
            with gr.Accordion("All scores", open=False):
                table = gr.Dataframe(
                    headers=list(COLUMNS),
                    datatype=["str", "number", "number", "str"],
                    interactive=False,
                    show_search="filter",
                    max_height=300,
                    label="Scores",
                    show_label=False,
                )
                csv_button = gr.Button("Download as CSV", size="sm")
                prepared = gr.DownloadButton(visible="hidden", elem_id="prepared-scores")
            speed_button = gr.Button("Measure speed", size="sm")
            measured = gr.HTML()
        with gr.Column(scale=1, min_width=320):
            slider = gr.ImageSlider(
                label="Original and heatmap: drag the handle",
                format="png",
                height=420,
                interactive=False,
                slider_position=30,
            )
            bar = gr.HTML()
            chart = gr.Plot(label="Score among held-out normals", show_label=False, visible=False)
            panel = threshold.build()
            with gr.Accordion("How it looks", open=False):
                opacity = gr.Slider(0, 1, value=0.7, step=0.05, label="Heatmap opacity")
                contour = gr.Checkbox(True, label="Contour of what is above the pixel threshold")
                part = gr.Radio([WHOLE], value=WHOLE, label="Part of the map", visible=False)
            with gr.Accordion("Compare with another model", open=False) as comparing:
                gr.HTML(text.note("Both colour a pixel by how rare its value is among their own held-out normals."))
                with gr.Row():
                    other = gr.Dropdown([], label="Saved model", interactive=True, allow_custom_value=True, scale=3)
                    compare_button = gr.Button("Compare", scale=1, min_width=90)
                single_button = gr.Button("Compare this ensemble with the single model", size="sm", visible=False)
                compared = gr.HTML(elem_id="compared")
                with gr.Row():
                    pictures = [gr.Image(visible=False, interactive=False, min_width=150, format="png") for _ in "ab"]
                compared_bar = gr.HTML()
    rows, figures, comparison, moved_to = (gr.JSON(visible=False) for _ in range(4))
    look = [opacity, contour]
    detail = [slider, verdict, bar, chart, tiled, part]
    outputs = [gallery, *detail, table, taken, rows]
    shared = {"concurrency_id": "inspect", "concurrency_limit": 2}
    files.upload(inspect, [files, *look], outputs, api_name="inspect", show_progress_on=verdict, **shared)
    for name, button in zip(EXAMPLE_SETS, example_buttons, strict=True):
        chosen = gr.State(name)
        button.click(
            inspect_example,
            [chosen, *look],
            outputs,
            api_visibility="private",
            show_progress_on=verdict,
            **shared,
        )
    gallery.select(select, look, detail, api_visibility="private", show_progress="minimal", **shared)
    csv_button.click(scores_file, None, prepared, api_name="scores_file").success(
        None, js="() => document.querySelector('#prepared-scores')?.click()", api_visibility="private"
    )
    waits = {"concurrency_limit": None}  # as a job, for its turn
    speed_button.click(speed, None, [measured, figures], api_name="measure_speed", show_progress_on=measured, **waits)
    for control in (opacity.release, contour.change, part.input):
        control(redraw, [*look, part], slider, api_visibility="private", show_progress="hidden", **shared)
    outputs_of_move = [*panel.outputs, gallery, *detail, table]
    threshold.on_move(panel, {"fn": moved, "inputs": [*panel.inputs, *look], "outputs": outputs_of_move, **shared})
    gr.on([], threshold.move, panel.inputs, moved_to, api_name="set_threshold")
    beside = {"outputs": [compared, *pictures, compared_bar, comparison], "show_progress_on": compared}
    compare_button.click(compare, other, api_name="compare_models", **beside, **shared)
    single_button.click(compare_single, None, api_name="compare_with_single", **beside, **waits)
    return look, [*beside["outputs"], comparing], [current, *panel.outputs, other, single_button, *outputs]


def _inspect(
    images: list[ImageLike], opacity: float, contour: bool, session: Session, progress: gr.Progress | None = None
) -> tuple:
    if not images:
        raise gr.Error("No picture came. Upload one or several pictures, or press an example.")
    shown, inspected, rows, errors, seconds = None, [], [], [], 0.0
    with shown_errors():
        check_number(len(images), "ADMODELS_MAX_INSPECTED")
        detector = session.model()
        for first in range(0, len(images), AT_ONCE):
            some, started = images[first : first + AT_ONCE], time.perf_counter()
            try:
                predictions = detector.predict_batch(some)
            except ImageSetError as error:  # all that is wrong is said together
                errors += error.errors
                continue
            seconds += time.perf_counter() - started
            shown = shown or (decode(some[0]), predictions[0])
            # Maps are as large as their pictures: a thumbnail is kept, without a contour, so that it stays true when
            # the threshold moves.
            for position, (image, prediction) in enumerate(zip(some, predictions, strict=True), start=first):
                small = thumbnail(overlay(decode(image).pixels, prediction, contour=False))
                inspected.append(Inspected(image, picture_name(image, position), prediction.score, small))
                rows.append(_row(prediction, name=inspected[-1].name))
            done = len(inspected)
            if progress is not None:
                progress(done / len(images), desc=f"{done} of {len(images)}, {done / seconds:.1f} pictures a second")
        if errors:
            raise ImageSetError(errors, len(images))
    session.shown, session.inspected = shown, inspected
    taken = text.picture_time(seconds, len(images))
    return (_gallery(session), *_detail(session, opacity, contour), _table(session), taken, rows)


def _row(prediction: Prediction, **named: str) -> dict[str, Any]:
    return named | {
        "score": prediction.score,
        "threshold": prediction.threshold,
        "p_value": prediction.p_value,
        "rarer_than": prediction.rarer_than,
        "is_anomalous": prediction.is_anomalous,
    }


def _gallery(session: Session) -> list[tuple[np.ndarray, str]]:
    limit = session.model().calibration_.threshold
    return [
        (item.thumbnail, f"{'✗' if item.score > limit else '✓'} {item.score:.3g} {item.name}")
        for item in session.inspected
    ]


def _table(session: Session, digits: int = 6) -> list[list]:
    """A row for each picture inspected, in the order of COLUMNS; figures with so many digits that count."""
    calibration = session.model().calibration_
    return [
        [
            item.name,
            float(f"{item.score:.{digits}g}"),
            float(f"{calibration.p_value(item.score):.{digits}g}"),
            "anomalous" if item.score > calibration.threshold else "good",
        ]
        for item in session.inspected
    ]


def _detail(session: Session, opacity: float, contour: bool) -> tuple:
    decoded, prediction = session.shown
    return (
        _slider(decoded, prediction, opacity, contour),
        text.verdict(decoded.name, prediction, session.model_label),
        text.colour_bar(prediction),
        gr.Plot(charts.score_histogram(session.model().calibration_, prediction.score), visible=True),
        tiles.tile_scores(session.model(), prediction.tile_scores),
        gr.Radio([WHOLE, *prediction.parts], value=WHOLE, visible=bool(prediction.parts)),
    )


def _slider(
    decoded: DecodedImage, prediction: Prediction, opacity: float, contour: bool
) -> tuple[np.ndarray, np.ndarray]:
    plain = overlay(decoded.pixels, prediction, opacity=0, contour=False)
    return plain, overlay(decoded.pixels, prediction, opacity, contour)


def _rarity_levels(p_values: Any, smallest: float) -> Any:
    return lambda values: rarity(p_values(values), smallest)

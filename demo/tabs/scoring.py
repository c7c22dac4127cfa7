"""Score pictures with a visitor's current model and show them; wherever the pictures come from, this is what is shown.

Outputs of the Inspect tab: those of `overview`, time, rows, and those of `detail`, which show one picture.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from admodels import ImageSetError, OptionError, Prediction
from admodels.core import Drift, Verdict, drift_of, verdict_of
from admodels.pictures import (
    THUMBNAIL_SIDE,
    DecodedImage,
    ImageLike,
    as_address,
    as_jpeg,
    decode,
    decode_all,
    overlay,
    picture_name,
    thumbnail,
)
from demo.errors import refusal, shown_errors
from demo.state.cores import predict
from demo.state.current import Current, Inspected, Inspection, Shown
from demo.state.limits import check_number
from demo.state.session import Inspecting, Session
from demo.tabs import tiles
from demo.view import charts, text

WHOLE = "combined"
OF_A_PICTURE = ("slider", "verdict", "bar", "chart", "tiles", "part", "own_scale")
N_GALLERY = 60
CHOOSE_ONE = "The most unusual first: choose one"
N_REGIONS = 50  # of a picture, for programs
MOST_TURNS = 5  # at pictures whose model changes while they are scored
ICON_SIDE = 48
COLUMNS = ("no.", "", "picture", "score", "p-value", "verdict", "hottest at")
SCORES_COLUMNS = ("picture", "score", "p-value", "verdict", "hottest x", "hottest y")
REGION_COLUMNS = ("regions", "largest peak", "peak left", "peak top", "peak right", "peak bottom", "peak area")
ALL, SUSPECTED = "All", "Suspected"


class Scored(NamedTuple):
    """Pictures that were scored, with the one that is shown, what the API says of each, and how long it took."""

    inspection: Inspection
    shown: Shown
    rows: list[dict[str, Any]]
    seconds: float


def score(
    images: Sequence[ImageLike],
    opacity: float,
    contour: bool,
    session: Session,
    page: str,
    progress: gr.Progress | None = None,
    names: Sequence[str] | None = None,
    add: bool = False,
) -> dict[str, Any]:
    """Score pictures and show the most unusual; what was inspected before is replaced only when all could be scored.

    Args:
        page: that shows them. Nothing where other pictures were given on a page meanwhile.
        names: of pictures that are no files.
        add: to those inspected before, which are scored again with them.
    """
    return drawn(scored(images, session, page, progress, names, add=add), session, page, opacity, contour)


def scored(
    images: Sequence[ImageLike],
    session: Session,
    page: str,
    progress: gr.Progress | None = None,
    names: Sequence[str] | None = None,
    show: int | None = None,
    by_score: bool = True,
    add: bool = False,
) -> Scored | None:
    """Score pictures with the current model and keep that; with the new one, where it changes meanwhile.

    Args:
        page, names, add: as of `score`; None where other pictures were given meanwhile.
        show: which one is to be shown; None the most unusual.
        by_score: how the gallery lists them; else as they come.
    """
    names = names or [picture_name(image, i) for i, image in enumerate(images)]
    begun = session.begin_inspection(page, images, names, add)
    try:
        with shown_errors():
            for _ in range(MOST_TURNS):
                found = _scored(begun, session.in_use(), session, progress, show, by_score)
                if not session.goes_on(begun):
                    return None
                kept = session.keep(found.inspection, found.shown) if found is not None else None
                if kept is not None:
                    return Scored(*kept, found.rows, found.seconds)
            raise OptionError("the model kept changing while these pictures were scored. Inspect them again.")
    finally:
        session.end_inspection(begun)


def _scored(
    begun: Inspecting,
    current: Current,
    session: Session,
    progress: gr.Progress | None,
    show: int | None,
    by_score: bool,
) -> Scored | None:
    """The pictures scored with one model; None where another one, or other pictures, came before the end."""
    images = begun.images
    position, shown, inspected, rows, started = 0, None, [], [], time.perf_counter()
    for image, decoded, prediction in predictions(images, current, begun.names):
        if not current.is_same_model(session.current) or not session.goes_on(begun):
            return None
        done = len(inspected)
        if done == show or (show is None and (shown is None or prediction.score > shown.prediction.score)):
            position, shown = done, Shown(current, decoded, prediction, image=image)
        # Maps are as large as their pictures: small pictures are kept, without a contour, so that they stay true
        # when the threshold moves.
        inspected.append(_kept(image, decoded, prediction))
        rows.append(row(prediction, name=decoded.name))
        rate = (done + 1) / (time.perf_counter() - started)
        if progress is not None:
            progress((done + 1) / len(images), desc=f"{done + 1} of {len(images)}, {rate:.1f} pictures a second")
    seconds = time.perf_counter() - started
    inspection = Inspection(current, tuple(inspected), position, by_score)
    shown = dataclasses.replace(shown, place=_place(inspection, position))
    return Scored(inspection, shown, rows, seconds)


def drawn(found: Scored | None, session: Session, page: str, opacity: float, contour: bool) -> dict[str, Any]:
    """What was scored as the Inspect tab shows it; nothing where it is none."""
    if found is None:
        return {}
    session.seen[page] = session.now
    return _whole(found.inspection, found.shown, opacity, contour) | {
        "time": text.picture_time(found.seconds, len(found.rows)),
        "rows": found.rows,
    }


def judged(session: Session, page: str, opacity: float, contour: bool) -> dict[str, Any]:
    """What was found in all and in the picture that is shown, as it is judged now.

    What was replaced while it was drawn is left out: that may be on the page already.
    """
    seen, inspection, shown = session.now, session.inspected, session.shown
    found = _whole(inspection, shown, opacity, contour)
    if session.n_inspected != seen.n_inspected:
        return {}
    if session.n_shown != seen.n_shown:
        return {name: value for name, value in found.items() if name not in OF_A_PICTURE}
    session.seen[page] = seen
    return found


def _whole(inspection: Inspection | None, shown: Shown | None, opacity: float, contour: bool) -> dict[str, Any]:
    found = detail(shown, opacity, contour) if shown is not None else {}
    return found if inspection is None else found | overview(inspection)


def overview(inspection: Inspection) -> dict[str, Any]:
    """What was found in all pictures together."""
    return {
        "found": text.found([_verdict(item, inspection) for item in inspection.pictures])
        + text.drift(drift(inspection)),
        "results": gr.update(visible=True),
        "adding": gr.update(visible=True),
        "filter": gr.update(
            value=SUSPECTED if inspection.only_suspected else ALL, visible=len(inspection.pictures) > 1
        ),
        "gallery": gallery(inspection),
        "table": table(inspection),
    }


def drift(inspection: Inspection) -> Drift | None:
    """Whether the pictures inspected are unlike the good ones as a group; None where it cannot be said."""
    pictures = inspection.pictures
    return drift_of(inspection.current.calibration, [p.score for p in pictures], [p.background for p in pictures])


def score_again(
    opacity: float, contour: bool, session: Session, page: str, progress: gr.Progress | None = None
) -> dict[str, Any]:
    """Score the pictures of a model that was replaced with the current one; nothing where there are none.

    Nor where others are scored already: those come with the current model too.
    """
    again = session.take_again()
    if again is None or session.inspecting is not None:
        return {}
    found = scored(again.images, session, page, progress, again.names, again.show, again.by_score)
    return drawn(found, session, page, opacity, contour)


def predictions(
    images: Sequence[ImageLike], current: Current, names: Sequence[str] | None = None
) -> Iterator[tuple[ImageLike, DecodedImage, Prediction]]:
    """Score pictures with a model, a few at a time: their maps are as large as they are.

    Raises:
        OptionError: there are no pictures, or more than the server takes.
        ImageSetError: at the end; all pictures that cannot be used are named.
    """
    if not images:
        raise OptionError("No picture selected. Upload one or more pictures, or press an example.")
    check_number(len(images), "ADMODELS_MAX_INSPECTED")
    detector, errors = current.detector, []
    names = names or [picture_name(image, i) for i, image in enumerate(images)]
    at_once = detector.batch_size
    for first in range(0, len(images), at_once):
        part = slice(first, first + at_once)
        try:
            decoded = decode_all(images[part], names[part], detector.working_shape_.value_range)
        except ImageSetError as error:  # all that is wrong is said together
            errors += error.errors
            continue
        if not errors:
            yield from zip(images[part], decoded, predict(detector, decoded), strict=True)
    if errors:
        raise ImageSetError(errors, len(images))


def row(prediction: Prediction, **named: str) -> dict[str, Any]:
    """What the API says of one picture."""
    regions = [dataclasses.asdict(r) for r in prediction.regions[:N_REGIONS]] if prediction.is_anomalous else []
    return named | prediction.as_dict() | {"rarer_than": prediction.rarer_than, "regions": regions}


def in_gallery(inspection: Inspection) -> list[int]:
    """Which of the pictures inspected the gallery shows, and in which order."""
    pictures, wanted = inspection.pictures, listed(inspection)
    return (sorted(wanted, key=lambda i: -pictures[i].score) if inspection.by_score else wanted)[:N_GALLERY]


def _place(inspection: Inspection, position: int) -> int:
    """Where the gallery lists a picture, whether or not it lists those suspected only: by score, they come first."""
    everything = in_gallery(dataclasses.replace(inspection, only_suspected=False))
    return everything.index(position) if position in everything else -1


def listed(inspection: Inspection) -> list[int]:
    """Which of the pictures inspected are listed, in the order in which they came: all, or those suspected."""
    everything, threshold = range(len(inspection.pictures)), inspection.current.calibration.threshold
    return [i for i in everything if not inspection.only_suspected or inspection.pictures[i].score > threshold]


def gallery(inspection: Inspection) -> Any:
    """The pictures inspected as the gallery shows them."""
    which, items = in_gallery(inspection), []
    for i in which:
        item = inspection.pictures[i]
        caption = f"{text.SIGNS[_verdict(item, inspection)]} {item.score:.3g} {item.name}"
        items.append((decode(item.thumbnail).pixels, caption))
    n = len(listed(inspection))
    label = CHOOSE_ONE if inspection.by_score else "Choose one"
    label = f"The {N_GALLERY} most unusual of {n}: choose one" if n > N_GALLERY else label
    label = label if n else "None is suspected at this threshold"
    return gr.Gallery(items, label=label, visible=len(inspection.pictures) > 1)


def table(inspection: Inspection) -> list[list]:
    """A row for each picture that is listed, in the order of COLUMNS."""
    rows, everything = [], scores(inspection)
    for i in listed(inspection):
        name, score, p_value, verdict, x, y = everything[i]
        figures = (float(f"{score:.6g}"), float(f"{p_value:.6g}"))
        icon = text.icon(inspection.pictures[i].icon, ICON_SIDE)
        rows.append([i + 1, icon, name, *figures, text.in_words(verdict), f"{x}, {y}"])
    return rows


def scores(inspection: Inspection) -> list[tuple[str, float, float, Verdict, int, int]]:
    """What SCORES_COLUMNS says, of each picture inspected."""
    calibration = inspection.current.calibration
    return [
        (item.name, item.score, calibration.p_value(item.score), _verdict(item, inspection), *item.hottest)
        for item in inspection.pictures
    ]


def regions(inspection: Inspection) -> list[tuple[int | float | str, ...]]:
    """What REGION_COLUMNS says, of each picture inspected: how many regions, and the one with the highest peak.

    Maps are too large to be kept, so suspected pictures are scored once more; of others nothing is above a threshold.
    """
    wanted = listed(dataclasses.replace(inspection, only_suspected=True))
    nothing = [""] * (len(REGION_COLUMNS) - 1)
    found: list[tuple[int | float | str, ...]] = [(0, *nothing)] * len(inspection.pictures)
    images = [inspection.pictures[i].image for i in wanted]
    with shown_errors():
        again = predictions(images, inspection.current) if images else ()
        for i, (_, _, prediction) in zip(wanted, again, strict=True):
            there = prediction.regions
            top = [(r.peak, r.left, r.top, r.right, r.bottom, r.area) for r in there[:1]]
            found[i] = (len(there), *(top[0] if top else nothing))
    return found


def _verdict(item: Inspected, inspection: Inspection) -> Verdict:
    """By the threshold as it is now."""
    calibration = inspection.current.calibration
    return verdict_of(item.score, calibration.threshold, calibration.p_value(item.score))


def select(position: int, opacity: float, contour: bool, session: Session, page: str) -> dict[str, Any]:
    """Show another one of the pictures inspected, unless a later one was chosen, or others inspected, meanwhile."""
    inspection = session.inspected
    session.n_selected = mine = session.n_selected + 1
    if inspection is None or not 0 <= position < len(inspection.pictures):
        raise refusal("These pictures are no longer here. Upload them again.")
    item, current = inspection.pictures[position], inspection.current
    with shown_errors():
        decoded = current.detector.read(item.image, name=item.name)
        prediction = predict(current.detector, [decoded])[0]
        shown = Shown(current, decoded, prediction, _place(inspection, position), item.image)
    if mine != session.n_selected:
        return {}
    if session.inspected is not None and session.inspected.pictures is not inspection.pictures:
        return {}
    kept = session.keep(shown)  # else it is shown as what it is
    seen = session.now
    found = detail(kept[0] if kept else shown, opacity, contour)
    session.seen[page] = seen
    return found


def detail(shown: Shown, opacity: float, contour: bool) -> dict[str, Any]:
    """The picture that is shown, with what its model says of it."""
    decoded, prediction, current = shown.decoded, shown.prediction, shown.current
    return {
        "slider": slider(decoded, prediction, opacity, contour),
        "verdict": verdict(shown),
        "bar": text.colour_bar(prediction),
        "chart": gr.Plot(charts.score_histogram(current.calibration, prediction.score), visible=True),
        "tiles": tiles.tile_scores(current.detector, prediction.tile_scores),
        "part": gr.Radio([WHOLE, *prediction.parts], value=WHOLE, visible=bool(prediction.parts)),
        "own_scale": False,
    }


def verdict(shown: Shown) -> str:
    """What is said of the picture that is shown."""
    current = shown.current
    return text.verdict(
        shown.decoded.name, shown.prediction, current.label, len(current.calibration.scores), shown.place
    )


def slider(
    decoded: DecodedImage, prediction: Prediction, opacity: float, contour: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The picture and the heatmap over it, in the colours of the prediction's scale."""
    plain = overlay(decoded.pixels, prediction, opacity=0, contour=False)
    return plain, overlay(decoded.pixels, prediction, opacity, contour)


def _kept(image: ImageLike, decoded: DecodedImage, prediction: Prediction) -> Inspected:
    small = thumbnail(overlay(decoded.pixels, prediction, contour=False))
    icon = as_address(as_jpeg(small, ICON_SIDE))
    return Inspected(
        image,
        decoded.name,
        prediction.score,
        hottest=prediction.hottest,
        thumbnail=as_jpeg(small, THUMBNAIL_SIDE),
        icon=icon,
        background=prediction.background,
    )

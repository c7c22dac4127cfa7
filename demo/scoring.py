"""Score pictures with a visitor's current model and show them; wherever the pictures come from, this is what is shown.

`OUTPUTS` of the Inspect tab in their order: gallery, the six of `detail`, table, time, rows.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr
import numpy as np

from admodels import ImageSetError, OptionError, Prediction
from admodels.images import DecodedImage, ImageLike, decode, decode_all, picture_name
from admodels.render import THUMBNAIL_SIDE, as_address, as_jpeg, overlay, thumbnail
from demo import charts, text, tiles
from demo.cores import predict
from demo.errors import refusal, shown_errors
from demo.limits import check_number
from demo.session import Inspected, Session

WHOLE = "combined"
N_DETAIL = 6  # outputs that show one picture
N_GALLERY = 60
ICON_SIDE = 48
COLUMNS = ("no.", "", "picture", "score", "p-value", "verdict")


def score(
    images: Sequence[ImageLike],
    opacity: float,
    contour: bool,
    session: Session,
    progress: gr.Progress | None = None,
    names: Sequence[str] | None = None,
    show: int = 0,
) -> tuple:
    """Score pictures and show one of them; what was inspected before is replaced only when all could be scored.

    Args:
        names: of pictures that are no files.
        show: which one.
    """
    shown, inspected, rows, started = None, [], [], time.perf_counter()
    with shown_errors():
        for image, decoded, prediction in predictions(images, session, names):
            done = len(inspected)
            if done == show:
                shown = decoded, prediction
            # Maps are as large as their pictures: small pictures are kept, without a contour, so that they stay true
            # when the threshold moves.
            inspected.append(_kept(image, decoded, prediction))
            rows.append(row(prediction, name=decoded.name))
            rate = (done + 1) / (time.perf_counter() - started)
            if progress is not None:
                progress((done + 1) / len(images), desc=f"{done + 1} of {len(images)}, {rate:.1f} pictures a second")
    session.shown, session.inspected = shown, inspected
    taken = text.picture_time(time.perf_counter() - started, len(images))
    return (gallery(session), *detail(session, opacity, contour), table(session), taken, rows)


def predictions(
    images: Sequence[ImageLike], session: Session, names: Sequence[str] | None = None
) -> Iterator[tuple[ImageLike, DecodedImage, Prediction]]:
    """Score pictures with the current model, a few at a time: their maps are as large as they are.

    Raises:
        OptionError: there is none, or there are more than the server takes.
        ImageSetError: at the end; all pictures that cannot be used are named.
    """
    if not images:
        raise OptionError("no picture came. Upload one or several pictures, or press an example.")
    check_number(len(images), "ADMODELS_MAX_INSPECTED")
    detector, errors = session.model(), []
    names = names or [picture_name(image, i) for i, image in enumerate(images)]
    at_once = detector.batch_size(detector.working_shape_)
    for first in range(0, len(images), at_once):
        part = slice(first, first + at_once)
        try:
            decoded = decode_all(images[part], names[part])
        except ImageSetError as error:  # all that is wrong is said together
            errors += error.errors
            continue
        if not errors:
            yield from zip(images[part], decoded, predict(detector, decoded), strict=True)
    if errors:
        raise ImageSetError(errors, len(images))


def row(prediction: Prediction, **named: str) -> dict[str, Any]:
    """What the API says of one picture."""
    return named | {
        "score": prediction.score,
        "threshold": prediction.threshold,
        "p_value": prediction.p_value,
        "rarer_than": prediction.rarer_than,
        "is_anomalous": prediction.is_anomalous,
    }


def in_gallery(session: Session) -> list[int]:
    """Which of the pictures inspected the gallery shows: all in their order, or of very many the most anomalous."""
    n = len(session.inspected)
    if n <= N_GALLERY:
        return list(range(n))
    return sorted(range(n), key=lambda i: -session.inspected[i].score)[:N_GALLERY]


def gallery(session: Session) -> Any:
    """The pictures inspected as the gallery shows them."""
    limit, which = session.model().calibration_.threshold, in_gallery(session)
    items = []
    for i in which:
        item = session.inspected[i]
        caption = f"{'✗' if item.score > limit else '✓'} {item.score:.3g} {item.name}"
        items.append((decode(item.thumbnail).pixels, caption))
    n = len(session.inspected)
    label = f"The {N_GALLERY} most anomalous of {n}: choose one" if n > N_GALLERY else "Inspected: choose one"
    return gr.Gallery(items, label=label)


def table(session: Session) -> list[list]:
    """A row for each picture inspected, in the order of COLUMNS."""
    return [
        [
            i,
            f'<img src="{item.icon}" alt="" height="{ICON_SIDE}">',
            name,
            *(float(f"{v:.6g}") for v in values),
            f"{'✓' if verdict == 'good' else '✗'} {verdict}",
        ]
        for i, (item, (name, *values, verdict)) in enumerate(zip(session.inspected, scores(session), strict=True), 1)
    ]


def scores(session: Session) -> list[tuple[str, float, float, str]]:
    """Name, score, p-value and verdict of each picture inspected."""
    calibration = session.model().calibration_
    return [
        (
            item.name,
            item.score,
            calibration.p_value(item.score),
            "anomalous" if item.score > calibration.threshold else "good",
        )
        for item in session.inspected
    ]


def select(position: int, opacity: float, contour: bool, session: Session) -> tuple:
    """Show another one of the pictures inspected."""
    if not 0 <= position < len(session.inspected):
        raise refusal("These pictures are no longer here. Upload them again.")
    item = session.inspected[position]
    with shown_errors():
        decoded = decode(item.image, name=item.name)
        session.shown = decoded, predict(session.model(), [decoded])[0]
    return detail(session, opacity, contour)


def detail(session: Session, opacity: float, contour: bool) -> tuple:
    """The picture that is shown: slider, verdict, colour bar, histogram, scores of tiles, parts of the map."""
    decoded, prediction = session.shown
    return (
        slider(decoded, prediction, opacity, contour),
        text.verdict(decoded.name, prediction, session.model_label),
        text.colour_bar(prediction),
        gr.Plot(charts.score_histogram(session.model().calibration_, prediction.score), visible=True),
        tiles.tile_scores(session.model(), prediction.tile_scores),
        gr.Radio([WHOLE, *prediction.parts], value=WHOLE, visible=bool(prediction.parts)),
    )


def slider(
    decoded: DecodedImage, prediction: Prediction, opacity: float, contour: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The picture and the heatmap over it."""
    plain = overlay(decoded.pixels, prediction, opacity=0, contour=False)
    return plain, overlay(decoded.pixels, prediction, opacity, contour)


def _kept(image: ImageLike, decoded: DecodedImage, prediction: Prediction) -> Inspected:
    small = thumbnail(overlay(decoded.pixels, prediction, contour=False))
    icon = as_address(as_jpeg(small, ICON_SIDE))
    return Inspected(image, decoded.name, prediction.score, as_jpeg(small, THUMBNAIL_SIDE), icon)

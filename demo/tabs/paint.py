"""Paint a defect on a good picture, or have one painted, and see whether it is found, and how small it may get."""

from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component

from admodels import Prediction
from admodels.evaluation import load_dataset
from admodels.pictures import decode, defects, shrink
from demo.errors import refusal, shown_errors
from demo.state.examples import EXAMPLE_SETS
from demo.state.session import Painted, Session
from demo.state.sessions import SESSIONS
from demo.tabs import scoring
from demo.view import text
from demo.view.outputs import filling

SCALES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18)  # of the defect, each about half the area of the one before
NEAR = 0.03  # of the picture's longer side: a map is coarser than the picture
KINDS = {"scratch": defects.scratch, "spot": defects.spot}
ROUNDING = 8  # levels; a defect differs by far more
NOTHING = "No picture to paint on yet. Press “Another good picture”, or drop one into the frame."


def build(look: list, outputs: dict[str, Component], shared: dict[str, Any]) -> None:
    """Lay out the section.

    Args:
        look: opacity and contour.
        outputs: what `scoring.score` fills.
        shared: arguments of an event listener that takes part in what all light work shares.
    """
    gr.HTML(
        text.note("Draw a defect on a good picture, or have one drawn. It is scored at full size and at smaller sizes.")
    )
    with gr.Row():
        good_button = gr.Button("Another good picture", size="sm", min_width=110)
        scratch_button = gr.Button("Random scratch", size="sm", min_width=110)
        spot_button = gr.Button("Random spot", size="sm", min_width=110)
    editor = gr.ImageEditor(
        label="Good picture: draw on it",
        sources=("upload", "clipboard"),
        transforms=(),
        brush=gr.Brush(default_size=6, colors=["#1a1a1a", "#f5f5f5", "#8b2f1d", "#2f4f8b"], default_color="#1a1a1a"),
        layers=False,
        format="png",
        height=380,
        elem_id="painting",
    )
    button = gr.Button("Test this defect", variant="primary")
    said = gr.HTML(elem_id="painted")
    result = gr.JSON(visible=False)
    private = {"api_visibility": "private", "show_progress": "hidden"}
    good_button.click(good_picture, None, editor, **private)
    for kind, drawn in (("scratch", scratch_button), ("spot", spot_button)):
        drawn.click(paint, [gr.State(kind), editor], editor, **private)
    found = filling(inspect_painted, {"said": said, "result": result, **outputs})
    button.click(**found, inputs=[editor, *look], api_name="inspect_painted", show_progress_on=said, **shared)


def good_picture(request: gr.Request) -> dict[str, Any]:
    """A good picture to paint on: one of those chosen for the fit, else one of an example that no model learns from."""
    session, rng = SESSIONS.of(request), np.random.default_rng()
    if session.pictures is not None and session.pictures.images:
        choices = session.pictures.images
    else:
        choices = [i.path for i in load_dataset(next(iter(EXAMPLE_SETS.values()))).test if not i.is_defective]
    current = session.current
    read = current.detector.read if current is not None else decode
    return _edited(shrink(read(choices[rng.integers(len(choices))]).pixels))


def paint(kind: str, edited: dict[str, Any] | None, request: gr.Request) -> dict[str, Any]:
    """Add a random defect to what is painted already; to a good picture where nothing is there yet."""
    if edited is None or edited["background"] is None:
        edited = good_picture(request)
    session = SESSIONS.of(request)
    good, layers = _parts(edited, session)
    shown = defects.lay_over(good, defects.together(layers)) if layers else good
    layer = KINDS[kind](good.shape[:2], np.random.default_rng(), shown)
    defect = defects.together([*layers, layer])
    both = defects.lay_over(good, defect)
    session.painted.append(Painted(good, defect, both))
    return _edited(both)


def inspect_painted(
    edited: dict[str, Any] | None, opacity: float, contour: bool, request: gr.Request
) -> dict[str, Any]:
    """Score a good picture without and with the defect painted on it, and with the same defect smaller and smaller.

    Args:
        edited: background, a good picture, and layers with what was painted, clear elsewhere. What the page drew at
            random on the background is taken for painted too.
        opacity: of the heatmap, from 0 to 1.
        contour: draw the edge of what is above the pixel threshold.

    Returns:
        What was found, and pixels (longest side of the defect), found_down_to (the smallest that was found together
        with all larger ones; None where it was not), is_hottest (whether the heatmap's highest point is on the defect)
        and good_alarms; then as `inspect`.
    """
    session = SESSIONS.of(request)
    if edited is None or edited["background"] is None:
        raise refusal(NOTHING)
    background, layers = _parts(edited, session)
    defect = defects.together(layers) if layers else None
    found = defects.extent(defect) if defect is not None else None
    if found is None:
        raise refusal("Nothing is painted yet. Draw on the picture, or press “Random scratch”.")
    pictures, sizes, longest = [background], [], max(found[2] - found[0], found[3] - found[1])
    for factor in SCALES:
        size = max(1, round(longest * factor))
        if size not in sizes:
            sizes.append(size)
            pictures.append(defects.lay_over(background, defects.scaled(defect, factor)))
    names = ["without", *(f"{size} px" for size in sizes)]
    page = request.session_hash
    scored = scoring.scored(pictures, session, page, names=names, show=1, by_score=False)
    if scored is None:
        return {}
    alarms = [row["is_anomalous"] for row in scored.rows]
    n_found = next((i for i, alarm in enumerate(alarms[1:]) if not alarm), len(sizes))
    result = {
        "pixels": longest,
        "found_down_to": sizes[n_found - 1] if n_found else None,
        "is_hottest": _is_hottest(scored.shown.prediction, found),
        "good_alarms": alarms[0],
    }
    return {
        "said": text.painted(result, sizes),
        "result": result,
        **scoring.drawn(scored, session, page, opacity, contour),
    }


def _is_hottest(prediction: Prediction, box: tuple[int, int, int, int]) -> bool:
    values = np.nan_to_num(prediction.anomaly_map, nan=-np.inf)
    row, column = np.unravel_index(values.argmax(), values.shape)
    margin = NEAR * max(values.shape)
    top, left, bottom, right = box
    return bool(top - margin <= row < bottom + margin and left - margin <= column < right + margin)


def _parts(edited: dict[str, Any], session: Session) -> tuple[np.ndarray, list[np.ndarray]]:
    """The good picture and what was painted on it, at random and by hand, of one size that the screen can show."""
    with shown_errors():
        background = shrink(decode(np.ascontiguousarray(edited["background"][..., :3]), name="picture").pixels)
    layers = []
    for layer in edited["layers"] or []:
        if layer.shape[:2] != edited["background"].shape[:2] or layer.shape[2] != 4:
            raise refusal(
                f"The layer has shape {layer.shape}, the picture {edited['background'].shape}; expected RGBA of "
                "the picture's size. Paint it again."
            )
        layers.append(shrink(layer, max(background.shape[:2])))
    for painted in list(session.painted):  # another click may add to them
        if _is_same(background, painted.both):
            return painted.good, [painted.defect, *layers]
    return background, layers


def _is_same(pixels: np.ndarray, other: np.ndarray) -> bool:
    """Whether this is the other picture, but for the rounding of an editor."""
    return pixels.shape == other.shape and int(np.abs(pixels.astype(np.int16) - other).max()) <= ROUNDING


def _edited(background: np.ndarray) -> dict[str, Any]:
    """What the editor shows, without layers: it puts those in the wrong place where it showed a larger picture before.

    Nor a composite, which it would take for the background once something is drawn by hand.
    """
    return {"background": background, "layers": [], "composite": None}

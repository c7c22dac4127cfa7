"""The section of the Train tab that makes a tiled ensemble of any method, with its grid drawn over a picture."""

import dataclasses
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component

from admodels import AdmodelsError, create
from admodels.pictures import ImageSet, decode
from admodels.tiling import OF_THE_TILES, TiledConfig, TiledEnsemble, draw_grid
from demo.state.server import device_name
from demo.state.sessions import SESSIONS
from demo.view import options, text

# The method has a control of its own, and so have its options; where tiles are fitted is the server's business.
FIELDS = [f for f in dataclasses.fields(TiledConfig) if f.name not in ("method", "member", "engine", "workers")]


@dataclasses.dataclass(frozen=True)
class Controls:
    """The components of the section."""

    on: gr.Checkbox
    box: gr.Group
    values: list
    said: gr.HTML

    @property
    def inputs(self) -> list:
        """What `asked` and `show` take after the method."""
        return [self.on, *self.values]

    @property
    def named(self) -> dict[str, Component]:
        """The same by name: the switch as `on`, an option as `tiles.<option>`."""
        return {"on": self.on} | {f"tiles.{f.name}": c for f, c in zip(FIELDS, self.values, strict=True)}

    @property
    def outputs(self) -> dict[str, Component]:
        """What `show` fills."""
        return {"box": self.box, "said": self.said}


def build() -> Controls:
    """Lay out the section."""
    with gr.Accordion("Tiled ensemble: small defects in large pictures", open=False):
        on = gr.Checkbox(
            False,
            label="Cut pictures into tiles",
            info="Each tile gets its own model, of the method above. Fit and prediction take that many times longer.",
        )
        with gr.Group(visible=False) as box:
            said = gr.HTML(elem_classes="padded")
            common, expert = ([f for f in FIELDS if f.metadata["common"] == is_common] for is_common in (True, False))
            made = _rows(common)
            with gr.Accordion("Expert: tiles", open=False):
                made |= _rows(expert)
    return Controls(on, box, [made[field.name] for field in FIELDS], said)


def _rows(fields: list[dataclasses.Field]) -> dict[str, Component]:
    """The controls of some options, two in a row, by name."""
    made = {}
    for i in range(0, len(fields), 2):
        with gr.Row():
            made |= {field.name: options.control(field) for field in fields[i : i + 2]}
    return made


def asked(method: str, of_method: dict[str, Any], on: bool, *values: Any) -> tuple[str, dict[str, Any]]:
    """Method and options of the fit: those of the method itself, or of an ensemble of it."""
    if not on:
        return method, of_method
    member = {name: value for name, value in of_method.items() if name not in OF_THE_TILES}
    return TiledEnsemble.key, {**options.changed(FIELDS, values), "method": method, "member": member}


def show(method: str, request: gr.Request, on: bool, *values: Any) -> dict[str, Any]:
    """Draw the grid over the first of the chosen pictures, and say what it costs."""
    if not on:
        return {"box": gr.Group(visible=False), "said": ""}
    session = SESSIONS.of(request)
    try:
        _, chosen = asked(method, {}, on, *values)
        detector = create(TiledEnsemble.key, device=device_name(), **chosen)
        pictures = session.pictures
        has_any = pictures is not None and bool(pictures.images)
        config, shape = detector.config, detector.shape_for(pictures if has_any else ImageSet([], [(1, 1)], []))
        grid = detector.method.grid(shape)
        said = text.tiles(grid, config.one_model)
        if has_any:
            pixels = shape.prepare(decode(pictures.images[0], value_range=shape.value_range).pixels)
            rows, columns = grid.seams(config.seam_width_ratio if config.seam_smoothing else 0)
            drawn = draw_grid(pixels, grid, rows.numpy(), columns.numpy())
            said += text.picture(drawn, "The grid of tiles over the first good picture")
    except AdmodelsError as error:
        said = text.note(str(error), "error")
    return {"box": gr.Group(visible=True), "said": said}


def tile_scores(detector: Any, scores: np.ndarray | None) -> str:
    """Each tile's score and what it adds to the picture's; nothing where there are no tiles."""
    if scores is None or scores.size == 1:
        return ""
    return text.tile_scores(scores, detector.config.score_merge)

"""The Train tab: choose good pictures, see what a fit will take, fit, stop."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from admodels import METHODS
from admodels.tiling import OF_THE_TILES
from demo.state.examples import EXAMPLE_SETS, EXAMPLES
from demo.tabs import capture, choices, tiles
from demo.tabs.choices import USUAL
from demo.tabs.fit_button import LOOKS, TRAIN, press
from demo.tabs.fit_button import come_back as come_back_label
from demo.tabs.fit_button import shown as shown_label
from demo.tabs.fitting import (
    NO_ESTIMATE,
    begin_fit,
    collect_options,
    estimate,
    fit,
    follow_fit,
    follow_losses,
    leave_out,
    losses,
    method_changed,
    review,
    start_anew,
)
from demo.tabs.picking import NONE_YET, chosen_before, pick_example, pick_files, upload
from demo.tabs.stop import stop
from demo.view import options, text
from demo.view.outputs import filling

METHOD_CHOICES = [(cls.title, key) for key, cls in METHODS.items()]


class Tab(NamedTuple):
    """What the composition of the tabs needs of this one: ends of fits, and how a page that comes back goes on.

    Attributes:
        fitted: of one that was asked for, and of one again with fewer pictures.
        tried: by the name of each example, the end of a fit on it that was asked for to be shown at work.
        come_back: functions and their outputs, one after the other; the last one ends with the visitor's fit.
        live: the button that is there after a fit on the camera's pictures.
    """

    fitted: list[Dependency]
    tried: dict[str, Dependency]
    come_back: list[dict[str, Any]]
    live: gr.Button


def build() -> Tab:
    """Lay out the tab."""
    with gr.Row(elem_classes="cards-row"):
        work_buttons = []
        for name in EXAMPLE_SETS:
            with gr.Column(min_width=300):
                gr.HTML(text.example_card(name, example_strip(name)))
                work_buttons.append(gr.Button(f"See it work: {name}", variant="primary", size="sm"))
    gr.Markdown("Or show it what **good** parts look like: 20 to 100 pictures taken the same way. No defects needed.")
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            with gr.Row():
                example_buttons = [gr.Button(f"Try: {name}", size="sm") for name in EXAMPLE_SETS]
            with gr.Tabs():
                with gr.Tab("Upload"):
                    files = upload("Good pictures, or one zip")
                with gr.Tab("Camera"):
                    camera = capture.build()
            picked = gr.HTML(text.note(NONE_YET))
            gallery = gr.Gallery(
                elem_classes="thumbs",
                label="First pictures",
                columns=5,
                height=140,
                show_label=False,
                interactive=False,
                visible=False,
                object_fit="contain",
                buttons=[],
                elem_id="chosen",
            )
            word = choices.radio()
            method = gr.Dropdown(METHOD_CHOICES, value=USUAL.method, label="Method", visible=False)
            summary = gr.HTML(choices.said_first(), elem_id="will-train")
            fit_button = gr.Button(TRAIN, variant=LOOKS[TRAIN], elem_id="train")
            groups: dict[str, gr.Group] = {}
            made: dict[str, Component] = {}
            with gr.Accordion("Options", open=False):
                rate = gr.Slider(
                    0.001,
                    0.2,
                    value=0.01,
                    step=0.001,
                    label="False-alarm rate",
                    info="The fraction of good pictures that may raise a false alarm; it sets the threshold.",
                )
                _options(groups, made, is_common=True)
                with gr.Accordion("Expert", open=False):
                    _options(groups, made, is_common=False)
                    folds = gr.Dropdown(
                        [("auto", "auto"), ("5 folds: each held out once", "5"), ("one split: a fifth held out", "0")],
                        value="auto",
                        label="Pictures kept aside",
                        info="They set the threshold. auto uses folds for up to 100 pictures.",
                        allow_custom_value=True,
                    )
                    seed = gr.Number(0, label="Seed", precision=0, info="Random seed: which pictures are held out.")
            cut = tiles.build()
            with gr.Accordion("Which method?", open=False):
                gr.HTML(text.chooser(json.loads((EXAMPLES / "methods.json").read_text(encoding="utf-8"))))
        with gr.Column(scale=1, min_width=320):
            gr.Markdown("#### Before you start")
            estimated = gr.HTML(text.note(NO_ESTIMATE))
            result = gr.HTML(text.note(text.NO_RESULT), elem_id="fit-result", min_height=120)
            loss_chart = gr.Plot(show_label=False, visible=False)
            apart = gr.HTML(visible=False, elem_id="apart")
            leave_button = gr.Button("Leave out and train again", visible=False, size="sm")
            live_button = gr.Button("Look live", variant="primary", visible=False, size="sm")
            reviewed = gr.Gallery(
                elem_classes="thumbs",
                label="The most unusual of your good pictures: is one of them defective?",
                columns=5,
                height=150,
                interactive=False,
                visible=False,
                object_fit="contain",
                buttons=[],
                elem_id="reviewed",
            )
            chart = gr.Plot(label="Scores of good pictures kept aside", show_label=False, visible=False)
    clock = gr.Timer(2.0, active=False)
    asked_method, asked_options = gr.Textbox(USUAL.method, visible=False, max_lines=1), gr.Textbox("{}", visible=False)
    # In the order that `collect_options` takes them in.
    controls = [made[f"{key}.{field.name}"] for key, cls in METHODS.items() for field in dataclasses.fields(cls.Config)]
    report = gr.JSON(visible=False)

    shown = {"picked": picked, "gallery": gallery, **camera.outputs}
    of_review = {"reviewed": reviewed, "apart": apart, "leave_out": leave_button, "live": live_button}
    results = {"result": result, "chart": chart, "report": report}
    reviews = {**filling(review, of_review), "show_progress": "hidden", "api_visibility": "private"}
    every = [method, *cut.inputs, *controls]
    private = {"api_visibility": "private"}
    hidden = {"show_progress": "hidden", **private}
    collect = {"fn": collect_options, "inputs": every, "outputs": [asked_method, asked_options]}
    guess = {
        **filling(estimate, {"estimated": estimated}),
        "inputs": [folds, *every],
        "show_progress": "minimal",
        "trigger_mode": "always_last",  # else a change while an estimate runs would leave the old one standing
        **private,
    }
    draw = {
        **filling(tiles.show, cut.outputs),
        "inputs": [method, *cut.inputs],
        "trigger_mode": "always_last",
        **hidden,
    }
    # The last change counts, whatever came while others were looked at.
    pick = {**filling(pick_files, shown), "inputs": files, "trigger_mode": "always_last", **private}
    picks = [files.upload(**pick)]
    for event in (files.clear, files.delete):
        event(**pick).then(**guess)
    for name, button in zip(EXAMPLE_SETS, example_buttons, strict=True):
        picks.append(button.click(**filling(pick_example, {**shown, "files": files}), inputs=gr.State(name), **private))
    for event in picks:
        event.success(lambda: gr.update(visible=True), None, gallery, **private)
        event.then(**guess)
        event.then(**draw)
        event.then(None, js=capture.STOP, **private)
    for event in capture.wire(camera, shown, files):
        event.then(**guess)
        event.then(**draw)
    chosen = {"method": method, **cut.named, **made}
    # The last choice counts, however quickly it came after another one.
    choosing = word.input(**filling(choices.choose, chosen), inputs=word, trigger_mode="always_last", **hidden)
    groups_follow = {**filling(method_changed, groups), "inputs": method, "trigger_mode": "always_last", **hidden}
    say = {
        **filling(choices.will_train, {"summary": summary}),
        "inputs": [word, *every],
        "trigger_mode": "always_last",
        **hidden,
    }
    # Controls that the page does not show tell of no change.
    choosing.then(**groups_follow).then(**say).then(**draw).then(**guess)
    method.input(**groups_follow).then(**say).then(**guess)
    gr.on([c.change for c in (*cut.inputs, *controls)], **say)
    gr.on([folds.change, *(c.change for c in (*cut.inputs, *controls))], **guess)
    gr.on([c.change for c in cut.inputs], **draw)
    # An ensemble has such options of its own, and its method's would not count.
    names = [field.name for cls in METHODS.values() for field in dataclasses.fields(cls.Config)]
    shared = [control for name, control in zip(names, controls, strict=True) if name in OF_THE_TILES]
    cut.on.change(lambda on: [gr.update(visible=not on)] * len(shared), cut.on, shared, **hidden)
    cleared = {"clock": clock, "result": result, "loss_chart": loss_chart, "chart": chart, **of_review}
    clears = filling(start_anew, cleared)
    draw_losses = {**filling(losses, {"loss_chart": loss_chart}), **hidden}
    # Queued, if only behind nobody: the page says nothing of what an event raises that is not.
    begins = {"fn": begin_fit, "inputs": None, "outputs": None, "concurrency_limit": None, **hidden}
    presses = {**begins, "fn": press, "inputs": fit_button}
    label = {**filling(shown_label, {"button": fit_button}), "queue": False, **hidden}
    still = {**filling(follow_losses, {"clock": clock}), **hidden}
    label_again = {**filling(come_back_label, {"button": fit_button}), **hidden}
    clock.tick(**draw_losses)
    # Those that wait only look on; the jobs themselves are done one at a time.
    fits = {**filling(fit, results), "concurrency_limit": None, "show_progress_on": result}
    settings = [rate, asked_options, seed, folds]

    def bring_train_back(*steps: Dependency) -> None:
        """Where one fails before the fit has begun, as with a value that cannot be used, none will begin."""
        for step in steps:  # the label twice: what else follows the step may have asked for it before
            step.failure(**label_again).then(**label).then(**still)

    def train(event: Dependency, **more: Any) -> Dependency:
        event.then(**label)
        cleared = event.success(**clears, **hidden)
        asked = cleared.success(**collect, **hidden)
        ended = asked.success(**fits, inputs=[files, asked_method, *settings], **more)
        bring_train_back(cleared, asked, ended)
        return ended

    # The second: without those pictures that stand apart, everything else as it is.
    again = leave_button.click(**filling(leave_out, shown), **private)
    gr.on([fit_button.click, leave_button.click], None, js=capture.STOP, **private)
    fitted = [train(fit_button.click(**presses), api_name="fit"), train(again.success(**begins), **private)]
    tried = {}
    for name, button in zip(EXAMPLE_SETS, work_buttons, strict=True):
        begun = button.click(**begins)
        begun.then(**label)
        picking = begun.success(**filling(pick_example, {**shown, "files": files}), inputs=gr.State(name), **private)
        seen = picking.success(lambda: gr.update(visible=True), None, gallery, **private)
        cleared = seen.success(**clears, **hidden)
        usual = [gr.State(None), gr.State(USUAL.method), rate, gr.State("{}"), seed, folds]
        tried[name] = cleared.success(**fits, inputs=usual, **private)
        bring_train_back(picking, seen, cleared, tried[name])
        tried[name].then(**label)
        tried[name].then(**reviews).then(**guess)
        tried[name].then(**still)
    for event in fitted:
        event.then(**label)
        event.then(**reviews).then(**draw_losses).then(**still)
    fitted[1].then(**guess)
    gr.on([], stop, None, None, api_name="stop")  # the first of this name
    come_back = [
        {**filling(chosen_before, {**shown, "clock": clock}), **hidden},
        label_again,
        guess,
        {**filling(follow_fit, results), "concurrency_limit": None, "show_progress_on": result, **private},
        label,
        reviews,
        draw_losses,
        still,
    ]
    return Tab(fitted, tried, come_back, live_button)


def _options(groups: dict[str, gr.Group], made: dict[str, Component], is_common: bool) -> None:
    """Lay out a group of controls for each method, of its common options or of the others.

    Args:
        groups, made: are given the groups by the name that `method_changed` has for them, and the controls by
            `<method>.<option>`.
    """
    for key, cls in METHODS.items():
        with gr.Group(visible=key == USUAL.method) as group:
            for field in dataclasses.fields(cls.Config):
                if field.metadata["common"] == is_common:
                    made[f"{key}.{field.name}"] = options.control(field)
        groups[key if is_common else f"{key}.expert"] = group


def example_strip(name: str) -> Path:
    """A good picture of an example set, a defective one, and its heatmap, side by side: `examples/see_it_work.py`."""
    return EXAMPLE_SETS[name].with_suffix(".jpg")

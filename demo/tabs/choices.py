"""Choosing a method by what matters: words, and the method and options that stand behind each of them.

What stands behind a word was measured, on sets that nobody chose it for: tests/evaluation/measure_choices.py and
measure_accuracy.py; the tables are in admodels/README.md, "Which method, which size".
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from admodels import METHODS
from admodels.tiling import TiledEnsemble
from demo.tabs import tiles
from demo.tabs.fitting import chosen_options
from demo.view import text

ANOTHER = "Another method"
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """What one word means.

    Attributes:
        word: what matters to who chooses it.
        said: one sentence on when to choose it.
        method: the method's key.
        options: those of its options that are not at their defaults.
        tiles: those of an ensemble of it; None for a single model.
        how: what sets it apart from other choices of the same method, to follow its name.
    """

    word: str
    said: str
    method: str
    options: Values = field(default_factory=dict)
    tiles: Values | None = None
    how: str = ""

    @property
    def title(self) -> str:
        """The method's name."""
        name = METHODS[self.method].title
        return name if self.tiles is None else f"{TiledEnsemble.title} of {name}"

    def asked(self) -> tuple[str, dict[str, Any]]:
        """Method and options as `admodels.create` and the API's `fit` take them."""
        if self.tiles is None:
            return self.method, dict(self.options)
        return TiledEnsemble.key, {**self.tiles, "method": self.method, "member": dict(self.options)}


CHOICES = (
    Choice(
        "Fast",
        "Half the time; locates defects less exactly.",
        "fapm",
        {"image_size": 192},
        how=" at 192 px",
    ),
    Choice(
        "Accurate",
        "Best where parts lie in the same place.",
        "fapm",
    ),
    Choice(
        "Parts lie anywhere",
        "For parts that are shifted or turned.",
        "fapm",
        {"patch_wise": False, "coreset_ratio": 0.01},
        how=" with one memory",
    ),
    Choice(
        "Small defects in large pictures",
        "A model for each of four tiles.",
        "fapm",
        tiles={"stride": 256},
    ),
)
USUAL = next(choice for choice in CHOICES if not choice.options and choice.tiles is None)
BY_WORD = {choice.word: choice for choice in CHOICES}


def radio() -> gr.Radio:
    """The words, with the method's name and a sentence below each."""
    lines = [(f"{choice.word}\n{choice.title}{choice.how}. {choice.said}", choice.word) for choice in CHOICES]
    lines.append((f"{ANOTHER}\nChoose one of {len(METHODS)} by its name.", ANOTHER))
    return gr.Radio(lines, value=USUAL.word, label="What matters most?", elem_id="choice")


def said_first() -> str:
    """What `will_train` says on a new page."""
    return text.will_train(USUAL.title, {}, "", "")


def choose(word: str) -> dict[str, Any]:
    """Set method, tiles and options to what a word stands for; for another method they stay, to be chosen by name.

    Returns:
        What each control shows: `method`, `on`, the tiles' options as `tiles.<option>` and each method's as
        `<method>.<option>`.
    """
    choice = BY_WORD.get(word)
    if choice is None:
        return {"method": gr.update(visible=True)}
    shown: dict[str, Any] = {"method": gr.update(value=choice.method, visible=False), "on": choice.tiles is not None}
    for f in tiles.FIELDS:
        shown[f"tiles.{f.name}"] = (choice.tiles or {}).get(f.name, f.default)
    for key, cls in METHODS.items():
        mine = choice.options if key == choice.method else {}
        for f in dataclasses.fields(cls.Config):
            shown[f"{key}.{f.name}"] = mine.get(f.name, f.default)
    return shown


def will_train(word: str, method: str, *values: Any) -> dict[str, Any]:
    """Say what Train will train, by the values of all controls, and whether the word still stands for that."""
    asked, options = chosen_options(method, *values)
    choice = BY_WORD.get(word)
    is_changed = choice is not None and (asked, options) != choice.asked()
    title = METHODS[method].title
    if asked == TiledEnsemble.key:
        title = f"{TiledEnsemble.title} of {title}"
        of_tiles = {name: value for name, value in options.items() if name not in ("method", "member")}
        options = of_tiles | options["member"]
    summary = METHODS[method].summary if choice is None else ""
    return {"summary": text.will_train(title, options, choice.word if is_changed else "", summary)}

"""The interface in the visitor's language.

Everything here is written in English; a file for each language says what becomes of it. What stands on a component
(labels, buttons, help, headings) is translated by Gradio's page, from the language of the browser; so are the words of
our own pieces of HTML, by `page.js`. Sentences with figures in them stay English, and so does what programs get.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

FOLDER = Path(__file__).parent
LANGUAGES = ("de", "es", "ja", "zh")  # beside English
FIXED = ("label", "info", "placeholder")
WORDED = ("button", "uploadbutton", "downloadbutton", "markdown")  # whose value is text for a reader


def translation(language: str) -> dict[str, str]:
    """English text to the same in another language."""
    return json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))


def translations() -> gr.I18n:
    """All languages as Gradio takes them; the English text is the key."""
    found = {language: translation(language) for language in LANGUAGES}
    english = {text: text for words in found.values() for text in words}
    return gr.I18n(en=english, **found)


def marked(config: dict[str, Any], i18n: gr.I18n) -> dict[str, Any]:
    """A page's configuration whose fixed texts the page is to translate; what no language knows stays as it is."""
    known = i18n.translations["en"]

    def mark(text: str) -> str:
        return str(i18n(text)) if text in known else text

    return config | {"components": [_with_texts(component, mark) for component in config["components"]]}


def fixed_texts(config: dict[str, Any]) -> set[str]:
    """All texts of a page's configuration that `marked` looks at."""
    found: set[str] = set()

    def note(text: str) -> str:
        found.add(text)
        return text

    for component in config["components"]:
        _with_texts(component, note)
    return {text for text in found if any(letter.isalpha() for letter in text)}


def _with_texts(component: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    props = component["props"]
    changed = {name: change(props[name]) for name in _texts_of(component)}
    if props.get("choices") and component["type"] != "dataframe":
        changed["choices"] = [[change(name), value] for name, value in props["choices"]]
    return component | {"props": props | changed}


def _texts_of(component: dict[str, Any]) -> Iterator[str]:
    """Which properties of a component are text for a reader."""
    props = component["props"]
    for name in (*FIXED, *(["value"] if component["type"] in WORDED else [])):
        if isinstance(props.get(name), str) and props[name]:
            yield name

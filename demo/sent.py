"""What pages and programs send: every value of every event is looked at here before a handler sees it.

`Page` holds for all of them what the kind of their control says: a number is one and finite, a switch is true or false,
a text is a text. The functions then read what a text of our own form means.
"""

import json
import math
from functools import cache
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.components import Component
from gradio.state_holder import SessionState
from gradio.utils import get_function_description

from admodels import OptionError
from demo import api, languages
from demo.errors import followed_anyway, refusal

LONGEST = 80  # characters of a value that a message repeats
MOST_CHARACTERS, MOST_IN_LINES = 1000, 200_000  # of a name and the like, and of a text that may have lines
OF_GRADIO = ("request", "progress", "event", "oauth")  # parameters of handlers that nobody sends


class Page(gr.Blocks):
    """The app's blocks; whatever cannot be used of what was sent is said in words of ours, never by a traceback."""

    def get_config_file(self) -> Any:
        """As Gradio's, with texts that the page translates, and with what is to follow also where something failed."""
        config, i18n = followed_anyway(super().get_config_file()), getattr(self, "i18n_instance", None)
        return languages.marked(config, i18n) if i18n is not None else config

    def get_api_info(self, all_endpoints: bool = False, page: str | None = None) -> Any:
        """As Gradio's, with a description and an example of each parameter."""
        return api.describe(super().get_api_info(all_endpoints, page), self)

    async def preprocess_data(
        self, block_fn: BlockFunction, inputs: list[Any], state: SessionState | None, explicit_call: bool = False
    ) -> list[Any]:
        """As Gradio's, for values that were checked."""
        names = parameter_names(block_fn)
        try:
            if len(inputs) < len(block_fn.inputs):
                raise OptionError(
                    f"{len(inputs)} values received; {len(block_fn.inputs)} are expected: {', '.join(names) or 'none'}."
                )
            given = [checked(*each) for each in zip(block_fn.inputs, inputs, names, strict=False)]
            return await super().preprocess_data(block_fn, given, state, explicit_call)
        except gr.Error:
            raise
        except OptionError as error:
            raise refusal(str(error)) from error
        except Exception as error:  # Gradio's own reading of what came: files, pictures
            reason = str(error).strip().rpartition("Original error: ")[2].splitlines()
            raise refusal(
                f"the value of {', '.join(names)} cannot be used ({shortened(reason[0]) if reason else 'no reason'}). "
                "Compare it with the description of this call on the API page."
            ) from None


@cache
def parameter_names(block_fn: BlockFunction) -> list[str]:
    """What each input of an event is called: the parameter, or the control's label where one takes several."""
    _, described, _ = get_function_description(block_fn.fn)
    named = [name for name in described if name not in OF_GRADIO]
    if len(named) == len(block_fn.inputs):
        return named
    return [getattr(c, "label", None) or f"value {i}" for i, c in enumerate(block_fn.inputs, 1)]


def checked(component: Component, value: Any, name: str) -> Any:
    """A value as its control may have it; null is an empty text where a text is expected.

    Raises:
        OptionError: it is of another kind.
    """
    if isinstance(component, gr.Slider | gr.Number):
        if value is None and isinstance(component, gr.Number):
            return None  # an empty field
        wanted = "a whole number" if component.precision == 0 else "a number"
        is_whole = component.precision != 0 or (_is_number(value) and value == int(value))
        if not _is_number(value) or not is_whole:
            raise OptionError(f"{name} is {shown(value)}; expected {wanted}.")
        return value
    if isinstance(component, gr.Checkbox) and not isinstance(value, bool):
        raise OptionError(f"{name} is {shown(value)}; expected true or false.")
    if isinstance(component, gr.Radio) and not isinstance(value, str):
        choices = ", ".join(str(choice) for _, choice in component.choices)
        raise OptionError(f"{name} is {shown(value)}; expected one of {choices}.")
    if isinstance(component, gr.Textbox) or (isinstance(component, gr.Dropdown) and component.allow_custom_value):
        given = text(value, name)
        most = MOST_CHARACTERS if getattr(component, "max_lines", 1) == 1 else MOST_IN_LINES
        if len(given) > most:
            raise OptionError(f"{name} has {len(given):,} characters; at most {most:,} are accepted.")
        return given
    if isinstance(component, gr.File | gr.UploadButton | gr.Image):
        _check_files(value, name)
    return value


def text(value: Any, name: str) -> str:
    """A text; a number is taken for its digits, null for an empty text.

    Raises:
        OptionError: it is something else, or holds what is no character.
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise OptionError(f"{name} is {shown(value)}; expected a text.")
    given = str(value)
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise OptionError(f"{name} is {shown(value)}, which holds half a character; expected a text.") from error
    return given


def number(value: Any, name: str, *, above: float, below: float) -> float:
    """A number between two others.

    Raises:
        OptionError: it is not one.
    """
    if not _is_number(value) or not above < value < below:
        raise OptionError(f"{name} is {shown(value)}; expected a number between {above:g} and {below:g}.")
    return float(value)


def seed(value: Any) -> int:
    """A whole number from 0 on; 0 where none came.

    Raises:
        OptionError: it is not one.
    """
    if value is None:
        return 0
    if not _is_number(value) or value < 0 or value != int(value):
        raise OptionError(f"seed is {shown(value)}; expected a whole number, 0 or more.")
    return int(value)


def folds(value: Any) -> int | None:
    """A number of folds; None for auto.

    Raises:
        OptionError: it is neither.
    """
    given = text(value, "folds").strip() or "auto"
    if given == "auto":
        return None
    if not (given.isascii() and given.isdigit()) or len(given) > 6:
        raise OptionError(f"folds is {shown(value)}; expected auto, 0 (one split), or a number of folds such as 5.")
    return int(given)


def json_object(value: Any, name: str) -> dict[str, Any]:
    """A JSON object; an empty one where nothing came.

    Raises:
        OptionError: it is none.
    """
    given = text(value, name).strip() or "{}"
    try:
        found = json.loads(given)
    except RecursionError:
        raise OptionError(f"{name} is nested too deeply; write an object such as {{}}.") from None
    except ValueError as error:
        raise OptionError(f"{name} is not valid JSON ({error}); write an object such as {{}}.") from error
    if not isinstance(found, dict):
        raise OptionError(f"{name} is {shown(given)}; expected a JSON object such as {{}}.")
    return found


def shown(value: Any) -> str:
    """A value as a message repeats it."""
    return "null" if value is None else shortened(repr(value))


def shortened(words: str) -> str:
    """Words that may be very many, cut."""
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}…"


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _check_files(value: Any, name: str) -> None:
    """One uploaded file or several, as Gradio's clients describe them, or nothing.

    Raises:
        OptionError: it is something else.
    """
    for file in value if isinstance(value, list) else [value]:
        if file is not None and not (isinstance(file, dict) and isinstance(file.get("path") or file.get("url"), str)):
            raise OptionError(
                f"{name} holds {shown(file)}; expected uploaded files. Upload them first: gradio_client does with "
                "handle_file(path)."
            )

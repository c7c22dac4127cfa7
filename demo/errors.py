"""Errors that a visitor can act on are shown once, and stay until they are closed or something succeeds.

Gradio shows an error as a toast, and as a pill over every output of the failed event; `style.css` hides the pills.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.events import Dependency

from admodels import AdmodelsError

CLOSE = "() => document.querySelectorAll('.toast-body.error .toast-close').forEach(button => button.click())"
UNASKED = {"load", "unload", "tick", "stream"}  # events that come by themselves
WORD_JOINER = "\u2060"


def refusal(message: str) -> gr.Error:
    """The error to raise: it stays until it is closed, and says just these words.

    Gradio takes a message for HTML. A name may look like that, and programs want the words as they are; so an
    invisible character after each `<` and `&` keeps it from being a tag or an entity.
    """
    return gr.Error(re.sub("[<&]", rf"\g<0>{WORD_JOINER}", message), duration=None)


def nothing_follows() -> gr.Error:
    """The error to raise where the events that follow a success are not to come; nobody is shown it."""
    return gr.Error("", visible=False, print_exception=False)


@contextmanager
def shown_errors() -> Iterator[None]:
    """Show what the library says is wrong."""
    try:
        yield
    except AdmodelsError as error:
        raise refusal(str(error)) from error


def close_with_next_success(demo: gr.Blocks) -> None:
    """Have errors go as soon as something that the visitor did succeeds; called when all events are there."""
    for number, event in list(demo.fns.items()):
        if event.fn is not None and event.targets and _is_asked_for(event, demo):
            Dependency(None, {}, number, event.fn).success(None, js=CLOSE, api_visibility="private")


def followed_anyway(config: dict[str, Any]) -> dict[str, Any]:
    """A page's configuration where what is declared with `then` also comes after an error.

    That is what Gradio's documentation says of `then`; but the page of 6.31 runs after an error only what is declared
    with `failure`. A second entry with the same number has it run the same event from there.
    """
    dependencies = config["dependencies"]
    anyway = [
        each | {"trigger_only_on_failure": True}
        for each in dependencies
        if each["trigger_after"] is not None
        and not each["trigger_only_on_success"]
        and not each["trigger_only_on_failure"]
    ]
    return config | {"dependencies": [*dependencies, *anyway]}


def _is_asked_for(event: BlockFunction, demo: gr.Blocks) -> bool:
    """Whether a visitor does this, or has it done; not what comes by itself, or whether something failed or not."""
    while event.trigger_after is not None:
        if not event.trigger_only_on_success:
            return False
        event = demo.fns[event.trigger_after]
    targets = [(demo.blocks.get(block), name) for block, name in event.targets]
    return not any(
        name in UNASKED or isinstance(block, gr.Tab) or (isinstance(block, gr.HTML) and name == "change")
        for block, name in targets
    )

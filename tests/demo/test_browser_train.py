"""Choosing by words, the button that is Train and Stop, and what is said while a fit runs, in a browser."""

import re

import pytest
from playwright.sync_api import expect

from tests.demo.test_browser import LONG, choose_method, shown

SHARE = re.compile(r"\d+(?:\.\d+)?\s*%")


def choose(page, word):
    page.get_by_role("radio", name=re.compile(f"^{word}")).check()


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def open_part(page, name):
    """Open what is folded; its button has a triangle in its name too."""
    page.get_by_role("button", name=re.compile(rf"^{name}(?!:)")).filter(visible=True).click()


def train_for_long(page):
    """Begin a training that nobody waits for."""
    button(page, "Try: Paper with specks").click()
    expect(page.get_by_text("24 good pictures")).to_be_visible(timeout=LONG)
    choose_method(page, "EfficientAD")
    open_part(page, "Options")
    for label, value in (("image size", "64"), ("max steps", "100000")):
        shown(page, label).fill(value)
        shown(page, label).press("Tab")


def test_a_word_sets_what_is_trained_and_a_change_by_hand_is_said(page):
    says = page.locator("#will-train")
    expect(says).to_contain_text("Train makes a model with FAPM.", timeout=LONG)
    button(page, "Try: Paper with specks").click()
    expect(page.get_by_text("24 good pictures")).to_be_visible(timeout=LONG)
    if page.viewport_size["width"] < 700:
        page.locator("#chosen img").first.wait_for(timeout=LONG)
        expect(button(page, "Train")).to_be_in_viewport(ratio=1)
    choose(page, "Small defects")
    expect(says).to_contain_text("Tiled ensemble of FAPM: stride 256.", timeout=LONG)
    choose(page, "Fast")  # its options are set although the page has not shown them yet
    expect(says).to_contain_text("FAPM: image size 192.", timeout=LONG)
    open_part(page, "Options")
    expect(shown(page, "image size")).to_have_value("192")
    expect(shown(page, "norm power")).to_have_count(0)
    open_part(page, "Expert")
    expect(shown(page, "norm power")).to_be_visible()
    shown(page, "image size").fill("64")
    shown(page, "image size").press("Tab")
    expect(says).to_contain_text("FAPM: image size 64. You changed this from “Fast”.", timeout=LONG)
    expect(page.get_by_label("Method", exact=True)).to_have_count(0)
    choose_method(page, "PatchCore")
    expect(says).to_contain_text("Train makes a model with PatchCore.", timeout=LONG)
    expect(shown(page, "patch wise")).to_have_count(0)
    shown(page, "image size").fill("64")
    shown(page, "image size").press("Tab")
    expect(says).to_contain_text("PatchCore: image size 64.", timeout=LONG)
    button(page, "Train").click()
    expect(page.locator("#fit-result")).to_contain_text("PatchCore", timeout=LONG)
    choose(page, "Parts lie anywhere")
    expect(says).to_contain_text("FAPM: coreset ratio 0.01, patch wise off.", timeout=LONG)
    expect(shown(page, "patch wise")).not_to_be_checked()


@pytest.mark.parametrize("page", [(1280, "light")], indirect=True)
def test_train_is_stop_while_a_fit_runs_and_one_percentage_and_the_time_left_are_shown(page):
    train_for_long(page)
    button(page, "Train").evaluate("train => { train.click(); train.click(); }")  # a double click, however busy it is
    expect(button(page, "Stop").filter(visible=True)).to_have_count(1, timeout=LONG)
    expect(button(page, "Train")).to_have_count(0)
    result = page.locator("#fit-result")
    expect(result).to_contain_text(
        re.compile(r"training: step .* of 100,000, loss [\d.e-]+, about .* left"), timeout=LONG
    )
    said = result.inner_text()
    assert len(SHARE.findall(said)) == 1, said
    assert not re.search(r"\d+\.\d+(/\d+\.\d+)?s", said), said  # Gradio's clock
    expect(page.get_by_role("alert")).to_have_count(0)
    page.reload()
    expect(button(page, "Stop").filter(visible=True)).to_have_count(1, timeout=LONG)
    expect(button(page, "Train")).to_have_count(0)
    button(page, "Stop").click()
    expect(page.locator("#question")).to_contain_text("The training was stopped early", timeout=LONG)
    expect(button(page, "Train")).to_be_visible(timeout=LONG)
    expect(button(page, "Stop").filter(visible=True)).to_have_count(0)
    button(page, "Discard").click()
    expect(page.locator("#question")).to_be_hidden(timeout=LONG)


@pytest.mark.parametrize("page", [(1280, "light")], indirect=True)
def test_what_cannot_begin_leaves_train(page):
    button(page, "Train").click()
    expect(page.get_by_text("no pictures selected").first).to_be_visible(timeout=LONG)
    expect(button(page, "Train")).to_be_visible(timeout=LONG)

"""What the editor shows is what is scored, at every size: the defect in its place, and the good picture without it."""

import io
import time

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.demo.test_browser import LONG, fit_the_example

COLOUR = (90, 160, 150)
FRAME = 15  # pixels of the screen: the editor's border and its round corners


def found(pixels, colour):
    """Left, top, right and bottom of what differs from a colour; None where nothing does."""
    rows, columns = np.nonzero(np.abs(pixels.astype(int) - colour).max(axis=2) > 30)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) if len(rows) else None


def scored(page, position):
    """One of the pictures that were scored, as the slider shows it."""
    page.get_by_label(f"Thumbnail {position} of").filter(visible=True).click()
    expect(page.locator("#verdict")).to_contain_text("without ·" if position == 1 else "px ·", timeout=LONG)
    address = page.locator("#slider .slider-wrap img").first.get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(page.request.get(address).body())).convert("RGB"))


def editor(page):
    """What the editor shows without what lies over it, first an empty sheet; None before it has drawn that."""
    alone = "#painting *:not(canvas, :has(canvas)) { visibility: hidden !important; }"
    taken = page.locator("#painting").screenshot(style=alone)
    pixels = np.asarray(Image.open(io.BytesIO(taken)).convert("RGB")).astype(int)
    pixels = pixels[FRAME:-FRAME, FRAME:-FRAME]
    return pixels if np.ptp(pixels, axis=(0, 1)).any() else None


def on_screen(page):
    """The picture that the editor shows; None where there is none yet."""
    pixels = editor(page)
    if pixels is None:
        return None
    rows, columns = np.nonzero(np.abs(pixels - COLOUR).max(axis=2) <= 2)
    return pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] if len(rows) else None


def when(look):
    """What `look` gives as soon as it gives the same twice: a canvas cannot be asked whether it is drawn."""
    before, end = None, time.monotonic() + LONG / 1000
    while time.monotonic() < end:
        seen = look()
        if seen is not None and before is not None and np.array_equal(seen, before):
            return seen
        before = seen
    pytest.fail("the editor never shows it")


@pytest.mark.parametrize("page", [(1280, "light")], indirect=True)
def test_a_random_scratch_is_scored_where_the_editor_shows_it(page, tmp_path):
    fit_the_example(page)
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_role("tab", name="Paint a defect").click()
    # Gradio's editor loses a picture that comes before it has drawn itself.
    expect(page.locator("#painting canvas").first).to_be_visible(timeout=LONG)
    when(lambda: editor(page))
    for width, height in ((16, 16), (600, 900), (1600, 400)):
        path = tmp_path / f"{width}x{height}.png"
        Image.new("RGB", (width, height), COLOUR).save(path)
        page.locator("#painting input[type=file]").first.set_input_files(path)
        when(lambda: on_screen(page))
        page.get_by_role("button", name="Random scratch").click()
        shown = when(
            lambda: seen if (seen := on_screen(page)) is not None and found(seen, COLOUR) is not None else None
        )
        page.get_by_role("button", name="Test this defect").click()
        page.wait_for_function(
            "wide => document.querySelector('#slider .slider-wrap img')?.naturalWidth === wide", arg=min(width, 1024)
        )
        good, painted = scored(page, 1), scored(page, 2)
        assert np.abs(good.astype(int) - COLOUR).max() <= 2, "the scratch is not part of the good picture"
        seen, place = (found(p, COLOUR) / np.tile(p.shape[1::-1], 2) for p in (shown, painted))
        pixel = 1 / np.minimum(shown.shape[1::-1], painted.shape[1::-1])  # of the coarser one
        assert (np.abs(seen - place) <= 2 * np.tile(pixel, 2)).all(), f"shown at {seen}, scored at {place}"
        page.locator("#painting").get_by_label("Clear").click()
        when(lambda: editor(page) if on_screen(page) is None else None)

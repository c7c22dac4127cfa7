"""Original and heatmap in Inspect's slider, and the pictures beside it: the same place in both, and nothing cut off."""

import io
import re

import numpy as np
from PIL import Image
from playwright.sync_api import expect

from tests.demo.test_browser import LONG, fit_the_example, shown

SHAPES = [(16, 16), (80, 640), (640, 80), (240, 320), (400, 390), (1000, 560)]  # width, height
MARKERS = {"top left": (255, 0, 0), "top right": (0, 255, 0), "bottom left": (0, 0, 255), "inside": (255, 0, 255)}
GREY = 128


def marked(width, height):
    """A grey picture with markers in three corners and one inside."""
    pixels, side = np.full((height, width, 3), GREY, np.uint8), max(3, min(width, height) // 4)
    starts = {
        "top left": (0, 0),
        "top right": (0, width - side),
        "bottom left": (height - side, 0),
        "inside": (height // 3, width // 2),
    }
    for name, (top, left) in starts.items():
        pixels[top : top + side, left : left + side] = MARKERS[name]
    return Image.fromarray(pixels)


def show(page, width, height):
    """Choose one of the pictures inspected; wait until both of its pictures have come."""
    page.locator("#inspected .thumbnail-item", has_text=f"{width}x{height}.png").click()
    expect(page.locator("#verdict")).to_contain_text(f"{width}x{height}.png", timeout=LONG)
    page.wait_for_function(
        """([width, height]) => {
            const pair = [...document.querySelectorAll('#slider .slider-wrap img')];
            return pair.length === 2
                && pair.every(i => i.complete && i.naturalWidth === width && i.naturalHeight === height);
        }""",
        arg=[width, height],
    )


def drag_handle_to(page, x):
    """Drag the slider's handle to a place between its left end, 0, and its right end, 1."""
    area, handle = page.locator("#slider .slider-wrap"), page.locator("#slider [data-testid=slider]")
    handle.scroll_into_view_if_needed()
    box, at = area.bounding_box(), handle.bounding_box()
    # At its end the handle is half outside, and cannot be touched there.
    page.mouse.move(at["x"] + at["width"] / 2, at["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, at["y"] + 5, steps=3)
    page.mouse.move(box["x"] + x * box["width"], at["y"] + 5, steps=5)
    page.mouse.up()


def places(page):
    """Left, top, right and bottom of each marker on the screen."""
    without_handle = "#slider [data-testid=slider] { visibility: hidden; }"
    taken = page.locator("#slider").screenshot(animations="disabled", style=without_handle)
    pixels = np.asarray(Image.open(io.BytesIO(taken)).convert("RGB")).astype(int)
    found = {}
    for name, colour in MARKERS.items():
        rows, columns = np.nonzero(np.abs(pixels - colour).max(axis=2) < 100)
        assert len(rows), f"{name} is not to be seen"
        found[name] = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return found


def clipped(page):
    """How much of the heatmap is clipped away to show the original, in pixels."""
    return page.locator("#slider .slider-wrap img").last.evaluate(
        "e => parseFloat(e.style.clipPath.match(/([\\d.]+)%/)[1]) / 100 * e.clientWidth"
    )


def check(page, width, height):
    """The markers are in the same places at both ends of the slider, and the picture has its own shape."""
    drag_handle_to(page, 1)
    original, right = places(page), clipped(page)
    drag_handle_to(page, 0)
    heatmap, left = places(page), clipped(page)
    for name, place in original.items():
        assert np.abs(place - heatmap[name]).max() <= 1, f"{name} at {place} and at {heatmap[name]}"
    wide = original["top right"][2] - original["top left"][0]
    high = original["bottom left"][3] - original["top left"][1]
    assert right - left >= wide - 2, "one end showed the original, the other one the heatmap"
    area = page.locator("#slider .slider-wrap").bounding_box()
    scale = min(area["width"] / width, area["height"] / height)
    assert np.abs([wide - scale * width, high - scale * height]).max() <= 3, (
        "not whole, or not as large as there is room"
    )


def test_original_and_heatmap_lie_on_each_other_and_nothing_is_cut_off(page, tmp_path):
    fit_the_example(page)
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_role("button", name=re.compile("^Display")).click()
    shown(page, "Contour of pixels").uncheck()
    strength = page.locator("input[type=range][aria-label*='Heatmap opacity']")
    strength.focus()
    strength.press("Home")  # a heatmap that cannot be seen leaves the markers their colours
    paths = [tmp_path / f"{width}x{height}.png" for width, height in SHAPES]
    for path, (width, height) in zip(paths, SHAPES, strict=True):
        marked(width, height).save(path)
    page.locator(".block", has_text="Pictures to inspect").locator("input[type=file]").last.set_input_files(paths)
    expect(page.get_by_label(f"Thumbnail 1 of {len(SHAPES)}")).to_be_visible(timeout=LONG)
    for width, height in reversed(SHAPES):
        show(page, width, height)
        check(page, width, height)
    page.locator("#slider").get_by_label("Fullscreen").click()
    expect(page.locator("#slider").get_by_label("Exit fullscreen mode")).to_be_visible()
    check(page, width, height)
    page.locator("#slider").get_by_label("Exit fullscreen mode").click()
    for window in (1600, 720, 390):
        page.set_viewport_size({"width": window, "height": 800})
        check(page, width, height)

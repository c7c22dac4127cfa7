"""Where Inspect gets its pictures from, in a real browser whose camera shows a test picture."""

import re
import time
from contextlib import suppress

import pytest
from playwright.sync_api import expect

from tests.conftest import EXAMPLES
from tests.demo.test_browser import LONG, fit_the_example, shown


def start_camera(page):
    page.get_by_text("Click to Access Webcam").filter(visible=True).click()
    # A picture taken before the first frame came would be empty.
    page.wait_for_function("[...document.querySelectorAll('video')].some(v => v.offsetParent && v.videoWidth)")


def test_a_folder_is_a_table_that_opens_each_picture(page):
    fit_the_example(page)
    page.get_by_role("tab", name="Inspect").click()
    page.locator("input[webkitdirectory]").set_input_files(EXAMPLES / "pa_brg02_rl" / "test" / "speck")
    expect(page.locator("#verdict")).to_contain_text(".png", timeout=LONG)
    page.get_by_role("button", name=re.compile("^All scores")).click()
    table = page.locator("#scores")
    expect(table.locator("img").filter(visible=True).first).to_be_visible(timeout=LONG)
    table.get_by_text("012.png").last.click()
    expect(page.locator("#verdict")).to_contain_text("012.png", timeout=LONG)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV").click()
    assert download.value.suggested_filename == "scores.csv"


def test_the_camera_gives_a_picture_and_a_stream(page):
    fit_the_example(page)
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_role("tab", name="Camera").click()
    start_camera(page)
    shown(page, "capture photo").click()
    expect(page.locator("#verdict")).to_contain_text("camera", timeout=LONG)

    page.get_by_role("tab", name="Live").click()
    start_camera(page)
    page.get_by_title("start recording").filter(visible=True).click()
    frame = page.locator("#live img")
    expect(frame).to_have_attribute(
        "alt", re.compile(r"(Defect suspected|Borderline|Good) · [\d.]+ · [\d.]+ FPS"), timeout=LONG
    )
    first = frame.get_attribute("src")
    expect(frame).not_to_have_attribute("src", first, timeout=LONG)
    page.get_by_title("stop recording").filter(visible=True).click()


def said_of_what_is_painted(page, before=None):
    """Test the defect until something else is said than before: a canvas cannot be asked whether it is drawn."""
    said = page.locator("#painted p").filter(has_text="hottest place of the heatmap")
    end = time.monotonic() + LONG / 1000
    while time.monotonic() < end:
        page.get_by_role("button", name="Test this defect").click()
        with suppress(AssertionError):
            (expect(said.filter(has_not_text=before)) if before else expect(said)).to_be_visible(timeout=5_000)
            return said.inner_text()
    pytest.fail("nothing is said of it")


def test_a_painted_defect_is_looked_for(page):
    fit_the_example(page)
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_role("tab", name="Paint a defect").click()
    page.get_by_role("button", name="Test this defect").click()
    expect(page.get_by_text("No picture to paint on yet")).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Another good picture").click()
    canvas = page.locator("#painting canvas").first
    expect(canvas).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Random scratch").click()
    said = said_of_what_is_painted(page)

    canvas.hover()  # and so it is on the screen, and stays where it is
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 30, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 10, steps=8)
    page.mouse.up()
    # The good picture is scored as it was: what is drawn, by whom ever, is not part of it.
    assert "✓ Found" in said_of_what_is_painted(page, before=said)
    without = page.get_by_role("button", name="Thumbnail 1 of")
    expect(without).to_contain_text("✓")
    expect(without).to_contain_text("without")

"""The camera in the Train tab, in a real browser: from the first press to Inspect's Live."""

import re

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.conftest import chromium
from tests.demo.test_accessibility import violations
from tests.demo.test_browser import LONG, make_it_small

WIDTH, HEIGHT, N_SCENES = 320, 240, 9


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A film of different scenes, each of which stands still for two seconds."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("film") / "film.y4m"
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F10:1 Ip A1:1 C420\n".encode())
        for _ in range(N_SCENES):
            grey = np.kron(rng.integers(60, 200, (6, 8), dtype=np.uint8), np.ones((40, 40), np.uint8))
            planes = grey.tobytes() + bytes([128]) * (WIDTH * HEIGHT // 2)
            file.write(20 * (b"FRAME\n" + planes))
    return path


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["wide", "narrow"])
def visit(request, browser, app, film):
    """A new visitor whose camera shows the film."""
    width, scheme = request.param
    opened = chromium(browser.browser_type, f"--use-file-for-fake-video-capture={film}")
    page = opened.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, permissions=["camera"])
    page.set_default_timeout(LONG)
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(app)
    page.get_by_role("tab", name="Camera").click()
    yield page
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert problems == []
    opened.close()


def test_parts_are_captured_learned_from_and_looked_at_live(visit):
    captured, shots = visit.locator("#captured"), visit.locator("#captured .shots img")
    wanted = visit.get_by_label("number input for Pictures to take")
    wanted.fill("6")
    wanted.press("Tab")
    visit.get_by_role("button", name="Start capturing").click()
    expect(captured).to_contain_text(re.compile(r"[1-5] of 6"), timeout=LONG)
    # It stops by itself.
    expect(captured).to_contain_text(
        re.compile(r"6 pictures(.|\n)*frames? passed over(.|\n)*press Train"), timeout=LONG
    )
    expect(visit.locator("#capture [title='start recording']")).to_have_count(1, timeout=LONG)
    expect(visit.get_by_text("6 good pictures from your camera.")).to_be_visible(timeout=LONG)
    expect(shots).to_have_count(6)
    expect(shots.first).to_have_attribute("alt", "camera-006.png")  # the last one first
    assert violations(visit) == []
    visit.get_by_role("button", name="Delete last").click()
    expect(shots).to_have_count(5, timeout=LONG)
    expect(shots.first).to_have_attribute("alt", "camera-005.png")

    visit.reload()
    visit.get_by_role("tab", name="Camera").click()
    expect(visit.locator("#captured .shots img")).to_have_count(5, timeout=LONG)
    expect(visit.get_by_text("5 good pictures from your camera.")).to_be_visible()
    make_it_small(visit)
    expect(visit.get_by_text("peak memory").first).to_be_visible(timeout=LONG)
    visit.get_by_role("button", name="Train", exact=True).click()
    expect(visit.locator("#fit-result")).to_contain_text("Next: look live.", timeout=LONG)
    expect(visit.locator("#reviewed .caption-label").first).to_contain_text("camera-00", timeout=LONG)
    visit.get_by_role("button", name="Look live").click()
    verdict = re.compile(r"(Good|Borderline|Defect suspected) · [\d.]+ · [\d.]+ FPS")
    expect(visit.locator("#live img")).to_have_attribute("alt", verdict, timeout=LONG)
    visit.get_by_title("stop recording").filter(visible=True).click()


def test_an_upload_takes_the_place_of_the_cameras_pictures(visit, normals):
    visit.get_by_role("button", name="Start capturing").click()
    expect(visit.locator("#captured .shots img").first).to_be_visible(timeout=LONG)
    visit.get_by_role("tab", name="Upload").click()
    visit.locator("input[type=file]").first.set_input_files(normals[:7])
    expect(visit.get_by_text("7 good pictures from your upload.")).to_be_visible(timeout=LONG)
    visit.get_by_role("tab", name="Camera").click()
    expect(visit.locator("#captured .shots img")).to_have_count(0, timeout=LONG)
    expect(visit.locator("#capture [title='start recording']")).to_have_count(1, timeout=LONG)
    visit.wait_for_timeout(1500)  # more frames than one would have come
    expect(visit.get_by_text("7 good pictures from your upload.")).to_be_visible()
    visit.get_by_role("button", name="Delete last").click()
    expect(visit.get_by_text("has taken no pictures")).to_be_visible(timeout=LONG)

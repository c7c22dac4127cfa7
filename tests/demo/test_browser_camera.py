"""The camera sees a film of ours, red at the left and blue at the right, and so must what is scored be."""

import base64
import re
import time

import numpy as np
import pytest
from playwright.sync_api import expect

from admodels.pictures.images import decode
from demo.state import cores
from demo.tabs import camera
from tests.conftest import chromium
from tests.demo.test_browser import LONG, fit_the_example, shown
from tests.demo.test_browser_inspect import start_camera

WIDTH, HEIGHT = 320, 240
RED, BLUE = (81, 90, 240), (41, 240, 110)  # Y, U, V


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A film of a few equal frames: red at the left, blue at the right."""
    planes = []
    for plane, shrunk in enumerate((1, 2, 2)):
        values = np.full((HEIGHT // shrunk, WIDTH // shrunk), RED[plane], np.uint8)
        values[:, WIDTH // shrunk // 2 :] = BLUE[plane]
        planes.append(values.tobytes())
    path = tmp_path_factory.mktemp("film") / "film.y4m"
    header = f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F10:1 Ip A1:1 C420\n".encode()
    path.write_bytes(header + 10 * (b"FRAME\n" + b"".join(planes)))
    return path


@pytest.fixture
def page(browser, app, film):
    """A page whose camera shows the film, with a heatmap that cannot be seen."""
    opened = chromium(browser.browser_type, f"--use-file-for-fake-video-capture={film}")
    page = opened.new_page(permissions=["camera"])
    page.set_default_timeout(LONG)
    page.goto(app)
    fit_the_example(page)
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_role("button", name="Display").click()
    shown(page, "Contour of pixels").uncheck()
    strength = page.locator("input[type=range][aria-label*='Heatmap opacity']")
    strength.focus()
    strength.press("Home")
    yield page
    opened.close()


def is_as_it_was_filmed(pixels):
    """Red is at the left and blue at the right; the live picture has words over its top."""
    left, right = (half[80:].reshape(-1, 3).mean(axis=0) for half in np.array_split(pixels, 2, axis=1))
    return left[0] > 150 > 100 > left[2] and right[2] > 150 > 100 > right[0]


def test_a_photo_is_scored_as_the_camera_saw_it(page):
    page.get_by_role("tab", name="Camera").click()
    start_camera(page)
    shown(page, "capture photo").click()
    expect(page.locator("#verdict")).to_contain_text("camera", timeout=LONG)
    address = page.locator("#slider .slider-wrap img").first.get_attribute("src", timeout=LONG)
    assert is_as_it_was_filmed(decode(page.request.get(address).body()).pixels)


def test_a_stream_is_scored_as_the_camera_sees_it(page):
    page.get_by_role("tab", name="Live").click()
    start_camera(page)
    page.get_by_title("start recording").filter(visible=True).click()
    address = page.locator("#live img").get_attribute("src", timeout=LONG)
    assert is_as_it_was_filmed(decode(base64.b64decode(address.partition("base64,")[2])).pixels)
    page.get_by_title("stop recording").filter(visible=True).click()


def test_frames_pile_up_neither_on_a_slow_network_nor_before_a_slow_model(page, monkeypatch):
    """One is on its way at a time, and the server keeps the newest one only."""
    scored, on_their_way, most = [], set(), []

    def slowly(*given):
        time.sleep(1.5)
        scored.append(time.monotonic())
        return cores.predict(*given)

    def sent(request):
        if "/stream/" in request.url and not request.url.endswith("/close"):
            on_their_way.add(request)
            most.append(len(on_their_way))

    monkeypatch.setattr(camera, "predict", slowly)
    page.on("request", sent)
    page.on("response", lambda response: on_their_way.discard(response.request))
    page.on("requestfailed", lambda request: on_their_way.discard(request))
    page.get_by_role("tab", name="Live").click()
    start_camera(page)
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 20_000}
    network.send("Network.emulateNetworkConditions", slow)
    page.get_by_title("start recording").filter(visible=True).click()
    # However slow it is, it says so.
    said = re.compile(r" · 0\.\d FPS")
    expect(page.locator("#live img")).to_have_attribute("alt", said, timeout=LONG)
    page.wait_for_timeout(4000)
    with page.expect_response(lambda response: response.url.endswith("/close")):
        page.get_by_title("stop recording").filter(visible=True).click()
    n_scored = len(scored)
    page.wait_for_timeout(6000)
    assert len(scored) <= n_scored + 2
    assert len(most) >= 4
    assert max(most) == 1


def test_a_phone_is_asked_for_the_camera_at_its_back(page):
    page.evaluate(
        """() => {
            const devices = navigator.mediaDevices, open = devices.getUserMedia.bind(devices);
            window.asked = [];
            devices.getUserMedia = (wanted) => { asked.push(wanted.video.facingMode); return open(wanted); };
        }"""
    )
    for tab in ("Camera", "Live"):
        page.get_by_role("tab", name=tab).click()
        start_camera(page)
    assert page.evaluate("asked") == 2 * [{"ideal": "environment"}]

"""What the page shows is of what is there now, is shown once, and is text where it is a name."""

import re
import threading
import zipfile
from concurrent.futures import wait

import pytest
from playwright.sync_api import expect

from demo.state.jobs import JOBS
from tests.demo.test_browser import LONG, choose_method, fit_the_example, shown

NAME = "<b>bold&lt;&amp;.png"
WIDE = pytest.mark.parametrize("page", [(1280, "light")], indirect=True)


@pytest.fixture
def busy():
    """A job before all others; it ends when this is set."""
    end = threading.Event()
    job = JOBS.submit(lambda tell: end.wait(), threading.Event())
    yield end
    end.set()
    wait([job.outcome])


@WIDE
def test_nothing_of_an_earlier_fit_stays_while_the_next_one_waits(page, request):
    page.get_by_role("button", name="Try: Paper with specks").click()
    choose_method(page, "EfficientAD")
    page.get_by_role("button", name="Options").click()
    for label, value in (("image size", "64"), ("max steps", "6")):
        shown(page, label).fill(value)
        shown(page, label).press("Tab")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_text("learned from")).to_be_visible(timeout=LONG)
    charts = page.locator(".js-plotly-plot:visible")
    expect(charts).to_have_count(2, timeout=LONG)
    end = request.getfixturevalue("busy")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_text("queued: 1 ahead")).to_be_visible(timeout=LONG)
    # The clock that follows the loss has looked at what an earlier training left: it asks again.
    for _ in range(2):
        with page.expect_request(lambda sent: "queue/join" in sent.url):
            pass
    expect(charts).to_have_count(0)
    expect(page.get_by_text("learned from")).to_have_count(0)
    end.set()
    expect(page.get_by_text("learned from")).to_be_visible(timeout=LONG)
    expect(charts).to_have_count(2, timeout=LONG)


@WIDE
def test_with_tiles_there_is_one_of_each_option_and_it_counts(page):
    for name in ("Options", "Expert(?!:)", "Tiled ensemble"):
        page.get_by_role("button", name=re.compile(f"^{name}")).click()
    labels = ("image size", "crop", "keep aspect", "precision")
    for label in labels:
        expect(shown(page, label)).to_have_count(1)
    page.get_by_label("Cut pictures into tiles").check()
    expect(shown(page, "tile size")).to_be_visible(timeout=LONG)
    page.get_by_role("button", name=re.compile("^Expert: tiles")).click()
    for label in labels:
        expect(shown(page, label)).to_have_count(1)
    expect(shown(page, "n neighbors")).to_have_count(1)
    shown(page, "image size").fill("384")
    shown(page, "image size").press("Tab")
    expect(page.get_by_text("resized to 384×384 px")).to_be_visible(timeout=LONG)
    page.get_by_label("Cut pictures into tiles").uncheck()
    expect(shown(page, "tile size")).to_have_count(0)
    for label in labels:
        expect(shown(page, label)).to_have_count(1)


def test_a_name_that_looks_like_markup_is_shown_as_it_is(page, specks, tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.write(specks.test[0].path, NAME)
        archive.write(specks.test[1].path, f"2 {NAME}")  # of one picture there is no gallery
    fit_the_example(page)
    page.get_by_role("tab", name="Inspect").click()
    files = page.locator(".block", has_text="Pictures to inspect").locator("input[type=file]").last
    files.set_input_files(tmp_path / "pictures.zip")
    expect(page.locator("#verdict")).to_contain_text(NAME, timeout=LONG)
    expect(page.locator("#inspected")).to_contain_text(NAME)
    page.get_by_role("button", name="All scores").click()
    expect(page.locator("#scores").get_by_text(NAME, exact=True).last).to_be_visible(timeout=LONG)
    assert page.locator("#verdict b, #inspected b, #scores b").count() == 0


def test_a_thumbnail_is_not_under_its_words(page):
    fit_the_example(page)
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_role("button", name="Defective: Paper with specks").click()
    expect(page.locator("#inspected img").first).to_be_visible(timeout=LONG)
    page.wait_for_function("[...document.querySelectorAll('#inspected img')].every(i => i.complete && i.naturalWidth)")
    covered = page.locator("#inspected").evaluate(
        """gallery => {
            const label = gallery.querySelector('[data-testid=block-label]').getBoundingClientRect();
            return [...gallery.querySelectorAll('.thumbnail-item')].map(item => {
                const image = item.querySelector('img'), style = getComputedStyle(image);
                const box = image.getBoundingClientRect();
                const bottom = box.bottom - parseFloat(style.paddingBottom);
                const words = item.querySelector('.caption-label').getBoundingClientRect();
                return bottom > words.top + 1 || box.top < label.bottom - 1 || style.objectFit !== 'contain';
            });
        }"""
    )
    assert covered
    assert not any(covered)

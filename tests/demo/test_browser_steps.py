"""The way through the app: steps, the model in use, Back, and the keys in Inspect, in a real browser."""

import csv
import re

import pytest
from playwright.sync_api import expect

from tests.demo.test_browser import LONG, shown


@pytest.fixture
def page(page):
    page.get_by_role("button", name="See it work: Paper with fibres").click()
    expect(page.locator("#verdict")).to_contain_text("Defect suspected", timeout=LONG)
    return page


def marks(page):
    """What stands before the names of the three steps."""
    content = "tab => getComputedStyle(tab, '::before').content.replaceAll('\"', '').trim()"
    return [page.locator(f"#step-{name}-button").evaluate(content) for name in ("train", "inspect", "evaluate")]


def open_step(page):
    return page.locator("[id^=step-][aria-selected=true]")


def test_steps_say_what_is_done_and_back_goes_one_step_back(page):
    assert marks(page) == ["✓", "✓", "3"]
    page.get_by_role("tab", name="Evaluate").click()
    page.get_by_role("button", name="Test set: Paper with fibres").click()
    expect(page.locator("#evaluation")).to_contain_text("defective", timeout=LONG)
    assert marks(page) == ["✓", "✓", "✓"]
    page.go_back()
    expect(open_step(page)).to_have_text("Inspect")
    page.go_back()
    expect(open_step(page)).to_have_text("Train")
    page.go_forward()
    expect(open_step(page)).to_have_text("Inspect")
    page.reload()
    expect(page.locator("#chip")).to_contain_text("fit 1", timeout=LONG)
    expect(page.locator("#chip p.inspected.evaluated")).to_be_visible()
    assert marks(page) == ["✓", "✓", "✓"]


def test_back_and_forward_are_followed_however_late_the_page_is_drawn(page):
    page.get_by_role("tab", name="Train").click()
    page.get_by_role("tab", name="Evaluate").click()
    page.wait_for_function("history.state.step === 'step-evaluate-button'")
    page.evaluate("""() => {
        const draw = requestAnimationFrame;
        window.requestAnimationFrame = (drawn) => setTimeout(() => draw(drawn), 1000);
    }""")
    back, forward = page.go_back, page.go_forward
    for go, there in ((back, "Train"), (back, "Inspect"), (forward, "Train"), (forward, "Evaluate"), (back, "Train")):
        go()
        expect(open_step(page)).to_have_text(there)
    page.get_by_role("tab", name="Inspect").click()
    page.wait_for_function("history.state.step === 'step-inspect-button'")
    page.go_back()
    expect(open_step(page)).to_have_text("Train")


def test_the_model_in_use_is_named_on_every_tab_and_saved_from_there(page):
    chip = page.locator("#chip")
    expect(chip).to_contain_text(re.compile(r"FAPM, fit 1, not saved yet\s*threshold [\d.]+\s*[\d.]+ FPS at batch 1"))
    chip.get_by_role("button", name="Save…").click()
    expect(open_step(page)).to_have_text("Models")
    name = page.get_by_label("Name", exact=True).first
    expect(name).to_have_value(re.compile(r"fapm-\d{4}-\d\d-\d\d"), timeout=LONG)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(chip).to_contain_text(f"{name.input_value()}", timeout=LONG)
    expect(chip.locator(".state")).to_have_text("saved")
    expect(chip.get_by_role("button")).to_be_hidden()
    page.get_by_role("tab", name="Inspect").click()
    shown(page, "by hand").check()
    shown(page, "Score above which").fill("1000000")
    shown(page, "Score above which").press("Tab")
    expect(chip.locator(".state")).to_have_text("threshold changed, not saved", timeout=LONG)
    chip.get_by_role("button", name="Save…").click()
    expect(shown(page, "Replace an existing model")).to_be_checked(timeout=LONG)


def test_keys_strip_and_table_choose_each_other_and_the_strip_can_hold_the_suspected_only(page):
    thumbnails = page.locator("#inspected .thumbnail-item")
    verdict = page.locator("#verdict [data-place]")

    # Waited for: on a slow machine, answers to earlier keys still come in, and are shown, after the last key.
    def expect_marked(place):
        classes = [re.compile(r"\bshown\b" if i == place else r"^(?!.*\bshown\b)") for i in range(thumbnails.count())]
        expect(thumbnails).to_have_class(classes, timeout=LONG)
        expect(verdict).to_have_attribute("data-place", str(place), timeout=LONG)

    expect(thumbnails).to_have_count(8)
    expect_marked(0)
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        page.locator("body").press(key)
    expect_marked(2)
    name = page.locator("#inspected .caption-label").nth(2).inner_text().split()[-1]
    expect(page.locator("#verdict")).to_contain_text(name)

    page.get_by_role("button", name=re.compile("^All scores")).click()
    wanted = page.locator("#inspected .caption-label").nth(4).inner_text().split()[-1]
    page.locator("#scores").get_by_text(wanted).last.click()
    expect_marked(4)

    n_suspected = int(re.search(r"(\d+) of 8", page.locator("#found").inner_text()).group(1))
    assert 0 < n_suspected < 8
    page.locator("#listed").get_by_text("Suspected").click()
    expect(thumbnails).to_have_count(n_suspected, timeout=LONG)
    expect(page.locator("#scores").get_by_text("Good", exact=False)).to_have_count(0, timeout=LONG)
    expect_marked(4)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV").click()
    with open(download.value.path(), newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 8  # the file has all of them
    assert any(row["largest peak"] for row in rows)
    for row in rows:
        assert (row["largest peak"] != "") == (int(row["regions"]) > 0)
        assert row["verdict"] == "suspected" or not row["largest peak"]
        if row["largest peak"]:
            assert int(row["peak left"]) <= int(row["hottest x"]) < int(row["peak right"])
            assert int(row["peak top"]) <= int(row["hottest y"]) < int(row["peak bottom"])


def test_a_second_upload_replaces_or_adds_as_the_visitor_says(page, normals):
    thumbnails = page.locator("#inspected .thumbnail-item")
    expect(thumbnails).to_have_count(8)
    upload = page.locator("#step-inspect input[type=file]").first
    page.get_by_label("Add to the pictures above").check()
    upload.set_input_files(normals[:2])
    expect(thumbnails).to_have_count(10, timeout=LONG)
    page.get_by_label("Add to the pictures above").uncheck()
    page.get_by_role("button", name="Defective: Paper with fibres").click()
    expect(thumbnails).to_have_count(8, timeout=LONG)


def test_the_colours_can_be_scaled_to_one_picture(page):
    bar, heatmap = page.locator("#colours"), page.locator("#slider .slider-wrap img").last
    expect(bar).to_contain_text("strongly unusual")
    usual, before = bar.inner_text(), heatmap.get_attribute("src")
    page.get_by_role("button", name="Display").click()
    page.get_by_label("Scale the colours to this picture").check()
    expect(bar).to_contain_text("do not compare them with others", timeout=LONG)
    expect(heatmap).not_to_have_attribute("src", before)
    page.locator("#inspected .thumbnail-item").nth(1).click()
    expect(bar).to_contain_text("strongly unusual", timeout=LONG)
    expect(page.get_by_label("Scale the colours to this picture")).not_to_be_checked()
    assert bar.inner_text() == usual

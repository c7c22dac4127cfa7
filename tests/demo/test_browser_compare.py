"""Two models side by side in a real browser: on one picture in Inspect, on a test set in Evaluate."""

import re

import pytest
from playwright.sync_api import expect

import admodels
from tests.demo.test_browser import LONG, fit_the_example, shown


@pytest.fixture
def blind(isvd, request):
    """The name of a saved model that lets everything pass."""
    name = f"blind-{request.node.callspec.id}"
    admodels.save(isvd.with_threshold(threshold=1e6), name, overwrite=True)
    yield name
    admodels.delete(name)


def choose_other(page, name):
    other = page.get_by_label(re.compile("^Saved model")).filter(visible=True)
    other.click()
    page.get_by_role("option", name=name).click()


def boxes(pictures):
    """Where pictures are, once all of them have loaded: until then they have no size of their own."""
    is_loaded = "image => image.complete && image.naturalWidth > 0"
    for picture in pictures.all():
        pictures.page.wait_for_function(is_loaded, arg=picture.element_handle())
    return [picture.bounding_box() for picture in pictures.all()]


def side_by_side(page, first, second):
    """Whether two boxes are of one size and aligned: beside each other on a wide window."""
    is_alike = abs(first["width"] - second["width"]) < 2 and abs(first["height"] - second["height"]) < 2
    return is_alike and abs(first["y"] - second["y"]) < 2


def test_two_models_are_compared_on_one_picture_and_on_a_test_set(page, blind):
    fit_the_example(page)
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_role("button", name="Defective: Paper with specks").click()
    expect(page.locator("#verdict")).to_contain_text("Defect suspected", timeout=LONG)
    page.get_by_role("button", name=re.compile("^Compare with another")).click()
    choose_other(page, blind)
    page.get_by_role("button", name="Compare", exact=True).filter(visible=True).click()
    expect(page.locator("#compared")).to_contain_text(blind, timeout=LONG)
    pictures = page.locator("#compared-pictures img")
    expect(pictures).to_have_count(2, timeout=LONG)
    (first, second), table = boxes(pictures), page.locator("#compared").bounding_box()
    assert table["y"] + table["height"] <= first["y"]
    is_wide = page.viewport_size["width"] > 700
    assert side_by_side(page, first, second) == is_wide
    if is_wide:
        assert first["width"] > 400
    else:
        assert first["x"] == second["x"]
        assert first["width"] > 250

    page.get_by_role("tab", name="Evaluate").click()
    button = page.get_by_role("button", name="Compare on these pictures")
    expect(button).to_be_hidden()
    page.get_by_role("button", name="Test set: Paper with specks").click()
    expect(page.locator("#evaluation")).to_contain_text("12 good, 8 defective", timeout=LONG)
    choose_other(page, blind)
    button.click()
    result = page.locator("#set-compared")
    expect(result).to_contain_text("The other model misses 8 defective pictures that this one finds", timeout=LONG)
    # Of the good pictures this one's threshold lets none or one alarm, by what the machine computes in.
    alarms = int(re.search(r"(\d+) with this one", result.inner_text())[1])
    expect(result).to_contain_text(f"exact McNemar test, p = {('0.0078', '0.039')[alarms]}")
    expect(result.locator("table.figures")).to_have_count(2)
    expect(page.locator("#differing figure")).to_have_count(8 + alarms)
    heatmaps = page.locator("#differing figure").first.locator("img")
    assert side_by_side(page, *boxes(heatmaps))
    assert heatmaps.evaluate_all("images => images.every(image => image.naturalWidth > 100)")
    first_row = page.locator(
        "#verdicts [role=row][aria-rowindex='2']"
    )  # tbody has a row of the longest texts, to measure
    expect(first_row).to_contain_text("this")
    expect(first_row).to_contain_text("speck")
    # Judged again as soon as the threshold moves.
    shown(page, "by hand").check()
    shown(page, "Score above which").fill("1000000")
    shown(page, "Score above which").press("Tab")
    expect(result).to_contain_text("Both models give the same verdict on all 20 pictures", timeout=LONG)
    expect(page.locator("#differing figure")).to_have_count(0)
    # And gone with the next evaluation.
    page.get_by_role("button", name="Test set: Paper with specks").click()
    expect(result).to_be_hidden(timeout=LONG)

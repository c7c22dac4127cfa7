"""Marking a defect and adding a good picture in a real browser."""

import re
from contextlib import suppress

import pytest
from playwright.sync_api import expect

import admodels
from tests.demo.test_browser import LONG, fit_the_example


@pytest.fixture
def saved_as():
    """A name for a model, free again afterwards."""
    yield "with-a-mark"
    with suppress(admodels.StoreError):
        admodels.delete("with-a-mark")


def test_a_defect_is_marked_and_a_good_picture_is_added_and_taken_back(page, saved_as):
    fit_the_example(page)
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_role("button", name="Defective: Paper with specks").click()
    verdict, marked, marks = page.locator("#verdict"), page.locator("#marked"), page.locator("#marks")
    expect(verdict).to_contain_text("Defect suspected", timeout=LONG)
    name = re.search(r"\d+\.png", verdict.inner_text())[0]
    page.get_by_role("button", name="This is a defect").click()
    expect(marked).to_contain_text(f"{name} is marked as a defect, and found", timeout=LONG)
    expect(marks).to_contain_text(f"The marked defect {name} is found by this model.")
    page.get_by_role("button", name="Thumbnail 2 of").click()
    expect(marked).to_be_hidden(timeout=LONG)

    other = re.search(r"\d+\.png", verdict.inner_text())[0]
    assert other != name
    page.get_by_role("button", name="This is good").click()
    asked = page.locator("#adding")
    expect(asked).to_contain_text(f"Adds {other} to the 24 good pictures of this model.", timeout=LONG)
    expect(asked).to_contain_text("the threshold moves from")
    page.get_by_role("button", name="Yes, add").click()
    expect(page.get_by_text("fit 1, 1 added, not saved yet").first).to_be_visible(timeout=LONG)
    expect(marks).to_contain_text(f"Added {other}. The threshold moved from", timeout=LONG)
    expect(page.locator("#found")).to_contain_text("of 8 suspected", timeout=LONG)
    expect(asked).to_be_hidden()
    page.get_by_role("button", name="Undo the addition").click()
    expect(page.get_by_text("1 added, not saved yet").filter(visible=True)).to_have_count(0, timeout=LONG)
    expect(page.get_by_role("button", name="Undo the addition")).to_be_hidden(timeout=LONG)
    # The mark is still there, and goes when it is taken off.
    expect(marks).to_contain_text(f"The marked defect {name}", timeout=LONG)
    page.locator("#inspected").get_by_text(name).click()
    expect(verdict).to_contain_text(name, timeout=LONG)
    # Until it is kept with a saved model, it says how.
    keep = "Save the model to keep the mark with it."
    expect(marked).to_contain_text(keep, timeout=LONG)
    page.get_by_role("button", name="Save…").click()
    field = page.get_by_label("Name", exact=True).first
    expect(field).to_have_value(re.compile(r"fapm-\d{4}"), timeout=LONG)
    field.fill(saved_as)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text(f"Saved as {saved_as}, with 1 marked defect.")).to_be_visible(timeout=LONG)
    page.get_by_role("tab", name="Inspect").click()
    expect(marked).to_contain_text(f"{name} is marked as a defect", timeout=LONG)
    expect(marked).not_to_contain_text(keep, timeout=LONG)
    page.get_by_role("button", name="Unmark", exact=True).click()
    expect(page.get_by_role("button", name="This is a defect")).to_be_visible(timeout=LONG)
    expect(marks).to_be_hidden(timeout=LONG)

"""What goes wrong is said once, over nothing that the visitor needs, until something goes right."""

import re
from pathlib import Path

import gradio as gr
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import expect

import demo
from admodels import OptionError
from demo.app import build
from demo.errors import close_with_next_success, refusal, shown_errors
from demo.sent import Page
from tests.demo.test_browser import LONG, fit_the_example
from tests.demo.test_browser_inspect import start_camera


def check_said_once(page, words):
    """The words stand on the page once, and nothing else says that there was an error."""
    said = page.get_by_text(re.compile(words)).filter(visible=True)
    expect(said).to_have_count(1, timeout=LONG)
    expect(page.get_by_text("Error", exact=True).filter(visible=True)).to_have_count(1)
    assert page.locator("[role=status]").filter(has=said).count() == 1, "a screen reader is told"
    return said


def is_uncovered(element):
    """Whether what lies at the middle of an element is the element itself, or a part of it."""
    return element.evaluate(
        """e => {
            e.scrollIntoView({block: 'center'});
            const box = e.getBoundingClientRect();
            const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
            return e.contains(top) && !top.closest('[data-testid=status-tracker]');
        }"""
    )


def test_a_fit_without_pictures(page):
    page.wait_for_timeout(5_000)  # what comes with the page sets the button too
    page.get_by_role("button", name="Train", exact=True).click()
    said = check_said_once(page, "no pictures selected")
    assert is_uncovered(page.locator("#fit-result"))
    fit_the_example(page)
    expect(said).to_have_count(0)


def test_a_broken_picture_leaves_what_was_inspected(page, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    fit_the_example(page)
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_role("button", name="Defective: Paper with specks").click()
    expect(page.locator("#verdict")).to_contain_text("more unusual than", timeout=LONG)
    page.locator(".block", has_text="Pictures to inspect").locator("input[type=file]").last.set_input_files(broken)
    said = check_said_once(page, "broken.png: is not a picture")
    for selector in ("#slider", "#verdict", "#inspected"):
        assert is_uncovered(page.locator(selector)), selector
    page.get_by_role("tab", name="Evaluate").click()  # nothing that was asked for, so it is still there to be read
    page.get_by_role("tab", name="Inspect").click()
    expect(said).to_be_visible()
    page.get_by_role("button", name="Defective: Paper with fibres").click()
    expect(page.locator("#verdict")).to_contain_text("more unusual than", timeout=LONG)
    expect(said).to_have_count(0, timeout=LONG)


@pytest.fixture
def steps(browser):
    """A page whose buttons' first events succeed or fail; and what presses one, and says what came after it, sorted."""
    came = []

    def step(name):
        return {"fn": lambda: came.append(name), "inputs": None, "outputs": None}

    with Page() as blocks:
        for name in ("works", "fails"):

            def first(name=name):
                came.append(name)
                if name == "fails":
                    raise refusal("it fails")

            event = gr.Button(name).click(first, None, None)
            event.then(**step("then")).then(**step("then its own"))
            event.success(**step("success")).then(**step("after the success"))
            event.failure(**step("failure"))
        close_with_next_success(blocks)
    _, url, _ = blocks.launch(prevent_thread_lock=True, server_port=None, quiet=True)
    page = browser.new_page()
    page.set_default_timeout(LONG)
    page.goto(url)

    def press(name, n_expected):
        came.clear()
        page.get_by_role("button", name=name).click()
        for _ in range(600):
            if len(came) >= n_expected:
                break
            page.wait_for_timeout(100)
        page.wait_for_timeout(1_000)  # for what is not to come
        return sorted(came)

    yield page, press
    page.close()
    blocks.close()


def test_what_is_to_follow_follows_once_whether_an_event_succeeds_or_fails(steps):
    page, press = steps
    said = page.get_by_text("it fails").filter(visible=True)
    for _ in range(2):
        assert press("works", 5) == ["after the success", "success", "then", "then its own", "works"]
        expect(said).to_have_count(0)
        assert press("fails", 4) == ["fails", "failure", "then", "then its own"]
        expect(said).to_have_count(1)  # what follows is no success that closes the error


def test_a_model_that_a_link_names_in_vain_leaves_a_page_in_order(browser, app):
    page = browser.new_page()
    page.set_default_timeout(LONG)
    page.goto(f"{app}?model=nobody/nothing")
    check_said_once(page, "nobody/nothing")
    expect(page.get_by_text(re.compile("^Open")).filter(visible=True)).to_have_count(0, timeout=LONG)
    page.close()


def test_what_is_not_queued_has_nothing_to_say():
    """Gradio's page shows neither an error nor a notice of an event that is not queued."""
    unqueued = {event.fn for event in build().fns.values() if event.fn is not None and not event.queue}
    assert {getattr(fn, "__module__", "") for fn in unqueued} == {"demo.tabs.fit_button"}


def test_a_wrong_token(page):
    page.get_by_role("tab", name="Hub").click()
    page.get_by_label("Hub token").fill("hf_nobody")
    page.get_by_role("button", name="Log in", exact=True).click()
    said = check_said_once(page, "token is not valid")
    assert is_uncovered(page.get_by_label("Hub token"))
    page.get_by_label("Hub token").fill("hf_owner")
    page.get_by_role("button", name="Log in", exact=True).click()
    expect(page.get_by_text("Logged in as owner.")).to_be_visible(timeout=LONG)
    expect(said).to_have_count(0, timeout=LONG)


def test_a_stream_says_it_in_the_place_of_its_picture(page):
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_role("tab", name="Live").click()
    start_camera(page)
    page.get_by_title("start recording").filter(visible=True).click()
    expect(page.locator("#live")).to_contain_text("no model yet", timeout=LONG)
    expect(page.get_by_text("Error", exact=True)).to_have_count(0)
    page.get_by_title("stop recording").filter(visible=True).click()


@given(st.text())
def test_a_message_says_its_words_though_it_is_taken_for_html(words):
    with pytest.raises(gr.Error) as caught, shown_errors():
        raise OptionError(words)
    assert caught.value.message.replace("\u2060", "") == words.replace("\u2060", "")
    assert not re.search(r"<[A-Za-z/!?]|&[A-Za-z#]", caught.value.message)
    assert caught.value.duration is None


def test_every_error_for_a_visitor_is_made_in_one_place():
    raised = {
        path.name
        for path in Path(demo.__file__).parent.rglob("*.py")
        if "gr.Error(" in path.read_text(encoding="utf-8")
    }
    assert raised == {"errors.py"}

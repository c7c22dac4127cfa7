"""What a quick visitor does one after the other counts, and what is refused leaves the page as it was, in a browser."""

import re

from playwright.sync_api import expect

from tests.demo.test_browser import LONG, shown
from tests.demo.test_browser_train import button, open_part

WATCH = """
window.places = [];
const look = () => {
  const button = [...document.querySelectorAll('button')].find((each) => each.innerText.trim().startsWith('Try: '));
  const place = button ? Math.round(button.getBoundingClientRect().y + scrollY) : null;
  if (place !== null && place !== places.at(-1)) places.push(place);
  requestAnimationFrame(look);
};
look();
"""


def test_no_button_moves_while_the_page_loads(page):
    """A press whose button moves away before it ends is lost."""
    page.add_init_script(WATCH)
    page.reload()
    expect(button(page, "Try: Paper with specks")).to_be_visible()
    page.wait_for_timeout(3000)  # what comes with the page would have come
    assert len(page.evaluate("places")) == 1


def test_what_an_answer_moves_from_under_a_press_is_pressed_all_the_same(page):
    def press(name, before_the_end):
        box = page.get_by_role("tab", name=name).bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        before_the_end()
        page.mouse.up()

    # As soon as the script of the page runs, which gives its first entry in the history a name.
    page.wait_for_function("history.state?.step")
    opened = page.locator("[id^=step-][aria-selected=true]")
    above = "document.querySelector('.tabs').insertAdjacentHTML('beforebegin', '<p style=\"height: 200px\"></p>')"
    press("Inspect", lambda: page.evaluate(above))
    expect(opened).to_have_text(re.compile("Inspect"))
    press("Evaluate", lambda: page.mouse.move(5, 5))  # who thinks better of it
    page.wait_for_timeout(500)
    expect(opened).to_have_text(re.compile("Inspect"))
    page.get_by_role("tab", name="Evaluate").click()
    expect(opened).to_have_text(re.compile("Evaluate"))
    page.evaluate("document.querySelector('.tabs').previousElementSibling.remove()")


def test_of_two_quick_choices_the_second_is_what_is_trained(page):
    says = page.locator("#will-train")
    expect(says).to_contain_text("Train makes a model with FAPM.", timeout=LONG)
    page.evaluate("""() => {
        const labels = [...document.querySelectorAll('label')];
        for (const word of ['Small defects', 'Fast'])
            labels.find((label) => label.innerText.trim().startsWith(word)).querySelector('input').click();
    }""")
    expect(says).to_have_text(re.compile(r"FAPM: image size 192\.(?! You changed)"), timeout=LONG)
    open_part(page, "Options")
    expect(shown(page, "image size")).to_have_value("192")


def test_an_example_with_a_value_that_cannot_be_used_leaves_the_button_train(page):
    expect(page.locator("#will-train")).to_contain_text("Train makes a model with FAPM.", timeout=LONG)
    open_part(page, "Options")
    open_part(page, "Expert")
    shown(page, "Seed").fill("1.5")
    shown(page, "Seed").press("Tab")
    button(page, "See it work: Paper with specks").click()
    expect(page.get_by_text(re.compile("expected a whole number")).first).to_be_visible(timeout=LONG)
    expect(button(page, "Train")).to_be_visible(timeout=20_000)  # sooner than a begun fit is forgotten


def test_a_value_that_cannot_be_used_is_said_and_the_button_is_train_again(page):
    button(page, "Try: Paper with specks").click()
    expect(page.get_by_text("24 good pictures")).to_be_visible(timeout=LONG)
    open_part(page, "Options")
    open_part(page, "Expert")
    seed = shown(page, "Seed")
    seed.fill("1.5")
    seed.press("Tab")
    page.locator("#train").click()
    expect(page.get_by_text(re.compile("expected a whole number")).first).to_be_visible(timeout=LONG)
    expect(button(page, "Train")).to_be_visible(timeout=LONG)
    seed.fill("1")
    seed.press("Tab")
    page.wait_for_timeout(1100)  # a press within a second of the one before is taken for a double click
    button(page, "Train").click()
    expect(page.locator("#chip")).to_contain_text("fit 1", timeout=LONG)

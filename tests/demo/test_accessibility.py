"""What axe-core finds in every tab, with something in it, and whether the keyboard is enough."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.demo.test_browser import LONG, fit_the_example

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
# A toast is Gradio's own: it can be closed by a click anywhere on it, and has a button for it too.
OTHERS = [[".toast-wrap"]]


def violations(page):
    """What is against the rules, as text: what two looks find, since Gradio may begin to fade a part during one."""
    found = look(page)
    again = look(page) if found else []
    return [each for each in found if each in again]


def look(page):
    """What is against the rules once Gradio has stopped fading what it brings up to date."""
    page.wait_for_function("!document.querySelector('.pending, .generating')")
    page.wait_for_timeout(500)
    found = Axe().run(page, {"exclude": OTHERS}, {"runOnly": RULES, "resultTypes": ["violations"]})
    return [
        f"{rule['id']}: {node['target']} {node['html'][:200]}"
        for rule in found.response["violations"]
        for node in rule["nodes"]
    ]


def opened(page, *names):
    for name in names:
        page.get_by_role("button", name=re.compile(f"^{name}")).filter(visible=True).click()


def test_every_tab_keeps_the_rules(page, request):
    found = {}
    fit_the_example(page)
    opened(page, "Tiled ensemble", "Which method")
    page.get_by_label("Cut pictures into tiles").check()
    expect(page.get_by_role("img", name="The grid of tiles")).to_be_visible(timeout=LONG)
    found["fit"] = violations(page)
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_role("button", name="Defective: Paper with specks").click()
    expect(page.locator("#verdict")).to_contain_text("more unusual than", timeout=LONG)
    opened(page, "All scores", "Display", "Compare with another")
    for tab in ("Pictures", "Camera", "Live", "Paint a defect"):
        page.get_by_role("tab", name=tab).click()
        found[tab] = violations(page)
    page.get_by_role("tab", name="Evaluate").click()
    page.get_by_role("button", name="Test set: Paper with specks").click()
    expect(page.locator("#evaluation")).to_contain_text("chosen on the test labels", timeout=LONG)
    found["evaluate"] = violations(page)
    page.get_by_role("tab", name="Models").click()
    name = f"axe-{request.node.callspec.id}"
    page.get_by_label("Name", exact=True).first.fill(name)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("ul.cards li", has_text=name)).to_be_visible(timeout=LONG)
    found["models"] = violations(page)
    page.get_by_role("tab", name="Hub").click()
    page.locator("#hub-cards").get_by_role("button", name=name).click(timeout=LONG)
    expect(page.get_by_label("Model", exact=True).filter(visible=True)).to_have_value(f"local:{name}", timeout=LONG)
    found["hub"] = violations(page)
    page.get_by_role("tab", name="Models").click()
    opened(page, "Delete…", "Delete “")
    expect(page.locator("ul.cards li", has_text=name)).to_have_count(0, timeout=LONG)
    assert {where: broken for where, broken in found.items() if broken} == {}


@pytest.mark.parametrize("page", [(1280, "light")], indirect=True)
def test_the_main_job_needs_no_mouse(page):
    def press_on(name, key="Enter", role="button"):
        """Go to a control by Tab alone, as one without a mouse does, and press a key there."""
        control = page.get_by_role(role, name=re.compile(rf"^(\S )?{re.escape(name)}$")).filter(
            visible=True
        )  # "✓ Train"
        for _ in range(200):
            if control.evaluate("e => e === document.activeElement"):
                break
            page.keyboard.press("Tab")
        else:
            pytest.fail(f"Tab never reaches {name}")
        outline = control.evaluate("e => getComputedStyle(e).outlineStyle + getComputedStyle(e).boxShadow")
        assert outline != "nonenone", f"nothing shows that {name} has the focus"
        page.keyboard.press(key)

    press_on("Try: Paper with specks")
    expect(page.get_by_text("24 good pictures")).to_be_visible(timeout=LONG)
    press_on("Train")
    expect(page.get_by_text("learned from")).to_be_visible(timeout=LONG)
    press_on("Train", "ArrowRight", role="tab")
    if page.get_by_role("tab", name="Inspect").get_attribute("aria-selected") != "true":
        press_on("Inspect", role="tab")
    press_on("Defective: Paper with specks")
    expect(page.locator("#verdict")).to_contain_text("Defect suspected", timeout=LONG)

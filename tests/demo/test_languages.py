"""Every text of the interface is there in every language, and a browser shows its visitor's own."""

import dataclasses

import pytest
from playwright.sync_api import expect

from admodels import METHODS
from admodels.core import Verdict
from admodels.tiling import TiledEnsemble
from demo import languages
from demo.app import build
from demo.view import text
from tests.demo.test_browser import LONG

# Names that are the same everywhere: of methods, options and their values, licences, networks.
NAMES = {"combined", "openrail", "other", "owner/name"}


def names():
    """What is written alike in papers, in programs and on the command line."""
    found = set(NAMES)
    for method in (*METHODS.values(), TiledEnsemble):
        found.add(method.title)
        for field in dataclasses.fields(method.Config):
            found |= {field.name.replace("_", " "), str(field.default)}
            found |= set(field.metadata["choices"] or ()) | set(field.metadata["for_all"] or ())
    return found


def is_licence(words):
    return words.partition("-")[0] in ("apache", "bsd", "cc", "cc0", "mit")


@pytest.mark.parametrize("shared", ["0", "1"])
@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_every_text_is_there_in_every_language(language, shared, monkeypatch):
    monkeypatch.setenv("ADMODELS_SHARED", shared)
    fixed = languages.fixed_texts(build().get_config_file()) - names()
    known = languages.translation(language)
    assert {words for words in fixed if words not in known and not is_licence(words)} == set()
    assert all(said.strip() for said in known.values())
    for words, said in known.items():
        for mark in ("\n", "**", "####"):
            assert words.count(mark) == said.count(mark), words


def test_all_languages_say_the_same():
    first, *others = (set(languages.translation(language)) for language in languages.LANGUAGES)
    assert all(other == first for other in others)
    assert {text.NEXT, text.NO_RESULT, *(text.WORDS[verdict] for verdict in Verdict)} <= first


@pytest.mark.parametrize(("locale", "language"), [("de-AT", "de"), ("zh-CN", "zh"), ("ja", "ja"), ("es-MX", "es")])
def test_a_browser_shows_its_visitors_language(browser, app, locale, language):
    known = languages.translation(language)
    page = browser.new_context(locale=locale, viewport={"width": 390, "height": 900}).new_page()
    page.set_default_timeout(LONG)
    page.goto(app)
    expect(page.get_by_role("tab", name=known["Train"])).to_be_visible(timeout=LONG)
    for words in ("Inspect", "Evaluate"):  # the others may be behind "…" on a narrow window
        expect(page.get_by_role("tab", name=known[words])).to_be_visible()
    expect(page.get_by_text(known["No model yet"], exact=True)).to_be_visible()
    page.get_by_role("button", name=known["See it work: Paper with specks"]).click()
    expect(page.locator("#verdict")).to_contain_text(known["Defect suspected"], timeout=LONG)
    expect(page.locator("#verdict dt").first).to_have_text(known["score"])
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.context.close()


def test_a_language_that_is_not_there_is_english_and_programs_get_english(browser, app, client):
    page = browser.new_context(locale="fi-FI").new_page()
    page.set_default_timeout(LONG)
    page.goto(app)
    expect(page.get_by_role("tab", name="Train")).to_be_visible(timeout=LONG)
    page.context.close()
    assert "__i18n__" not in str(client.view_api(return_format="dict"))

"""The Hub tab through the app's API and in a browser, against the stand-in server."""

import json
import re
import time

import gradio as gr
import pytest
from gradio_client import handle_file
from playwright.sync_api import expect

import admodels
from admodels.evaluation import evaluate
from demo.state.sessions import SESSIONS
from demo.tabs import hub as hub_tab
from tests import HUB
from tests.conftest import SMALL, client_of

LONG = 60_000
OWNER = "hf_owner"


@pytest.fixture(autouse=True)
def hub():
    HUB.repos.clear()
    HUB.faults.clear()
    return HUB


def fit(client, specks, n=24):
    given = [handle_file(str(p)) for p in specks.train[:n]]
    client.predict(given, "padim_isvd", 0.01, json.dumps(SMALL["padim_isvd"]), 0, "auto", api_name="/fit")


def push(client, name="owner/app", private=True):
    return client.predict(name, "paper", "mit", "CC BY 4.0", private, False, "", False, api_name="/push")


def test_a_model_goes_from_one_visitor_to_another(client, app, specks, isvd):
    fit(client, specks)
    field, said = client.predict(OWNER, api_name="/log_in")
    assert field == ""
    assert "Logged in as owner" in said
    said, went = push(client)
    assert went["private"]
    assert went["reference"] in said
    rows = client.predict("", "owner", api_name="/search_hub")[-1]
    assert [(row["category"], row["licence"], row["is_private"]) for row in rows] == [("paper", "mit", True)]

    other = client_of(app)
    assert other.predict("", "owner", api_name="/search_hub")[-1] == []
    with pytest.raises(Exception, match="does not exist, or it is private"):
        other.predict("owner/app", api_name="/pull")
    HUB.repos["owner/app"].private = False
    said, found = other.predict("owner/app", api_name="/pull")
    assert found["verified"]
    assert "bit for bit" in said
    picture = [handle_file(str(specks.test[0].path))]
    row = other.predict(picture, 0.7, True, api_name="/inspect")[-1][0]
    assert row["score"] == pytest.approx(isvd.predict(specks.test[0].path).score, rel=1e-6)
    rows = other.predict("hf-hub:owner/app", api_name="/compare_models")[-1]
    assert rows[0]["score"] == rows[1]["score"]


def test_on_a_shared_server_nobody_acts_with_the_servers_token(client, specks, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", OWNER)
    monkeypatch.setenv("ADMODELS_SHARED", "1")
    fit(client, specks, 8)
    with pytest.raises(Exception, match="not logged in"):
        push(client)
    assert not HUB.repos
    monkeypatch.setenv("ADMODELS_SHARED", "0")  # on one's own machine its token is meant
    assert push(client)[1]["reference"].startswith("hf-hub:owner/app@")


def test_one_visitors_token_is_not_anothers_and_never_shown(client, app, specks):
    client.predict(OWNER, api_name="/log_in")
    other = client_of(app)
    fit(other, specks, 8)
    with pytest.raises(Exception, match="not logged in, or the token"):
        push(other)
    with pytest.raises(Exception, match="token is not valid") as caught:
        client.predict("hf_secret_but_wrong", api_name="/log_in")
    assert "hf_secret" not in str(caught.value)
    assert OWNER not in json.dumps(client.view_api(return_format="dict"), default=str)
    with pytest.raises(Exception, match="no model to push yet"):
        push(client)
    fit(client, specks, 8)
    assert "Logged in" not in client.predict("", api_name="/log_in")[1]  # an empty token logs out
    with pytest.raises(Exception, match="not logged in, or the token"):
        push(client)


def test_the_evaluation_made_here_goes_into_the_card(client, example, specks):
    fit(client, specks)
    client.predict(OWNER, api_name="/log_in")
    good = [handle_file(str(i.path)) for i in example.test if not i.is_defective]
    bad = [handle_file(str(i.path)) for i in example.test if i.is_defective]
    found = client.predict(None, good, bad, None, api_name="/evaluate")[-1]
    push(client)
    row = client.predict("", "owner", api_name="/search_hub")[-1][0]
    assert row["image_auroc"] == pytest.approx(found["image_auroc"], abs=1e-4)
    assert (row["measured_on"], row["n_test"]) == ("paper", len(good) + len(bad))
    assert "## Accuracy" in HUB.file("owner/app", "README.md").decode()


def test_when_the_hub_is_away_the_models_of_this_machine_are_listed(client, isvd, monkeypatch):
    admodels.save(isvd, "at-home", overwrite=True)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    _, said, rows = client.predict("at-home", "", api_name="/search_hub")
    assert [row["reference"] for row in rows] == ["local:at-home"]
    assert "cannot be reached" in said
    assert client.predict("local:at-home", api_name="/pull")[1] == {"reference": "local:at-home", "verified": None}
    admodels.delete("at-home")


def test_there_is_something_to_try_without_a_network(client, specks):
    client.predict(api_name="/add_examples")
    rows = client.predict("example-", "", api_name="/search_hub")[-1]
    assert [row["reference"] for row in rows] == [
        "local:example-paper-with-fibres",
        "local:example-paper-with-specks",
    ]
    client.predict(rows[1]["reference"], api_name="/pull")
    picture = [handle_file(str(specks.test[0].path))]
    assert client.predict(picture, 0.7, True, api_name="/inspect")[-1][0]["is_anomalous"]
    for row in rows:
        admodels.delete(row["reference"])


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")], ids=["wide", "narrow"])
def test_log_in_push_find_try_and_compare_in_a_browser(browser, app, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(LONG)
    page.goto(app)
    page.get_by_role("button", name="Try: Paper with specks").click()
    expect(page.get_by_text("24 good pictures")).to_be_visible(timeout=LONG)
    page.get_by_role("button", name=re.compile("^Options")).click()
    page.get_by_label("image size").filter(visible=True).fill("64")
    page.get_by_label("image size").filter(visible=True).press("Tab")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_text("learned from")).to_be_visible(timeout=LONG)

    page.get_by_role("tab", name="Hub").click()
    page.get_by_label("Hub token").fill(OWNER)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("Logged in as owner")).to_be_visible(timeout=LONG)
    expect(page.get_by_label("Hub token")).to_have_value("")
    page.get_by_label("Repository").fill("owner/browser")
    page.get_by_label("Category").fill("paper")
    page.get_by_role("button", name="Push", exact=True).click()
    expect(page.locator("#pushed")).to_contain_text("private: only its owner sees it", timeout=LONG)
    link = page.get_by_label("Link that opens this model here")
    expect(link).to_have_value(f"{app}?model=owner/browser", timeout=LONG)
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_role("button", name="Copied", exact=True)).to_be_visible(timeout=LONG)

    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_text("1 on the Hub")).to_be_visible(timeout=LONG)
    card = page.locator("#hub-cards").get_by_role("button", name="owner/browser")
    expect(card).to_contain_text("accuracy not measured")
    expect(card.locator("img")).to_be_visible(timeout=LONG)
    card.click()
    expect(card).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Model", exact=True).filter(visible=True)).to_have_value("owner/browser", timeout=LONG)
    expect(page.locator("#about-model")).to_contain_text("FPS where it was pushed", timeout=LONG)
    page.get_by_role("button", name="Try", exact=True).click()
    expect(page.locator("#chip").get_by_text("owner/browser")).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Defective: Paper with specks").click()
    expect(page.locator("#verdict")).to_contain_text("owner/browser", timeout=LONG)

    page.get_by_role("tab", name="Hub").click()
    expect(page.locator("#verified")).to_contain_text("bit for bit")
    page.get_by_role("button", name="Compare", exact=True).filter(visible=True).click()
    expect(page.locator("#compared")).to_contain_text("owner/browser", timeout=LONG)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    page.reload()
    page.get_by_role("tab", name="Hub").click()
    expect(page.get_by_text("You are logged in with a token that you typed")).to_be_visible(timeout=LONG)
    page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")], ids=["wide", "narrow"])
def test_a_card_says_what_was_measured_and_try_scores_the_models_own_picture(browser, app, example, width, scheme):
    detector = admodels.create("padim_isvd", device="cpu", **SMALL["padim_isvd"])
    found = evaluate(detector, example, robustness=False)
    picture = next(item.path for item in example.test if item.is_defective)
    given = {"category": "paper", "licence": "mit", "evaluation": found, "preview": picture}
    admodels.push(detector, "owner/measured", private=False, token=OWNER, **given)
    admodels.push(detector, "owner/bare", private=False, token=OWNER)
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(LONG)
    page.goto(app)
    page.get_by_role("tab", name="Hub").click()
    expect(page.get_by_text("2 on the Hub")).to_be_visible(timeout=LONG)
    card = page.locator("#hub-cards").get_by_role("button", name="owner/measured")
    expect(card).to_contain_text(f"image AUROC {found.image_auroc:.3f} on paper, {found.n_test} pictures")
    expect(card).to_contain_text("mit")
    expect(page.locator("#hub-cards img")).to_have_count(2, timeout=LONG)
    card.press("Enter")
    expect(page.locator("#about-model")).to_contain_text("FPS where it was pushed", timeout=LONG)
    page_of = page.get_by_role("link", name="Open on the Hub")
    expect(page_of).to_have_attribute("href", f"{HUB.url}/owner/measured", timeout=LONG)
    page.get_by_role("button", name="Try", exact=True).click()
    expect(page.locator("#verdict")).to_contain_text("the picture of owner/measured", timeout=LONG)
    expect(page.locator("#verdict")).to_contain_text("Defect suspected")
    score = f"{detector.predict(picture).score:.4g}"
    expect(page.locator("#verdict")).to_contain_text(score)
    page.get_by_role("tab", name="Hub").click()
    page.get_by_label("Name contains").fill("no such model anywhere")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#hub-cards")).to_contain_text("No models found", timeout=LONG)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.close()


def test_a_link_opens_a_model_of_the_hub(browser, app, isvd, specks):
    admodels.push(isvd, "owner/linked", private=False, token=OWNER)
    page = browser.new_page()
    page.set_default_timeout(LONG)
    page.goto(f"{app}?model=owner/linked")
    expect(page.locator("#chip").get_by_text("owner/linked")).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Defective: Paper with specks").click()
    expect(page.locator("#verdict")).to_contain_text("owner/linked", timeout=LONG)
    page.goto(f"{app}?model=owner/nowhere")
    expect(page.get_by_text("does not exist, or it is private").first).to_be_visible(timeout=LONG)
    page.close()


def test_on_a_space_one_logs_in_with_the_hubs_own_page(browser, home, monkeypatch, isvd):
    """Gradio plays the Hub's page outside of a Space, and gives this token to whoever pressed the button."""
    from demo.app import build, launch

    monkeypatch.setenv("SPACE_ID", "owner/space")
    monkeypatch.setenv("HF_TOKEN", OWNER)
    monkeypatch.setitem(HUB.users, "mock-oauth-token-for-local-dev", ("visitor", "write"))
    admodels.push(isvd, "owner/public", private=False, token=OWNER)
    demo = build()
    with pytest.warns(UserWarning, match="outside of a Space"):
        _, url, _ = launch(demo, prevent_thread_lock=True, server_port=None, quiet=True)
    page = browser.new_page()
    page.set_default_timeout(LONG)
    page.goto(url)
    page.get_by_role("tab", name="Hub").click()
    expect(page.get_by_text("You are not logged in")).to_be_visible(timeout=LONG)
    with page.expect_navigation():
        page.get_by_role("button", name="Sign in with Hugging Face").click()
    page.get_by_role("tab", name="Hub").click()
    expect(page.get_by_text("You are logged in with your Hugging Face account")).to_be_visible(timeout=LONG)
    page.get_by_label("Model", exact=True).filter(visible=True).fill("owner/public")
    page.get_by_role("button", name="Try", exact=True).click()
    expect(page.locator("#chip").get_by_text("owner/public")).to_be_visible(timeout=LONG)
    page.get_by_role("tab", name="Hub").click()
    page.get_by_label("Repository").fill("visitor/new")
    page.get_by_role("button", name="Push", exact=True).click()
    expect(page.locator("#pushed")).to_contain_text("visitor/new", timeout=LONG)
    session = next(iter(reversed(SESSIONS._sessions.values())))
    assert session.token() == "mock-oauth-token-for-local-dev"
    page.get_by_role("button", name="Logout").click()
    expect(page.get_by_role("tab", name="Hub")).to_have_attribute("aria-selected", "false", timeout=LONG)  # a new page
    page.get_by_role("tab", name="Hub").click()
    expect(page.get_by_text("You are not logged in")).to_be_visible(timeout=LONG)
    assert session.token() is False  # nothing is pushed with it any more
    page.close()
    demo.close()


def test_a_login_ends_where_it_ends_and_a_typed_token_stays(visitor, monkeypatch):
    monkeypatch.setenv("ADMODELS_SHARED", "1")
    session, later = SESSIONS.of(visitor), time.time() + 3600
    oauth = gr.OAuthToken("hf_of_the_button", "openid", later)
    assert "your Hugging Face account" in hub_tab.take_oauth(oauth, visitor)
    assert session.token() == "hf_of_the_button"
    assert "hf_of" not in repr(session)
    assert "not logged in" in hub_tab.take_oauth(None, visitor)  # the page was loaded again after Logout
    assert session.token() is False

    hub_tab.take_oauth(gr.OAuthToken("hf_of_the_button", "openid", time.time() - 1), visitor)
    assert session.token() is False  # it expired since the page was loaded

    hub_tab.log_in(OWNER, visitor)
    for given in (None, oauth):
        assert "a token that you typed" in hub_tab.take_oauth(given, visitor)
        assert session.token() == OWNER
    assert "not logged in" in hub_tab.log_in("", visitor)["login"]
    assert session.token() is False


def test_on_a_shared_server_a_model_brings_no_network_of_its_own(client, specks, monkeypatch):
    monkeypatch.setenv("ADMODELS_SHARED", "1")
    fit(client, specks, 8)
    client.predict(OWNER, api_name="/log_in")
    push(client, private=False)
    config = json.loads(HUB.file("owner/app", "config.json"))
    for name, value in (("weights", "/etc/hostname"), ("backbone", "vit_giant_patch14_dinov2")):
        changed = config | {"options": config["options"] | {name: value}}
        HUB.commit("owner/app", {"config.json": json.dumps(changed).encode()})
        with pytest.raises(Exception, match="for security: other values reach the server's files"):
            client.predict("owner/app", api_name="/pull")

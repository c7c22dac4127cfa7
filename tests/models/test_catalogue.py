"""A data set's categories on the Hub: what is fitted, pushed, passed over and collected, through the real client."""

import json
import shutil

import pytest
from huggingface_hub import ModelCard

import admodels
from admodels.models.catalogue import Outcome, entries
from admodels.models.format import CONFIG_FILE
from tests.conftest import SMALL

OWNER, READER, OTHER = "hf_owner", "hf_reader", "hf_other"
SMALL_OPTIONS = SMALL["padim_isvd"]


@pytest.fixture
def waits(monkeypatch, no_waiting):
    """What was waited for, in seconds; nothing is, in truth."""
    waited = []
    monkeypatch.setattr("admodels.models.catalogue.sleep", waited.append)
    return waited


@pytest.fixture
def parts(small_data, tmp_path):
    """Three categories: two with test pictures, one of them of fewer good ones, and one with good pictures only."""
    root = tmp_path / "parts"
    shutil.copytree(small_data, root / "paper")
    shutil.copytree(small_data, root / "fine_paper", ignore=lambda folder, names: sorted(names)[14:])
    shutil.copytree(small_data / "train" / "good", root / "good only" / "good")
    return root


def publish(root, token=OWNER, **more):
    given = {"options": SMALL_OPTIONS, "device": "cpu", "token": token, "licence": "mit"} | more
    return admodels.catalogue(root, "owner", "padim_isvd", **given).publish()


def outcomes(done):
    return {row.name: row.outcome for row in done.rows}


def test_every_category_has_its_model_its_card_and_its_place_in_the_collection(hub, parts, waits):
    done = publish(parts, data_terms="CC BY 4.0", dataset="owner/pictures", private=False)
    assert done.is_complete
    assert [row.repo_id for row in done.rows] == [
        "owner/fine_paper-padim_isvd",
        "owner/good-only-padim_isvd",
        "owner/paper-padim_isvd",
    ]
    (collection,) = hub.collections.values()
    assert collection.items == [row.repo_id for row in done.rows]
    assert not collection.private
    assert collection.title == "parts: PaDiM-iSVD"
    assert done.collection.startswith(f"{hub.url}/collections/owner/parts")
    measured = admodels.create("padim_isvd", device="cpu", **SMALL_OPTIONS)
    from admodels.evaluation import evaluate, load_dataset

    expected = evaluate(measured, load_dataset(parts / "paper"), robustness=False)
    row = done.rows[2]
    assert (row.image_auroc, row.n_test) == (expected.image_auroc, 16)
    assert row.threshold == measured.calibration_.threshold
    assert row.threshold_statement == measured.calibration_.statement
    assert row.predict_fps > 0
    assert row.reference.revision == hub.repos[row.repo_id].commits[-1][0]
    pulled = admodels.pull_verified(str(row.reference), device="cpu", token=OWNER)
    assert pulled.verification.is_same
    picture = load_dataset(parts / "paper").test[-1].path
    assert pulled.detector.predict(picture).score == measured.predict(picture).score
    card = ModelCard(hub.file(row.repo_id, "README.md").decode())
    assert (card.data.license, card.data.datasets) == ("mit", ["owner/pictures"])
    assert "CC BY 4.0" in card.text
    assert done.rows[1].image_auroc is None
    assert "## Accuracy" not in hub.file("owner/good-only-padim_isvd", "README.md").decode()


def test_a_second_run_fits_and_pushes_nothing_and_says_the_same(hub, parts, waits, monkeypatch):
    first = publish(parts)
    commits = {name: len(repo.commits) for name, repo in hub.repos.items()}
    monkeypatch.setattr(admodels.Detector, "fit", lambda *a, **k: pytest.fail("it learned again"))
    second = publish(parts)
    assert set(outcomes(second).values()) == {Outcome.PASSED_OVER}
    assert {name: len(repo.commits) for name, repo in hub.repos.items()} == commits
    for before, after in zip(first.rows, second.rows, strict=True):
        assert (before.reference, before.n_test) == (after.reference, after.n_test)
        assert (before.threshold, before.threshold_statement) == (after.threshold, after.threshold_statement)
        assert before.image_auroc is after.image_auroc is None or after.image_auroc == round(before.image_auroc, 4)
    assert second.is_complete
    assert "there under the licence mit, not cc0-1.0" in publish(parts, licence="cc0-1.0").rows[0].said


@pytest.mark.parametrize("change", ["options", "pictures", "unstated"])
def test_a_model_that_differs_is_replaced(hub, parts, waits, change):
    publish(parts)
    options = SMALL_OPTIONS | ({"n_components": 5} if change == "options" else {})
    if change == "pictures":
        next(iter(sorted((parts / "paper/train/good").iterdir()))).unlink()
    if change == "unstated":  # pushed by a version, or a program, that did not say
        config = json.loads(hub.file("owner/paper-padim_isvd", CONFIG_FILE))
        del config["published"]["pictures_sha256"]
        hub.commit("owner/paper-padim_isvd", {CONFIG_FILE: json.dumps(config).encode()})
    given = {"options": options, "device": "cpu", "token": OWNER, "licence": "mit"}
    found = admodels.catalogue(parts, "owner", "padim_isvd", **given)
    said = found.look(found.entries[2]).said
    expected = {"options": "another n_components", "pictures": "other good pictures", "unstated": "does not say which"}
    assert expected[change] in said
    done = found.publish()
    assert done.rows[2].outcome is Outcome.PUSHED
    others = {Outcome.PUSHED if change == "options" else Outcome.PASSED_OVER}
    assert {row.outcome for row in done.rows[:2]} == others
    assert len(next(iter(hub.collections.values())).items) == 3


def test_one_that_fails_does_not_lose_the_others(hub, parts, waits):
    (parts / "fine_paper/train/good/broken.png").write_bytes(b"no picture")
    hub.commit("owner/good-only-padim_isvd", {"config.json": b'{"architectures": ["Bert"]}', "model.safetensors": b"x"})
    done = publish(parts)
    assert list(outcomes(done).values()) == [Outcome.FAILED, Outcome.FAILED, Outcome.PUSHED]
    assert "broken.png" in done.rows[0].said
    assert "not of this library" in done.rows[1].said
    assert hub.file("owner/good-only-padim_isvd", "model.safetensors") == b"x"
    assert not done.is_complete
    assert next(iter(hub.collections.values())).items == ["owner/paper-padim_isvd"]
    (parts / "fine_paper/train/good/broken.png").unlink()
    assert list(outcomes(publish(parts)).values()) == [Outcome.PUSHED, Outcome.FAILED, Outcome.PASSED_OVER]


def test_a_busy_hub_is_asked_again_later_and_nothing_is_done_twice(hub, small_data, waits):
    said = []
    hub.faults.append(("POST", "/api/repos/create", 429, {"Retry-After": "40"}))
    hub.faults.append(("POST", "/api/collections$", 500, {}))
    hub.faults.append(("POST", "/items$", 429, {"RateLimit": '"api";r=0;t=77'}))
    done = publish(small_data, on_wait=lambda seconds, error: said.append((seconds, str(error))))
    assert done.is_complete
    assert waits == [40.0, 5.0, 77.0]
    assert [seconds for seconds, _ in said] == waits
    assert "too many requests" in said[0][1]
    assert len(hub.repos["owner/paper-padim_isvd"].commits) == 2
    hub.faults += [("POST", "/api/collections$", 503, {})] * 4  # longer than anybody waits
    done = publish(small_data)
    assert done.rows[0].outcome is Outcome.PASSED_OVER
    assert "status 503" in done.collection_fault
    assert not done.is_complete


def test_a_commit_whose_answer_was_lost_is_not_made_again(hub, small_data, waits):
    hub.lose_answer = True
    done = publish(small_data)
    assert done.rows[0].outcome is Outcome.PUSHED
    assert waits == [5.0]
    assert done.rows[0].reference.revision == hub.repos["owner/paper-padim_isvd"].commits[-1][0]
    assert len(hub.repos["owner/paper-padim_isvd"].commits) == 2


def test_who_may_not_push_learns_it_before_a_fit_or_after_the_first(hub, parts, waits, monkeypatch):
    fits = []
    fit = admodels.Detector.fit
    monkeypatch.setattr(admodels.Detector, "fit", lambda *a, **k: fits.append(1) or fit(*a, **k))
    for token, said in ((False, "not logged in"), ("hf_expired", "not valid any more"), (READER, "may only read")):
        with pytest.raises(admodels.HubError, match=said):
            publish(parts, token=token)
    assert not fits
    done = publish(parts, token=OTHER)  # logged in, and not the owner
    assert len(fits) == 1
    assert set(outcomes(done).values()) == {Outcome.FAILED}
    assert "may not write there" in done.rows[0].said
    assert done.rows[2].said.startswith("not tried")
    assert not hub.repos
    assert not hub.collections


def test_wrong_requests_are_refused_before_anything(hub, parts, small_data, waits):
    for more, said in (
        ({"licence": "free"}, "licence is 'free'; expected one of"),
        ({"dataset": "pictures"}, "names no model on the Hub"),
        ({"title": "x" * 60}, "expected 1 to 59 characters"),
        ({"options": {"n_component": 3}}, "Did you mean 'n_components'"),
    ):
        with pytest.raises(admodels.AdmodelsError, match=said):
            publish(parts, **more)
    (parts / "PAPER").mkdir()
    shutil.copytree(parts / "paper/train", parts / "PAPER/train")
    with pytest.raises(admodels.DataError, match="would both go to owner/"):
        publish(parts)
    with pytest.raises(admodels.DataError, match="is not a folder"):
        publish(parts / "nowhere")
    assert not hub.requests


def test_names_of_folders_become_names_of_repositories():
    names = {"Prüfteil 3": "Prufteil-3", "a..b--c": "a-b-c", "_x_": "x", "metal_nut": "metal_nut"}
    found = entries(dict.fromkeys(names), "me", "fapm")
    assert [entry.repo_id for entry in found] == [f"me/{stem}-fapm" for stem in names.values()]
    assert [entry.category for entry in found] == ["Prufteil-3", "a-b-c", "x", "metal_nut"]
    for name in ("部品", "...", "x" * 100):
        with pytest.raises(admodels.DataError, match="gives no name for a repository"):
            entries({name: None}, "me", "fapm")
    with pytest.raises(admodels.HubError, match="names no model"):
        entries({"a": None}, "me/you", "fapm")


def test_a_picture_is_published_only_where_asked_for(hub, small_data, waits):
    publish(small_data)
    generated = hub.file("owner/paper-padim_isvd", "preview.png")
    hub.repos.clear()
    publish(small_data, with_picture=True)
    assert hub.file("owner/paper-padim_isvd", "preview.png") != generated

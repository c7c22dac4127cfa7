"""Two models on a whole test set: what programs get, and that it goes with both models and with the pictures."""

import json
import shutil

import gradio as gr
import pytest
from gradio_client import handle_file
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

import admodels
from admodels import LOCAL
from demo.state.current import Current
from demo.state.sessions import SESSIONS
from demo.tabs import evaluate as evaluate_tab
from demo.tabs import models as models_tab
from demo.tabs import set_comparison, threshold
from tests.conftest import SMALL


def fit(client, paths, method="padim_isvd"):
    files = [handle_file(str(path)) for path in paths]
    client.predict(files, method, 0.01, json.dumps(SMALL[method]), 0, "auto", api_name="/fit")


def compare(client, name):
    return client.predict(name, api_name="/compare_evaluated")


def test_two_models_are_compared_on_a_whole_test_set(client, example):
    good, bad = ([i for i in example.test if i.is_defective == kind] for kind in (False, True))
    fit(client, example.train)
    client.predict("by hand", 0.01, 1e6, api_name="/set_threshold")  # it misses everything
    client.predict("other", False, api_name="/save_model")
    fit(client, example.train[:12], "fapm")
    with pytest.raises(Exception, match="no evaluation to compare with yet"):
        compare(client, "other")
    masks = [handle_file(str(i.masks[0])) for i in bad]
    files = [[handle_file(str(i.path)) for i in items] for items in (good, bad)]
    mine = client.predict(None, *files, masks, api_name="/evaluate")[-1]
    with pytest.raises(Exception, match="no model named"):
        compare(client, "nowhere")
    with pytest.raises(Exception, match="no other model is named"):
        compare(client, " ")
    *_, found = compare(client, "other")

    this, other = found["models"]
    assert (this["method"], other["method"], other["model"]) == ("fapm", "padim_isvd", "other")
    assert all(this[name] == mine[name] for name in ("image_auroc", "pixel_auroc", "aupro", "threshold"))
    expected = admodels.load("other", device="cpu").predict_batch([i.path for i in good + bad])
    scores = [prediction.score for prediction in expected]
    assert other["image_auroc"] == pytest.approx(roc_auc_score([0] * 12 + [1] * 8, scores))
    assert (other["n_missed"], other["n_false_alarms"], other["threshold"]) == (8, 0, 1e6)
    rows = {(row["kind"], row["name"]): row for row in found["pictures"]}
    assert len(rows) == 20
    for picture, prediction in zip(mine["pictures"], expected, strict=True):
        row = rows[picture["kind"], picture["name"]]
        assert row["verdicts"][0]["score"] == picture["score"]
        assert row["verdicts"][1]["score"] == pytest.approx(prediction.score, rel=1e-5)
        for verdict in row["verdicts"]:
            assert verdict["is_right"] == ((verdict["score"] > verdict["threshold"]) == (picture["kind"] != "good"))
            assert (verdict["verdict"] == "suspected") == (verdict["score"] > verdict["threshold"])
    differ = [row["differ"] for row in found["pictures"]]
    n_found = 8 - this["n_missed"]
    assert n_found > 0
    assert differ == sorted(differ, reverse=True)
    assert sum(differ) == n_found + this["n_false_alarms"]
    counts = found["verdicts"]["all"]
    assert (counts["n_first_only"], counts["n_second_only"]) == (n_found, this["n_false_alarms"])
    p_value = binomtest(n_found, sum(differ)).pvalue
    assert counts["p_value"] == pytest.approx(p_value)
    assert f"misses {n_found} defective picture" in found["statement"]
    # Both were fitted here, on none of these pictures, and so nothing warns.
    assert found["notes"] == []

    client.predict(None, files[0], [handle_file(str(path)) for path in example.train[:3]], None, api_name="/evaluate")
    *_, learned = compare(client, "other")
    assert "3 of these pictures were used to fit other" in learned["notes"][1]
    client.predict("mine", False, api_name="/save_model")
    with pytest.raises(Exception, match="mine is the model in use itself"):
        compare(client, "mine")
    for name in ("other", "mine"):
        LOCAL.delete(name)


@pytest.fixture
def evaluated(visitor, isvd, normals, example, tmp_path):
    """A session with `first` evaluated on copies of pictures; `second` is there too."""
    second = admodels.create("fapm", device="cpu", **SMALL["fapm"]).fit(normals[:8])
    admodels.save(isvd, "first", overwrite=True)
    admodels.save(second, "second", overwrite=True)
    models_tab.load_model("first", visitor)
    evaluate(visitor, example, tmp_path)
    yield SESSIONS.of(visitor)
    for name in ("first", "second"):
        LOCAL.delete(name)


def evaluate(visitor, example, folder):
    copies = {False: [], True: []}
    for i, item in enumerate(example.test):
        copies[item.is_defective].append(shutil.copy(item.path, folder / f"{i}{item.path.suffix}"))
    evaluate_tab.evaluate(None, copies[False], copies[True], None, visitor, no_progress)


def no_progress(*_, **__):
    """What a page would show."""


def test_a_comparison_follows_the_threshold_and_goes_with_its_evaluation_and_its_model(
    visitor, evaluated, example, tmp_path
):
    assert not set_comparison.shown(evaluated)["said"]
    found = set_comparison.compare_evaluated("second", visitor, no_progress)["comparison"]
    # Loaded from files that do not say what they learned from.
    assert "Which pictures first and second learned from is not known" in found["notes"][0]
    before = found["models"][1]
    shown = evaluate_tab.moved(threshold.BY_HAND, 0, 1e6, visitor)
    this, other = shown["comparison"]["models"]
    assert (this["n_missed"], this["n_false_alarms"]) == (8, 0)
    assert other == before
    assert shown["differing"].count("<figure>") == 8 - other["n_missed"] + other["n_false_alarms"]
    assert shown["differing"].count("data:image/jpeg") == 2 * shown["differing"].count("<figure>")

    evaluate(visitor, example, tmp_path)
    assert evaluated.compared is None
    set_comparison.compare_evaluated("second", visitor, no_progress)
    assert set_comparison.refresh(visitor)["comparison"] is not None
    models_tab.load_model("second", visitor)
    assert evaluated.compared is None
    gone = set_comparison.refresh(visitor)
    assert (gone["section"]["visible"], gone["comparison"]) == (False, None)


def test_a_comparison_that_comes_late_is_not_kept(visitor, evaluated, example, tmp_path, monkeypatch):
    measure = set_comparison.measure

    def and_meanwhile(detector, test, **named):
        found = measure(detector, test, **named)
        evaluated.use(Current(admodels.load("second", device="cpu"), "a new one"))
        return found

    monkeypatch.setattr(set_comparison, "measure", and_meanwhile)
    found = set_comparison.compare_evaluated("second", visitor, no_progress)["comparison"]
    assert found["models"][0]["model"] == "first"
    assert "first was replaced or evaluated on other pictures in the meantime" in found["notes"][0]
    assert evaluated.compared is None


def test_a_comparison_is_stopped(visitor, evaluated, monkeypatch):
    measure = set_comparison.measure

    def pressed(detector, test, **named):
        evaluated.side_stop.press()
        return measure(detector, test, **named)

    monkeypatch.setattr(set_comparison, "measure", pressed)
    assert set_comparison.compare_evaluated("second", visitor, no_progress)["comparison"] == {"stopped": True}
    assert evaluated.compared is None


def test_what_cannot_be_compared_is_said(visitor, evaluated, tmp_path):
    with pytest.raises(gr.Error, match="first is the model in use itself"):
        set_comparison.compare_evaluated("first", visitor, no_progress)
    threshold.set_threshold(threshold.BY_HAND, 0, 1e6, visitor)
    found = set_comparison.compare_evaluated("first", visitor, no_progress)["comparison"]
    assert "Both are the same model with two thresholds" in found["notes"][0]
    (tmp_path / "0.png").unlink()
    with pytest.raises(gr.Error, match=r"1 of the evaluated pictures and masks are no longer there, 0\.png for one"):
        set_comparison.compare_evaluated("second", visitor, no_progress)

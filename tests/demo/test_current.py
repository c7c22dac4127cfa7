"""What a model said is never shown as another one's, however late it comes; nothing unsaved is replaced unasked."""

import csv
import json
import threading
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from gradio_client import handle_file
from hypothesis import given
from hypothesis import strategies as st

import admodels
from admodels import LOCAL
from admodels.core.calibration import Calibration
from admodels.pictures.images import DecodedImage, list_images
from demo.state.current import Current, Inspected, Inspection, Shown
from demo.state.jobs import JOBS
from demo.state.session import Session
from demo.state.sessions import SESSIONS
from demo.tabs import comparison, fitting, picking, question, scoring, stop, threshold
from demo.tabs import evaluate as evaluate_tab
from demo.tabs import hub as hub_tab
from demo.tabs import inspect as inspect_tab
from demo.tabs import marks as marks_tab
from demo.tabs import models as models_tab
from demo.view import text
from tests import HUB
from tests.conftest import SMALL

FAPM = json.dumps(SMALL["fapm"])
LONG = json.dumps({"image_size": 64, "max_steps": 100_000})
OWNER = "hf_owner"


def no_progress(*_, **__):
    """What a page would show."""


class Waiting:
    """A progress that tells when the page has begun to follow a job."""

    def __init__(self):
        self.begun = threading.Event()

    def __call__(self, *_, **__):
        self.begun.set()


class InThread:
    """Work in a thread of its own."""

    def __init__(self, work, *arguments):
        def run():
            try:
                self.found = work(*arguments)
            except Exception as error:
                self.found = error

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def result(self):
        self.thread.join(60)
        assert not self.thread.is_alive()
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.fixture
def two_models(normals, isvd):
    """Two saved models that disagree: `second` lets everything pass."""
    second = admodels.create("fapm", device="cpu", **SMALL["fapm"]).fit(normals[:8]).with_threshold(threshold=1e6)
    admodels.save(isvd, "first", overwrite=True)
    admodels.save(second, "second", overwrite=True)
    yield isvd, second
    for info in LOCAL.list_models():
        LOCAL.delete(info.name)


@pytest.fixture
def gate():
    """The machine is busy until this is set."""
    opened = threading.Event()
    job = JOBS.submit(lambda tell: opened.wait(60), threading.Event())
    yield opened
    opened.set()
    JOBS.follow(job, no_progress)


def of(example, is_defective):
    return [str(item.path) for item in example.test if item.is_defective == is_defective]


def test_an_evaluation_that_waited_behind_a_fit_keeps_its_name_and_stays_out_of_the_card(
    visitor, two_models, example, gate
):
    HUB.repos.clear()
    models_tab.load_model("first", visitor)
    fits, evaluates = Waiting(), Waiting()
    fit = InThread(fitting.fit, [str(p) for p in example.train], "fapm", 0.1, FAPM, 0, "0", visitor, fits)
    assert fits.begun.wait(60)
    evaluating = InThread(evaluate_tab.evaluate, None, of(example, False), of(example, True), None, visitor, evaluates)
    assert evaluates.begun.wait(60)
    gate.set()
    fit.result()
    shown = evaluating.result()
    assert shown["figures"]["model"] == "first"
    first = two_models[0]
    assert [p["score"] for p in shown["figures"]["pictures"]] == pytest.approx(
        [p.score for p in first.predict_batch([p for kind in (False, True) for p in of(example, kind)])], rel=1e-5
    )
    assert "replaced first in the meantime" in shown["summary"]
    with pytest.raises(gr.Error, match="no evaluation yet"):
        evaluate_tab.evaluation_report("json", visitor)
    hub_tab.log_in(OWNER, visitor)
    hub_tab.push("owner/late", "", "mit", "", True, False, "", False, visitor)
    assert "## Accuracy" not in HUB.file("owner/late", "README.md").decode()


def test_an_evaluation_goes_with_its_model_and_that_is_said(visitor, two_models, example):
    models_tab.load_model("first", visitor)
    evaluate_tab.evaluate(None, of(example, False), of(example, True), None, visitor, no_progress)
    inspected = inspect_tab.refresh(0.7, True, visitor)
    assert "Last evaluation, 8 defective and 12 good pictures" in inspected["panel_said"]
    models_tab.load_model("second", visitor)
    assert "evaluation" not in inspect_tab.refresh(0.7, True, visitor)["panel_said"]
    refreshed = evaluate_tab.refresh(visitor)
    assert "The last evaluation was of first" in refreshed["summary"]
    assert refreshed["figures"] is None
    with pytest.raises(gr.Error, match="no evaluation yet"):
        evaluate_tab.evaluation_report("json", visitor)


def verdicts(inspection):
    return [verdict for *_, verdict in scoring.scores(inspection)]


def held_up(monkeypatch):
    """Predictions tell the first of these events that they began, and wait for the second."""
    entered, leave, predict = threading.Event(), threading.Event(), scoring.predict

    def slow(detector, decoded):
        entered.set()
        assert leave.wait(60)
        return predict(detector, decoded)

    monkeypatch.setattr("demo.tabs.scoring.predict", slow)
    return entered, leave


def test_where_a_rate_is_chosen_the_last_evaluation_says_what_each_one_finds(visitor, two_models, example):
    models_tab.load_model("first", visitor)
    inspect_tab.refresh(0.7, True, visitor)
    before = inspect_tab.moved(threshold.BY_RATE, 0.05, 0, 0.7, True, visitor)["panel_said"]
    assert "evaluation" not in before
    shown = evaluate_tab.evaluate(None, of(example, False), of(example, True), None, visitor, no_progress)
    rows = shown["figures"]["at_rates"]
    assert all(f"<td>{row['n_found']} of 8: {row['n_found'] / 8:.0%}</td>" in shown["summary"] for row in rows[1:])
    after = inspect_tab.moved(threshold.BY_RATE, 0.05, 0, 0.7, True, visitor)["panel_said"]
    assert after.startswith(before)
    for row, rate in zip(rows[1:], ("4 %", "5 %", "10 %"), strict=True):
        assert f"at {rate}, {row['n_found']} found and {row['n_false_alarms']} false alarm" in after
    assert "at 1 %," not in after  # 24 held-out normals are too few to say
    # The Evaluate tab has the table itself, and its panel does not say it twice.
    assert "Last evaluation" not in evaluate_tab.moved(threshold.BY_RATE, 0.1, 0, visitor)["panel_said"]


def test_an_evaluation_of_a_model_replaced_since_says_nothing_beside_anothers_threshold(visitor, two_models, example):
    models_tab.load_model("first", visitor)
    evaluate_tab.evaluate(None, of(example, False), of(example, True), None, visitor, no_progress)
    session = SESSIONS.of(visitor)
    evaluated = session.evaluated
    models_tab.load_model("second", visitor)
    session.evaluated = evaluated  # as a handler would have it that read it just before
    assert "evaluation" not in inspect_tab.refresh(0.7, True, visitor)["panel_said"]


def test_pictures_inspected_while_the_model_changes_are_scored_by_the_new_one(
    visitor, two_models, example, monkeypatch
):
    models_tab.load_model("second", visitor)
    bad, (entered, leave) = of(example, True), held_up(monkeypatch)
    inspecting = InThread(inspect_tab.inspect, bad, 0.7, True, False, visitor, no_progress)
    assert entered.wait(60)
    models_tab.load_model("first", visitor)
    leave.set()
    shown = inspecting.result()
    expected = two_models[0].predict_batch(bad)
    assert [row["score"] for row in shown["rows"]] == pytest.approx([p.score for p in expected], rel=1e-5)
    assert [row["is_anomalous"] for row in shown["rows"]] == [p.is_anomalous for p in expected]
    assert [row[5] for row in shown["table"]] == [text.in_words(p.verdict) for p in expected]
    assert "first" in shown["verdict"]
    with open(inspect_tab.scores_file(visitor), newline="", encoding="utf-8") as opened:
        assert [float(row[1]) for row in list(csv.reader(opened))[1:]] == [row["score"] for row in shown["rows"]]


def test_after_a_change_of_model_the_pictures_that_are_there_are_scored_again(visitor, two_models, example):
    bad = of(example, True)
    models_tab.load_model("second", visitor)
    inspect_tab.inspect(bad, 0.7, True, False, visitor, no_progress)
    models_tab.load_model("first", visitor)
    # At once nothing of the old model is left, neither in the page nor for its events.
    refreshed = inspect_tab.refresh(0.7, True, visitor)
    assert (refreshed["gallery"], refreshed["slider"]) == ([], None)
    assert "Scoring the 8 pictures again, with first" in refreshed["found"]
    with pytest.raises(gr.Error, match="no longer here"):
        scoring.select(0, 0.7, True, SESSIONS.of(visitor), visitor.session_hash)
    with pytest.raises(gr.Error, match="no scores yet"):
        inspect_tab.scores_file(visitor)
    again = inspect_tab.score_again(0.7, True, visitor, no_progress)
    expected = two_models[0].predict_batch(bad)
    assert [row["score"] for row in again["rows"]] == pytest.approx([p.score for p in expected], rel=1e-5)
    assert [row["name"] for row in again["rows"]] == [Path(p).name for p in bad]
    # Once is enough.
    assert inspect_tab.score_again(0.7, True, visitor, no_progress) == {}


@pytest.mark.parametrize("fails", [False, True], ids=["scored", "failed"])
def test_each_announcement_that_pictures_are_scored_gets_an_answer(visitor, two_models, example, tmp_path, fails):
    """The page may show the second one after the answer to the first, and would wait for ever."""
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(of(example, True)[0]).read_bytes())
    models_tab.load_model("second", visitor)
    inspect_tab.inspect([str(copy)], 0.7, True, False, visitor, no_progress)
    models_tab.load_model("first", visitor)
    for _ in range(2):
        assert "Scoring the picture again" in inspect_tab.refresh(0.7, True, visitor)["found"]
    if fails:
        copy.unlink()
    first, second, third = (inspect_tab.score_again(0.7, True, visitor, no_progress) for _ in range(3))
    assert second is first
    assert ("does not exist" in first["found"]) == fails
    assert third == {}
    assert SESSIONS.of(visitor).answer is None

    # What was found meanwhile is not written over.
    models_tab.load_model("second", visitor)
    inspect_tab.inspect(of(example, True), 0.7, True, False, visitor, no_progress)
    models_tab.load_model("first", visitor)
    for _ in range(2):
        inspect_tab.refresh(0.7, True, visitor)
    assert inspect_tab.score_again(0.7, True, visitor, no_progress)["rows"]
    inspect_tab.inspect(of(example, True)[:2], 0.7, True, False, visitor, no_progress)
    assert inspect_tab.score_again(0.7, True, visitor, no_progress) == {}


def test_pictures_that_are_gone_when_they_are_to_be_scored_again_are_said(visitor, two_models, example, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(of(example, True)[0]).read_bytes())
    models_tab.load_model("second", visitor)
    inspect_tab.inspect([str(copy)], 0.7, True, False, visitor, no_progress)
    copy.unlink()
    models_tab.load_model("first", visitor)
    verdict = inspect_tab.score_again(0.7, True, visitor, no_progress)["found"]
    assert "copy.png" in verdict
    assert 'class="error"' in verdict


def test_a_threshold_moved_during_an_inspection_counts_and_its_scores_stay(visitor, two_models, example, monkeypatch):
    models_tab.load_model("first", visitor)
    bad, (entered, leave) = of(example, True), held_up(monkeypatch)
    inspecting = InThread(inspect_tab.inspect, bad, 0.7, True, False, visitor, no_progress)
    assert entered.wait(60)
    threshold.set_threshold("by hand", 0.01, 1e6, visitor)
    leave.set()
    shown = inspecting.result()
    assert {row[5] for row in shown["table"]} <= {"✓ Good", "? Borderline"}
    assert "suspected" not in verdicts(SESSIONS.of(visitor).inspected)


def test_a_threshold_meant_for_another_model_is_not_moved(visitor, two_models):
    models_tab.load_model("first", visitor)
    inspect_tab.refresh(0.7, True, visitor)  # the page shows the first model's threshold
    session = SESSIONS.of(visitor)
    models_tab.load_model("second", visitor)
    before = session.current
    threshold.react(session, visitor.session_hash, "by hand", 0.01, -5.0)
    assert session.current is before
    first = Current(two_models[0], "first")
    with pytest.raises(admodels.OptionError, match="was not changed"):
        threshold.apply(session, first, "by hand", 0.01, -5.0)
    assert session.current is before


def test_a_single_model_that_comes_late_is_compared_with_its_own_ensemble(visitor, normals, example, gate):
    session = SESSIONS.of(visitor)
    asked = ([str(p) for p in example.train], "tiled", 0.1, json.dumps(SMALL["tiled"]), 0, "0")
    waiting = Waiting()
    fit = InThread(fitting.fit, *asked, visitor, waiting)
    assert waiting.begun.wait(60)
    gate.set()
    fit.result()
    inspect_tab.inspect(of(example, True)[:1], 0.7, True, False, visitor, no_progress)
    ensemble = session.current
    second, waiting = threading.Event(), Waiting()
    job = JOBS.submit(lambda tell: second.wait(60), threading.Event())
    comparing = InThread(comparison.compare_with_single, visitor, waiting)
    assert waiting.begun.wait(60)
    other = Current(admodels.create("fapm", device="cpu", **SMALL["fapm"]).fit(normals[:8]), "other")
    session.use(other)
    second.set()
    rows = comparing.result()["pair"]
    assert rows[0]["model"] == ensemble.label
    assert session.single is None
    JOBS.follow(job, no_progress)


def test_a_search_that_ends_late_does_not_take_a_later_ones_rows_away(visitor, two_models, monkeypatch):
    entered, leave = threading.Event(), threading.Event()

    def slow(words, **kwargs):
        if words == "first":
            entered.set()
            assert leave.wait(60)
        return []

    monkeypatch.setattr(admodels.HUB, "search", slow)
    late = InThread(hub_tab.search_hub, "first", "", visitor)
    assert entered.wait(60)
    hub_tab.search_hub("second", "", visitor)
    leave.set()
    answer = late.result()
    assert list(answer) == ["rows"]
    assert [row["reference"] for row in answer["rows"]] == ["local:first"]  # who asked is answered
    assert list(SESSIONS.of(visitor).found) == ["local:second"]


def test_pictures_looked_at_late_do_not_take_the_place_of_those_chosen_since(visitor, example, monkeypatch):
    entered, leave, look = threading.Event(), threading.Event(), picking._look

    def slow(files):
        entered.set()
        assert leave.wait(60)
        return look(files)

    monkeypatch.setattr("demo.tabs.picking._look", slow)
    late = InThread(picking.pick_files, [str(p) for p in example.train[:5]], visitor)
    assert entered.wait(60)
    picking.pick_example("Paper with specks", visitor)
    leave.set()
    assert late.result() == {}
    assert len(SESSIONS.of(visitor).pictures.images) == 24


def test_a_page_that_asks_late_what_was_chosen_before_is_told_the_same(visitor, example):
    """A page asks when it is loaded; by then its visitor may have chosen pictures on it already."""
    picked = [
        picking.pick_files([str(p) for p in example.train[:5]], visitor),
        picking.pick_example("Paper with specks", visitor),
    ]
    assert "5 good pictures from your upload" in picked[0]["picked"]
    assert picking.chosen_before(visitor)["picked"] == picked[1]["picked"]
    picking.pick_files([str(p) for p in example.train[:5]], visitor)
    assert picking.chosen_before(visitor)["picked"] == picked[0]["picked"]


# --- invariants, whatever happens in whatever order --------------------


class FakeDetector:
    """What a session needs of one."""

    def __init__(self, state, threshold):
        self.state_ = state
        scores = (0.0, 1.0, 2.0)
        self.calibration_ = Calibration(scores, scores, map_median=0.0, hand_threshold=threshold)

    def with_threshold(self, threshold):
        return FakeDetector(self.state_, threshold)


MODELS = [Current(FakeDetector({}, 0.5), f"model {i}", saved_as=f"model {i}", is_kept=True) for i in range(3)]
PICTURE = Inspected(b"", "a.png", 1.0, (0, 0), b"", "")
STEPS = st.lists(
    st.tuples(st.sampled_from(["use", "move", "save", "delete", "inspect", "show"]), st.integers(0, 2)), max_size=30
)


@given(STEPS)
def test_what_a_session_holds_is_always_of_the_current_model_at_its_threshold(steps):
    session = Session()
    prediction = admodels.Prediction(1.0, np.zeros((1, 1), np.float32), 0.5, 0.5, 0.5, 0.5, (0.0, 1.0))
    for position, (step, n) in enumerate(steps):
        current, meant = session.current, MODELS[n]
        if step == "use":
            session.use(meant)
        elif step == "inspect":
            kept = session.keep(Inspection(meant, (PICTURE,)))
            assert (kept is not None) == meant.is_same_model(current)
        elif step == "show":
            session.keep(Shown(meant, DecodedImage(np.zeros((1, 1, 3), np.uint8), "a.png"), prediction))
        elif current is not None and step == "move":
            assert session.replace(current, current.moved(threshold=float(position)))
            assert not session.replace(current, current)  # it is not the current one any more
        elif current is not None and step == "save":
            session.replace(current, current.saved("name"))
        elif current is not None:
            session.replace(current, current.deleted())
        for result in (session.inspected, session.shown):
            assert result is None or result.current is session.current
        if session.shown is not None:
            assert session.shown.prediction.threshold == session.current.calibration.threshold
        assert session.has_unsaved == (session.current is not None and not session.current.is_kept)


# --- nothing unsaved is replaced unasked --------------------


def stop_a_training(visitor, example, monkeypatch):
    """Stop a training after its first step; what its page shows."""
    on_progress = fitting._on_progress

    def stopping(session, stop, at, tell):
        if at.stage == "training" and at.done:
            session.fit_stop.press()
        on_progress(session, stop, at, tell)

    with monkeypatch.context() as patch:
        patch.setattr("demo.tabs.fitting._on_progress", stopping)
        shown = fitting.fit([str(p) for p in example.train[:8]], "efficientad", 0.1, LONG, 0, "0", visitor, no_progress)
    return shown


@pytest.mark.parametrize("answer", ["keep", "discard"])
def test_a_stopped_training_asks_before_it_takes_the_models_place(visitor, two_models, example, monkeypatch, answer):
    models_tab.load_model("first", visitor)
    session = SESSIONS.of(visitor)
    before = session.current
    result = stop_a_training(visitor, example, monkeypatch)["report"]
    assert result["stopped"]
    assert result["method"] == "efficientad"
    assert session.current is before
    asked = question.shown(visitor)
    assert asked["box"]["visible"]
    assert "Your model first is in use until you answer" in asked["said"]
    assert (asked["yes"]["value"], asked["no"]["value"]) == ("Keep it", "Discard")
    with pytest.raises(gr.Error, match="Answer the question at the top"):  # it would be lost
        fitting.begin_fit(visitor)
    if answer == "keep":
        question.accept(asked["asked"], visitor, no_progress)
    else:
        question.decline(asked["asked"], visitor)
    assert session.current.detector.key == ("efficientad" if answer == "keep" else "padim_isvd")
    assert not question.shown(visitor)["box"]["visible"]
    fitting.begin_fit(visitor)


def test_a_program_answers_for_a_stopped_training_by_its_name(visitor, two_models, example, monkeypatch):
    models_tab.load_model("first", visitor)
    with pytest.raises(gr.Error, match="no stopped training"):
        question.keep_stopped(visitor)
    stop_a_training(visitor, example, monkeypatch)
    assert question.discard_stopped(visitor) == {"model": "first"}
    stop_a_training(visitor, example, monkeypatch)
    assert question.keep_stopped(visitor)["method"] == "efficientad"
    assert SESSIONS.of(visitor).current.detector.key == "efficientad"
    with pytest.raises(gr.Error, match="no stopped training"):
        question.discard_stopped(visitor)


def make_unsaved(visitor):
    models_tab.load_model("first", visitor)
    threshold.set_threshold("by hand", 0.01, 4.0, visitor)
    return SESSIONS.of(visitor).current


@pytest.mark.parametrize(
    "press",
    [lambda visitor: models_tab.load_or_ask("second", visitor), lambda v: hub_tab.try_or_ask("local:second", v)],
    ids=["load", "try"],
)
def test_load_and_try_ask_where_the_current_model_would_be_lost(visitor, two_models, press):
    session = SESSIONS.of(visitor)
    press(visitor)  # there is none yet
    assert session.current.label == "second"
    mine = make_unsaved(visitor)
    press(visitor)
    assert session.current is mine
    said = question.shown(visitor)
    assert "your model first is not saved" in said["said"]
    assert "instead of your unsaved model" in said["yes"]["value"]
    question.decline(said["asked"], visitor)
    assert session.current is mine
    press(visitor)
    question.accept(said["asked"], visitor, no_progress)
    assert session.current.label == "second"
    # Where nothing would be lost, nothing is asked.
    models_tab.save_model("third", False, visitor)
    press(visitor)
    assert session.question is None
    with pytest.raises(gr.Error, match="no model named"):
        models_tab.load_or_ask("nowhere", visitor)


def test_a_link_asks_too_and_downloads_only_so_much(visitor, two_models, monkeypatch):
    HUB.repos.clear()
    admodels.push(two_models[0], "owner/linked", private=False, token=OWNER)
    linked = gr.Request(session_hash=visitor.session_hash, query_params={"model": "owner/linked"})
    session = SESSIONS.of(visitor)
    mine = make_unsaved(visitor)
    assert hub_tab.say_linked(linked) == ""
    hub_tab.open_linked(linked, no_progress)
    assert session.current is mine
    assert question.shown(visitor)["yes"]["value"] == "Open owner/linked instead of your unsaved model"
    monkeypatch.setenv("ADMODELS_MAX_LINK_MIB", "0.001")
    downloads = []
    monkeypatch.setattr("admodels.models.hub.snapshot_download", lambda *a, **k: downloads.append(a))
    with pytest.raises(gr.Error, match=r"this server opens links of up to 0\.001"):
        question.accept(question.shown(visitor)["asked"], visitor, no_progress)
    assert session.current is mine
    assert downloads == []
    monkeypatch.undo()
    question.accept(question.shown(visitor)["asked"], visitor, no_progress)
    assert session.current.label == "owner/linked"
    assert "Opening owner/linked" in hub_tab.say_linked(linked)
    hub_tab.open_linked(linked, no_progress)  # a reload: nothing to ask
    assert session.question is None


def test_a_linked_model_waits_for_its_turn(visitor, two_models, gate):
    HUB.repos.clear()
    admodels.push(two_models[0], "owner/linked", private=False, token=OWNER)
    linked = gr.Request(session_hash=visitor.session_hash, query_params={"model": "owner/linked"})
    waiting = Waiting()
    opening = InThread(hub_tab.open_linked, linked, waiting)
    assert waiting.begun.wait(60)
    assert SESSIONS.of(visitor).current is None
    gate.set()
    opening.result()
    assert SESSIONS.of(visitor).current.label == "owner/linked"


def test_a_deleted_model_stays_with_those_who_use_it(visitor, two_models, example):
    other = gr.Request(session_hash="another page", query_params={})
    for who in (visitor, other):
        models_tab.load_model("first", who)
    models_tab.delete_model("first", visitor)
    for who in (visitor, other):
        current = SESSIONS.of(who).current
        assert current.label == "first, no longer saved"
        assert inspect_tab.inspect(of(example, True)[:1], 0.7, True, False, who, no_progress)["rows"][0]["score"] > 0
        models_tab.load_or_ask("second", who)
        assert SESSIONS.of(who).current is current  # asked
    cards = models_tab.save_model("first", False, visitor)["cards"]
    assert "in use" in cards
    assert SESSIONS.of(visitor).current.is_kept


def test_a_model_that_is_saved_over_is_no_longer_the_saved_one_of_who_uses_it(visitor, two_models):
    other = gr.Request(session_hash="one more page", query_params={})
    models_tab.load_model("first", other)
    models_tab.load_model("second", visitor)
    models_tab.save_model("first", True, visitor)
    assert SESSIONS.of(visitor).current.is_kept
    assert not SESSIONS.of(other).current.is_kept
    models_tab.rename_model("first", "renamed", visitor)
    assert SESSIONS.of(visitor).current.label == "renamed"


def test_a_model_saved_again_within_the_second_is_loaded_anew(visitor, two_models):
    first, second = two_models
    for model in (second, first, second):
        admodels.save(model, "again", overwrite=True)
        models_tab.load_model("again", visitor)
        assert SESSIONS.of(visitor).current.detector.key == model.key


def test_two_who_open_a_model_at_once_load_it_once(two_models, monkeypatch):
    entered, leave, n_loads = threading.Event(), threading.Event(), []

    def slow():
        n_loads.append(1)
        entered.set()
        assert leave.wait(60)
        return two_models[0]

    one = InThread(SESSIONS._loaded.get, ("large",), slow)
    assert entered.wait(60)
    two = InThread(SESSIONS._loaded.get, ("large",), slow)
    leave.set()
    assert one.result() is two.result() is two_models[0]
    assert len(n_loads) == 1

    def broken():
        raise admodels.StoreError("damaged")

    for _ in range(2):  # an error is not remembered
        with pytest.raises(admodels.StoreError, match="damaged"):
            SESSIONS._loaded.get(("broken",), broken)


def test_downloads_do_not_remove_each_others_files(visitor, two_models, example):
    models_tab.load_model("first", visitor)
    inspect_tab.inspect(of(example, True)[:2], 0.7, True, False, visitor, no_progress)
    files = [models_tab.download_model(name, visitor) for name in ("first", "second")]
    files.append(inspect_tab.scores_file(visitor))
    assert all(Path(file).is_file() for file in files)


def test_a_fit_of_a_visitor_who_left_ends_without_harm(example, gate):
    gone = gr.Request(session_hash="page that goes", query_params={})
    waiting = Waiting()
    fit = InThread(fitting.fit, [str(p) for p in example.train], "fapm", 0.1, FAPM, 0, "0", gone, waiting)
    assert waiting.begun.wait(60)
    session = SESSIONS.of(gone)
    with SESSIONS._lock:
        SESSIONS._drop(gone.session_hash)
    gate.set()
    assert fit.result()["report"] == {"stopped": True}
    assert SESSIONS.of(gone) is not session


def test_files_left_out_of_a_fit_are_named_to_programs_and_on_the_page(client, specks, tmp_path):
    for name, content in (("empty.png", b""), ("text.png", b"no picture")):
        (tmp_path / name).write_bytes(content)
    given = [handle_file(str(p)) for p in [*specks.train[:8], *list_images(tmp_path)]]
    said, _, result = client.predict(given, "fapm", 0.1, FAPM, 0, api_name="/fit")
    assert {item["name"] for item in result["left_out"]} == {"empty.png", "text.png"}
    assert all(item["reason"] for item in result["left_out"])
    assert "2 pictures could not be read and were left out" in said
    assert "empty.png" in said
    assert client.predict(given[:8], "fapm", 0.1, FAPM, 0, api_name="/fit")[2]["left_out"] == []


def test_an_unsaved_model_that_came_while_another_was_on_its_way_is_not_replaced(visitor, two_models, gate):
    """A link waits in the queue behind the visitor's own fit, whose model nobody has saved."""
    HUB.repos.clear()
    admodels.push(two_models[0], "owner/linked", private=False, token=OWNER)
    linked = gr.Request(session_hash=visitor.session_hash, query_params={"model": "owner/linked"})
    session, waiting = SESSIONS.of(visitor), Waiting()
    opening = InThread(hub_tab.open_linked, linked, waiting)
    assert waiting.begun.wait(60)
    fitted = Current(two_models[1], "FAPM, fit 1, not saved yet")
    session.use(fitted)
    gate.set()
    assert opening.result() == {}
    assert session.current is fitted
    asked = question.shown(visitor)
    assert "your model FAPM, fit 1, not saved yet is not saved" in asked["said"]
    question.accept(asked["asked"], visitor, no_progress)
    assert session.current.label == "owner/linked"


def test_an_answer_counts_for_the_question_that_the_page_shows(visitor, two_models, example, monkeypatch):
    session, mine = SESSIONS.of(visitor), make_unsaved(visitor)
    models_tab.load_or_ask("second", visitor)
    shown = question.shown(visitor)["asked"]
    stop_a_training(visitor, example, monkeypatch)  # it ends, and asks something else
    question.decline(shown, visitor)
    question.accept(shown, visitor, no_progress)
    assert session.current is mine
    assert session.question.stopped is not None
    question.accept(question.shown(visitor)["asked"], visitor, no_progress)
    assert session.current.detector.key == "efficientad"


def test_what_is_deleted_is_what_the_button_says(visitor, two_models):
    asked = models_tab.ask_to_delete("first")
    assert "first" in asked["really"].value
    assert asked["asked"] == "first"
    # Another tab was looked at meanwhile: what was selected is selected still, and is where it was deleted no more.
    assert models_tab.refresh("first", visitor)["chosen"].value == "first"
    assert models_tab.refresh("second", visitor)["chosen"].value == "second"
    models_tab.load_model("second", visitor)
    models_tab.delete_model(asked["asked"], visitor)
    assert [info.name for info in LOCAL.list_models()] == ["second"]
    assert models_tab.refresh("first", visitor)["chosen"].value == "second"


# --- several pages of one visitor, and several things asked at once --------------------


@pytest.fixture
def pages(visitor):
    """Two pages of one visitor, which both have arrived."""
    other = gr.Request(session_hash=f"another {visitor.session_hash}", query_params={})
    SESSIONS.arrive(SESSIONS.arrive("", visitor), other)
    assert SESSIONS.of(visitor) is SESSIONS.of(other)
    yield visitor, other
    SESSIONS.close(other)


def row_of(number):
    """A click on the row of a picture, by the number that the table gives it."""
    return SimpleNamespace(row_value=[number])


def test_what_one_page_does_is_never_done_to_what_another_page_shows(pages, two_models, example):
    one, two = pages
    session, bad = SESSIONS.of(one), of(example, True)
    models_tab.load_model("first", one)
    inspect_tab.inspect(bad, 0.7, True, False, one, no_progress)
    inspect_tab.refresh(0.7, True, two)
    inspect_tab.select_row(0.7, True, one, row_of(1))
    marks_tab.defect(one)
    assert [mark.name for mark in session.marks] == [Path(bad[0]).name]
    inspect_tab.select_row(0.7, True, two, row_of(3))
    publish = ("owner/a", "", "mit", "", True, True, "", False)
    for act in (marks_tab.defect, marks_tab.unmark, marks_tab.good, lambda page: hub_tab.push(*publish, page)):
        with pytest.raises(gr.Error, match=f"{Path(bad[2]).name} was chosen since, perhaps on another page"):
            act(one)
    with pytest.raises(gr.Error, match="was chosen since"):
        comparison.compare_models("second", one)
    # What draws the picture says what it is.
    drawn = inspect_tab.redraw(0.5, True, scoring.WHOLE, False, one)
    assert Path(bad[2]).name in drawn["verdict"]
    assert set(inspect_tab.redraw(0.6, True, scoring.WHOLE, False, one)) == {"slider", "bar"}
    marks_tab.defect(one)
    assert [mark.name for mark in session.marks] == [Path(bad[0]).name, Path(bad[2]).name]
    session.unmark([mark.digest for mark in session.marks])

    inspect_tab.inspect(bad[:2], 0.7, True, False, two, no_progress)
    for act in (lambda: inspect_tab.select_row(0.7, True, one, row_of(1)), lambda: inspect_tab.list_only("All", one)):
        with pytest.raises(gr.Error, match="Other pictures were inspected since"):
            act()
    shown = inspect_tab.refresh(0.7, True, one)
    assert len(shown["table"]) == 2
    assert "slider" in shown
    assert {"gallery", "slider"}.isdisjoint(inspect_tab.refresh(0.7, True, one))  # it is there already
    inspect_tab.select_row(0.7, True, one, row_of(1))

    models_tab.load_model("second", two)
    inspect_tab.refresh(0.7, True, two)
    before = session.current
    assert inspect_tab.moved(threshold.BY_RATE, 0.2, 0, 0.7, True, one)["panel_said"]
    assert session.current is before
    inspect_tab.moved(threshold.BY_RATE, 0.2, 0, 0.7, True, one)
    assert session.current.calibration.false_alarm_rate == 0.2


def test_a_threshold_moved_in_evaluate_is_that_of_all_that_inspect_shows(visitor, two_models, example):
    models_tab.load_model("first", visitor)
    inspect_tab.inspect(of(example, True), 0.7, True, False, visitor, no_progress)
    assert "table" not in inspect_tab.refresh(0.7, True, visitor)
    evaluate_tab.refresh(visitor)
    evaluate_tab.moved(threshold.BY_HAND, 0.01, 1e6, visitor)
    shown = inspect_tab.refresh(0.7, True, visitor)
    assert {row[5] for row in shown["table"]} <= {"✓ Good", "? Borderline"}


def test_the_pictures_given_last_are_those_that_are_shown(pages, two_models, example, monkeypatch):
    page, bad, good = pages[0], of(example, True), of(example, False)
    models_tab.load_model("first", page)
    entered, leave = held_up(monkeypatch)
    first = InThread(inspect_tab.inspect, bad, 0.7, True, False, page, no_progress)
    assert entered.wait(60)
    entered.clear()
    second = InThread(inspect_tab.inspect, good[:2], 0.7, True, False, page, no_progress)
    assert entered.wait(60)
    entered.clear()
    third = InThread(inspect_tab.inspect, good[2:3], 0.7, True, True, page, no_progress)  # to those
    assert entered.wait(60)
    leave.set()
    assert (first.result(), second.result()) == ({}, {})
    assert [row["name"] for row in third.result()["rows"]] == [Path(path).name for path in good[:3]]
    assert len(SESSIONS.of(page).inspected.pictures) == 3


def test_a_program_gets_an_answer_to_each_of_its_calls(visitor, two_models, example, monkeypatch):
    bad = of(example, True)
    models_tab.load_model("first", visitor)
    entered, leave = held_up(monkeypatch)
    calls = [InThread(inspect_tab.inspect, bad[:n], 0.7, True, False, visitor, no_progress) for n in (3, 2)]
    assert entered.wait(60)
    leave.set()
    assert [len(call.result()["rows"]) for call in calls] == [3, 2]


def test_a_picture_chosen_while_the_threshold_is_drawn_stays(visitor, two_models, example, monkeypatch):
    models_tab.load_model("first", visitor)
    inspect_tab.inspect(of(example, True), 0.7, True, False, visitor, no_progress)
    inspect_tab.refresh(0.7, True, visitor)
    drawing, drawn, table = threading.Event(), threading.Event(), scoring.table

    def slow(inspection):
        drawing.set()
        assert drawn.wait(60)
        return table(inspection)

    monkeypatch.setattr(scoring, "table", slow)
    moving = InThread(inspect_tab.moved, threshold.BY_RATE, 0.2, 0, 0.7, True, visitor)
    assert drawing.wait(60)
    inspect_tab.select_row(0.7, True, visitor, row_of(5))
    drawn.set()
    answer = moving.result()
    assert "table" in answer
    assert {"slider", "verdict"}.isdisjoint(answer)
    marks_tab.defect(visitor)
    assert [mark.name for mark in SESSIONS.of(visitor).marks] == [Path(of(example, True)[4]).name]


def test_stop_ends_what_was_begun_before_it_of_its_own_kind_and_nothing_later(visitor, two_models, example, gate):
    models_tab.load_model("first", visitor)
    session, good = SESSIONS.of(visitor), [str(path) for path in example.train]
    fits, evaluates = Waiting(), Waiting()
    fit = InThread(fitting.fit, good, "fapm", 0.1, FAPM, 0, "0", visitor, fits)
    assert fits.begun.wait(60)
    evaluating = InThread(evaluate_tab.evaluate, None, of(example, False), of(example, True), None, visitor, evaluates)
    assert evaluates.begun.wait(60)
    stop.stop_beside(visitor)  # of the Evaluate tab
    assert evaluating.result()["figures"] == {"stopped": True}
    gate.set()
    fit.result()
    assert session.current.detector.key == "fapm"
    stop.stop(visitor)  # too late for both
    assert "stopped" not in fitting.fit(good, "fapm", 0.1, FAPM, 0, "0", visitor, no_progress)["report"]
    evaluated = evaluate_tab.evaluate(None, of(example, False), of(example, True), None, visitor, no_progress)
    assert "stopped" not in evaluated["figures"]
    # Before its turn, and before it is known what is to be fitted.
    fitting.begin_fit(visitor)
    stop.stop_fit(visitor)
    assert fitting.fit(good, "fapm", 0.1, FAPM, 0, "0", visitor, no_progress)["report"] == {"stopped": True}


def test_nobody_looks_on_at_a_fit_for_a_page_that_is_closed(pages, two_models, example, gate):
    page = gr.Request(session_hash="a page to be closed", query_params={})
    SESSIONS.arrive(SESSIONS._secrets[pages[0].session_hash], page)
    waiting = Waiting()
    fit = InThread(fitting.fit, [str(p) for p in example.train], "fapm", 0.1, FAPM, 0, "0", page, waiting)
    assert waiting.begun.wait(60)
    SESSIONS.close(page)
    with pytest.raises(gr.Error) as ended:
        fit.result()
    assert not ended.value.visible
    gate.set()
    JOBS.follow(SESSIONS.of(pages[0]).job, no_progress)  # it goes on for the visitor's other pages
    assert SESSIONS.of(pages[0]).current.detector.key == "fapm"


def test_the_card_pressed_last_is_the_model_that_is_chosen(visitor, monkeypatch):
    session = SESSIONS.of(visitor)
    rows = {name: {"reference": f"hf-hub:{name}@{'0' * 40}"} for name in ("owner/a", "owner/b")}
    session.found = rows
    asked, answered = threading.Event(), threading.Event()

    def preview(reference, token):
        if reference.repo_id == "owner/a":
            asked.set()
            assert answered.wait(60)
        raise admodels.HubError("no preview")

    monkeypatch.setattr(hub_tab.HUB, "preview", preview)
    monkeypatch.setattr(text, "hub_model", lambda row: row["reference"])
    first = InThread(hub_tab.choose, visitor, SimpleNamespace(model="owner/a"))
    assert asked.wait(60)
    assert hub_tab.choose(visitor, SimpleNamespace(model="owner/b"))["chosen"] == "owner/b"
    answered.set()
    assert first.result() == {}

"""Learning from mistakes, and drift, through `gradio_client`."""

import hashlib
import json
import zipfile

import pytest
from gradio_client import handle_file
from PIL import Image, ImageEnhance

import admodels
from tests.conftest import client_of
from tests.demo.test_app_api import evaluate, fit, inspect


def files(paths):
    return [handle_file(str(path)) for path in paths]


def found(client, paths):
    """What Inspect says of pictures together."""
    return client.predict(files(paths), 0.7, True, api_name="/inspect")[0]


@pytest.fixture
def good(example):
    return [item.path for item in example.test if not item.is_defective]


def test_another_light_is_said_and_defects_and_good_pictures_are_not(client, example, good, tmp_path):
    with pytest.raises(Exception, match="no model yet"):
        client.predict([], api_name="/drift")
    fit(client, example.train)
    with pytest.raises(Exception, match="no pictures to look at"):
        client.predict([], api_name="/drift")
    brighter = [tmp_path / path.name for path in good]
    for path, changed in zip(good, brighter, strict=True):
        ImageEnhance.Brightness(Image.open(path).convert("RGB")).enhance(1.3).save(changed)
    said = client.predict(files(brighter), api_name="/drift")
    assert said["is_drift"]
    assert said["n"] == len(good)
    assert min(said["score_exceeds"], said["background_exceeds"]) > 0.6
    assert said["statement"] in found(client, brighter)
    again = client.predict([], api_name="/drift")
    assert again.pop("statement") == said.pop("statement")
    assert again == pytest.approx(said, rel=1e-3)
    defective = [item.path for item in example.test if item.is_defective]
    for others in (good, defective, [*good, *defective[:4]]):
        assert "As a group" not in found(client, others)
        assert not client.predict([], api_name="/drift")["is_drift"]
    with pytest.raises(Exception, match="7 pictures received; at least 8"):
        client.predict(files(good[:7]), api_name="/drift")


def test_good_pictures_are_learned_from_and_the_model_is_a_new_one_not_saved(client, example, good):
    _, _, report = fit(client, example.train)
    with pytest.raises(Exception, match="no pictures selected"):
        client.predict([], api_name="/update")
    with pytest.raises(Exception, match=r"learned from .* already"):
        client.predict(files(example.train[:1]), api_name="/update")
    client.predict("before-marks", True, api_name="/save_model")
    score = inspect(client, good[:1])[0]["score"]
    said = client.predict(files(good[:1]), api_name="/update")
    assert said["model"] == "before-marks, 1 added, not saved yet"
    assert (said["n_added"], said["n_learned"], said["n_held_out"]) == (1, 25, 25)
    assert said["threshold_before"] == report["threshold"]
    # With so few pictures the threshold is the largest score kept aside, that of this picture before it was learned.
    assert said["threshold"] == pytest.approx(max(report["threshold"], score), rel=2e-4)
    assert client.predict(files(good[1:]), api_name="/update")["n_learned"] == 36
    assert client.predict(files(good[:1]), api_name="/score")[0]["score"] < score
    saved = admodels.load("before-marks", device="cpu")  # what is saved stays what it was
    assert saved.fit_report_.n_learned == 24
    assert saved.calibration_.threshold == report["threshold"]
    admodels.delete("before-marks")


def test_trained_models_say_what_to_do_instead(client, example, good):
    options = '{"image_size": 64, "max_steps": 2}'
    client.predict(files(example.train[:8]), "efficientad", 0.1, options, 0, "0", api_name="/fit")
    with pytest.raises(Exception, match="Train it again, with these pictures among the good ones"):
        client.predict(files(good[:4]), api_name="/update")


def test_marked_defects_are_checked_counted_and_forgotten(client, example, good):
    defective = [item.path for item in example.test if item.is_defective]
    with pytest.raises(Exception, match="no model yet"):
        client.predict(files(defective[:1]), api_name="/mark_defects")
    fit(client, example.train)
    expected = {row["name"]: row for row in inspect(client, defective)}
    client.predict(files(defective[:2]), api_name="/mark_defects")
    rows = client.predict(files(defective[1:3]), api_name="/mark_defects")  # one of them once more
    assert [row["name"] for row in rows] == [path.name for path in defective[:3]]
    for row in rows:
        assert row["score"] == pytest.approx(expected[row["name"]]["score"], rel=1e-5)
        assert row["is_found"] == expected[row["name"]]["is_anomalous"]
    # A threshold above all of them: missed, and the rate that is named finds them.
    highest = max(row["score"] for row in rows)
    client.predict("by hand", 0.01, 2 * highest, api_name="/set_threshold")
    missed = client.predict([], api_name="/mark_defects")
    assert not any(row["is_found"] for row in missed)
    for row in missed:
        at = client.predict("by false-alarm rate", row["found_at"], 0, api_name="/set_threshold")
        assert at["threshold"] < row["score"]
        if row["found_at"] > 0.001:
            at = client.predict("by false-alarm rate", row["found_at"] - 0.001, 0, api_name="/set_threshold")
            assert at["threshold"] >= row["score"]

    with_marked = evaluate(client, good=good[:4], defective=defective[:1])
    assert with_marked["n_test"] == 4 + 1 + 2  # the marked one that was given too counts once
    assert "And 2 pictures marked as defective in Inspect." in with_marked["notes"]
    fit(client, good, options='{"image_size": 64, "n_components": 8}')  # another model is checked against them too
    again = client.predict([], api_name="/mark_defects")
    assert [row["name"] for row in again] == [row["name"] for row in rows]
    assert [row["score"] for row in again] != pytest.approx([row["score"] for row in rows], rel=1e-3)
    assert client.predict(api_name="/unmark_defects") == {"n_unmarked": 3}
    assert client.predict([], api_name="/mark_defects") == []
    assert evaluate(client, good=good[:4], defective=defective[:1])["n_test"] == 5


def test_marked_defects_are_kept_with_a_saved_model(app, client, example, good):
    """With their pictures on this machine, as digests and scores in a zip; another visit finds them."""
    defective = [item.path for item in example.test if item.is_defective]
    fit(client, example.train)
    rows = client.predict(files(defective[:3]), api_name="/mark_defects")
    client.predict("with-marks", True, api_name="/save_model")
    archive = client.predict("with-marks", api_name="/download_model")
    with zipfile.ZipFile(archive) as opened:
        assert sorted(opened.namelist()) == ["config.json", "model.safetensors"]
        said = json.loads(opened.read("config.json"))["known_defects"]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in defective[:3]]
    assert said == [{"sha256": d, "score": row["score"]} for d, row in zip(digests, rows, strict=True)]

    other = client_of(app)
    other.predict("with-marks", api_name="/load_model")
    assert other.predict([], api_name="/mark_defects") == rows
    assert evaluate(other, good=good[:4], defective=defective[:1])["n_test"] == 4 + 1 + 2
    other.predict("with-marks", api_name="/load_model")  # once more, they are not marked twice
    assert len(other.predict([], api_name="/mark_defects")) == 3

    third = client_of(app)
    third.predict(handle_file(archive), "from-zip", api_name="/upload_model")
    third.predict("from-zip", api_name="/load_model")
    told = third.predict([], api_name="/mark_defects")
    assert [row["score"] for row in told] == [row["score"] for row in rows]
    assert [row["name"] for row in told] == [f"a picture marked earlier ({d['sha256'][:8]})" for d in said]
    assert evaluate(third, good=good[:4], defective=defective[:1])["n_test"] == 5  # there is no picture to count
    fit(third, good, options='{"image_size": 64, "n_components": 8}')
    assert third.predict([], api_name="/mark_defects") == []  # nobody knows what this model says of them
    third.predict("from-zip", api_name="/load_model")
    assert third.predict([], api_name="/mark_defects") == told
    third.predict("from-zip", True, api_name="/save_model")
    assert third.predict([], api_name="/mark_defects") == told
    third.predict("with-marks", api_name="/load_model")  # has the pictures too
    assert third.predict([], api_name="/mark_defects") == rows

    # What is taken off before a save is not kept.
    other.predict(api_name="/unmark_defects")
    other.predict("with-marks", True, api_name="/save_model")
    assert not admodels.LOCAL.known_defects("with-marks")
    assert not (admodels.LOCAL.root / "with-marks" / "known_defects").exists()
    for name in ("with-marks", "from-zip"):
        admodels.delete(name)

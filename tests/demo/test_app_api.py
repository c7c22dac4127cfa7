"""The app through `gradio_client`, as another program uses it."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from gradio_client import handle_file

import admodels
from admodels import LOCAL
from admodels.deploy.onnx_file import read
from admodels.deploy.runtimes import check_probe, runtimes_here
from tests.conftest import SMALL, client_of

OPTIONS = json.dumps({"image_size": 64, "n_components": 4})


def fit(client, paths, options=OPTIONS, folds="auto"):
    files = [handle_file(str(p)) for p in paths]
    return client.predict(files, "padim_isvd", 0.01, options, 0, folds, api_name="/fit")


def inspect(client, paths):
    return client.predict([handle_file(str(p)) for p in paths], 0.7, True, api_name="/inspect")[-1]


def test_the_named_endpoints_are_there(client):
    endpoints = set(client.view_api(return_format="dict")["named_endpoints"])
    assert endpoints >= {"/fit", "/inspect", "/save_model", "/load_model", "/list_models", "/delete_model"}


def test_the_api_page_says_what_every_value_is(client):
    for name, endpoint in client.view_api(return_format="dict")["named_endpoints"].items():
        for value in endpoint["parameters"]:
            assert not value["label"].startswith("parameter_"), name
            assert value["python_type"]["description"], f"{name}: {value['parameter_name']}"
        for value in endpoint["returns"]:
            # Gradio tells of no buttons; what has no label of its own is called by its kind.
            assert not value["label"].startswith("value_"), name
            assert value["label"] not in ("button", "json", "html") or value["label"] == value["component"].lower(), (
                name
            )


def test_fit_inspect_save_load_delete(client, app, specks):
    summary, _, report = fit(client, specks.train)
    assert (report["n_learned"], report["n_held_out"], report["n_folds"]) == (24, 24, 5)
    assert "4.0%" in report["statement"]
    assert "PaDiM-iSVD" in summary
    rows = inspect(client, [item.path for item in specks.test])
    assert [r["name"] for r in rows] == [item.path.name for item in specks.test]
    assert all(r["is_anomalous"] == (r["score"] > report["threshold"]) for r in rows)
    client.predict("api-model", False, api_name="/save_model")
    assert "api-model" in [m["name"] for m in client.predict(api_name="/list_models")]

    other = client_of(app)
    other.predict("api-model", api_name="/load_model")
    again = inspect(other, [item.path for item in specks.test])
    assert [r["score"] for r in again] == [r["score"] for r in rows]
    # A fresh load, as after a restart of the app, gives the very same scores.
    detector = admodels.load("api-model", device="cpu")
    for item, row in zip(specks.test, detector.predict_batch([i.path for i in specks.test]), strict=True):
        assert row.score == next(r["score"] for r in rows if r["name"] == item.path.name)

    other.predict("api-model", api_name="/delete_model")
    assert "api-model" not in [m.name for m in LOCAL.list_models()]
    with pytest.raises(Exception, match="no model named"):
        other.predict("api-model", api_name="/load_model")


def test_speed_is_measured_with_its_conditions(client, specks):
    with pytest.raises(Exception, match="no model yet"):
        client.predict(api_name="/measure_speed")
    fit(client, specks.train[:8])
    with pytest.raises(Exception, match="Inspect one first"):
        client.predict(api_name="/measure_speed")
    inspect(client, [specks.test[0].path])
    shown, figures = client.predict(api_name="/measure_speed")
    assert [row["batch_size"] for row in figures] == [1, 8]
    assert figures[0]["conditions"].replace("batch 1", "batch 1 and 8") in shown
    assert "batch 1" in figures[0]["conditions"]
    assert all(row["network"]["p50"] <= row["network"]["p95"] for row in figures)


@pytest.mark.parametrize("method", sorted(admodels.DETECTORS))
def test_every_method_fits_and_inspects(client, specks, method):
    files = [handle_file(str(p)) for p in specks.train]
    summary, _, report = client.predict(files, method, 0.01, json.dumps(SMALL[method]), 0, api_name="/fit")
    assert admodels.DETECTORS[method].title in summary
    assert report["method"] == method
    rows = inspect(client, [item.path for item in specks.test])
    assert len(rows) == len(specks.test)
    assert all(0 < row["p_value"] <= 1 for row in rows)


def test_one_split_can_be_asked_for(client, specks):
    report = fit(client, specks.train, folds="0")[2]
    assert (report["n_learned"], report["n_held_out"], report["n_folds"]) == (24, 5, 0)


def test_one_visitors_model_is_not_anothers(client, app, specks):
    fit(client, specks.train[:8])
    with pytest.raises(Exception, match="no model yet"):
        inspect(client_of(app), [specks.test[0].path])


def test_a_zip_is_taken(client, specks, tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "parts.zip", "w") as archive:
        for path in specks.train:
            archive.write(path, f"parts/{path.name}")
    assert fit(client, [tmp_path / "parts.zip"])[2]["n_learned"] == 24
    assert len(inspect(client, [tmp_path / "parts.zip"])) == 24


def test_what_is_wrong_is_said(client, specks, tmp_path):
    with pytest.raises(Exception, match="at least 4 are needed"):
        fit(client, specks.train[:2])
    with pytest.raises(Exception, match="Did you mean 'n_components'"):
        fit(client, specks.train, '{"n_component": 3}')
    with pytest.raises(Exception, match="a number of folds such as 5"):
        fit(client, specks.train, folds="many")
    given = [handle_file(str(p)) for p in specks.train]
    for option in ("teacher", "penalty_images"):
        with pytest.raises(Exception, match="for security: other values reach the server's files"):
            client.predict(given, "efficientad", 0.01, json.dumps({option: "/etc"}), 0, "auto", api_name="/fit")
    for options in ({"weights": "/etc/hostname"}, {"backbone": "resnet50"}):
        with pytest.raises(Exception, match="for security: other values reach the server's files") as caught:
            fit(client, specks.train, json.dumps(options))
        assert "sha256" not in str(caught.value)
    for options in (
        {"method": "efficientad", "member.teacher": "/etc"},
        {"method": "padim", "member": {"weights": "/etc/hostname"}},
        {"engine": "ray"},
    ):
        with pytest.raises(Exception, match="for security: other values reach the server's files"):
            client.predict(given, "tiled", 0.01, json.dumps(options), 0, "auto", api_name="/fit")
    with pytest.raises(Exception, match="not valid JSON"):
        fit(client, specks.train, "{")
    with pytest.raises(Exception, match="no model to save"):
        client.predict("x", False, api_name="/save_model")
    fit(client, specks.train[:8])
    with pytest.raises(Exception, match="not a name"):
        client.predict("../x", False, api_name="/save_model")
    (tmp_path / "broken.png").write_bytes(specks.train[0].read_bytes()[:900])
    with pytest.raises(Exception, match=r"broken\.png"):
        inspect(client, [specks.test[0].path, tmp_path / "broken.png"])


def test_unreadable_uploads_are_left_out_of_a_fit(client, specks, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"text")
    report = fit(client, [*specks.train[:10], tmp_path / "broken.png"])[2]
    assert report["n_learned"] == report["n_held_out"] == 10


def files(paths):
    return [handle_file(str(path)) for path in paths]


def evaluate(client, archive=None, good=(), defective=(), masks=()):
    archive = handle_file(str(archive)) if archive else None
    return client.predict(archive, files(good), files(defective), files(masks), api_name="/evaluate")[-1]


def test_a_model_is_evaluated_on_labelled_pictures(client, example, small_data, tmp_path):
    with pytest.raises(Exception, match="no model yet"):
        evaluate(client, defective=[example.test[-1].path])
    fit(client, example.train)
    good = [item.path for item in example.test if not item.is_defective]
    bad = [item for item in example.test if item.is_defective]
    found = evaluate(client, None, good, [i.path for i in bad], [i.masks[0] for i in bad])
    assert (found["n_test"], found["notes"]) == (20, [])
    assert found["image_auroc_ci"][0] <= found["image_auroc"] <= found["image_auroc_ci"][1]
    assert found["aupro"] is not None
    rows = inspect(client, [i.path for i in bad])
    assert [p["score"] for p in found["pictures"] if p["kind"] != "good"] == pytest.approx(
        [row["score"] for row in rows], rel=1e-5
    )
    assert found["robustness"][0]["change"].startswith("JPEG")

    page = Path(client.predict("html", api_name="/evaluation_report")).read_text(encoding="utf-8")
    assert "Worst mistakes" in page
    # Each rate's counts are of the pictures above the threshold that the app sets for that rate.
    assert [row["rate"] for row in found["at_rates"]] == [0.01, 0.04, 0.05, 0.1]
    assert found["at_rates"][0]["n_found"] is None
    for row in found["at_rates"][1:]:
        threshold = client.predict("by false-alarm rate", row["rate"], 0, api_name="/set_threshold")["threshold"]
        above = [p["kind"] for p in found["pictures"] if p["score"] > threshold]
        assert row["n_false_alarms"] == above.count("good")
        assert row["n_found"] == len(above) - above.count("good")
        assert f"{row['n_found']} of 8: " in page
    client.predict("by false-alarm rate", 0.01, 0, api_name="/set_threshold")
    again = json.loads(Path(client.predict("json", api_name="/evaluation_report")).read_text(encoding="utf-8"))
    assert again["pictures"] == found["pictures"]

    shutil.make_archive(tmp_path / "paper", "zip", small_data)
    zipped = evaluate(client, tmp_path / "paper.zip")
    assert zipped["n_test"] == 16
    assert "8 of these pictures were used for the fit" in zipped["notes"][0]


def test_what_cannot_be_evaluated_is_said(client, example, tmp_path):
    fit(client, example.train[:8])
    with pytest.raises(Exception, match="no labelled pictures selected"):
        evaluate(client)
    with pytest.raises(Exception, match="no evaluation yet"):
        client.predict("html", api_name="/evaluation_report")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(Exception, match=r"broken\.png"):
        evaluate(client, good=[example.test[0].path, tmp_path / "broken.png"])
    with pytest.raises(Exception, match="belongs to no defective"):
        evaluate(client, good=[example.test[0].path], masks=[example.test[-1].masks[0]])
    only = evaluate(client, good=[item.path for item in example.test if not item.is_defective])
    assert only["image_auroc"] is None
    assert "No defective pictures given" in only["notes"][0]


def test_the_threshold_moves_without_a_fit_and_is_saved(client, app, specks):
    report = fit(client, specks.train)[2]
    rows = inspect(client, [specks.test[0].path])
    limit = rows[0]["score"] + 1
    moved = client.predict("by hand", 0.01, limit, api_name="/set_threshold")
    assert (moved["threshold"], moved["hand_threshold"]) == (limit, limit)
    assert "0 of 24" in moved["statement"]
    assert not inspect(client, [specks.test[0].path])[0]["is_anomalous"]
    client.predict("moved", False, api_name="/save_model")
    back = client.predict("by false-alarm rate", 0.01, 0, api_name="/set_threshold")
    assert back["threshold"] == report["threshold"]
    with pytest.raises(Exception, match="greater than maximum"):
        client.predict("by false-alarm rate", 3, 0, api_name="/set_threshold")

    other = client_of(app)
    other.predict("moved", api_name="/load_model")
    assert not inspect(other, [specks.test[0].path])[0]["is_anomalous"]
    # Moved by one visitor, the shared model stays as it was saved for the next.
    other.predict("by hand", 0.01, -1e6, api_name="/set_threshold")
    third = client_of(app)
    third.predict("moved", api_name="/load_model")
    assert inspect(third, [specks.test[0].path])[0]["threshold"] == limit
    with pytest.raises(Exception, match="exists already"):
        other.predict("moved", False, api_name="/save_model")
    other.predict("moved", True, api_name="/save_model")
    assert admodels.load("moved", device="cpu").calibration_.threshold == -1e6
    LOCAL.delete("moved")


def test_two_models_are_compared_on_one_picture(client, specks):
    fit(client, specks.train)
    with pytest.raises(Exception, match="Inspect one first"):
        client.predict("other", api_name="/compare_models")
    client.predict("other", False, api_name="/save_model")
    fit(client, specks.train[:12])
    mine = inspect(client, [specks.test[0].path])[0]
    _, first, second, bar, rows = client.predict("other", api_name="/compare_models")
    assert rows[0]["score"] == mine["score"]
    expected = admodels.load("other", device="cpu").predict(specks.test[0].path)
    assert (rows[1]["model"], rows[1]["score"]) == ("other", pytest.approx(expected.score, rel=1e-6))
    assert "p = 1" in bar
    assert first["value"] != second["value"]
    with pytest.raises(Exception, match="no model named"):
        client.predict("nowhere", api_name="/compare_models")
    LOCAL.delete("other")


def test_an_ensemble_is_compared_with_the_single_model(client, specks):
    fit(client, specks.train)
    inspect(client, [specks.test[0].path])
    with pytest.raises(Exception, match="the current model is a single model"):
        client.predict(api_name="/compare_with_single")
    given = [handle_file(str(p)) for p in specks.train]
    client.predict(given, "tiled", 0.01, json.dumps(SMALL["tiled"]), 0, "auto", api_name="/fit")
    inspect(client, [specks.test[0].path])
    rows = client.predict(api_name="/compare_with_single")[-1]
    single = {**SMALL["tiled"]["member"], "image_size": SMALL["tiled"]["image_size"]}
    expected = admodels.create("padim_isvd", device="cpu", **single).fit(specks.train).predict(specks.test[0].path)
    assert rows[1]["score"] == pytest.approx(expected.score, rel=1e-4)
    assert rows[1]["threshold"] == pytest.approx(expected.threshold, rel=1e-4)
    assert all(row["milliseconds"] > 0 and row["model_mib"] > 0 for row in rows)
    client.predict(
        [handle_file(str(p)) for p in specks.train[:8]],
        "tiled",
        0.01,
        json.dumps(SMALL["tiled"]),
        0,
        "0",
        api_name="/fit",
    )
    with pytest.raises(Exception, match="Inspect one first"):
        client.predict(api_name="/compare_with_single")


def test_a_saved_model_leaves_as_onnx_and_as_a_page(client, isvd, monkeypatch):
    admodels.save(isvd, "leaving", overwrite=True)
    path = Path(client.predict("leaving", api_name="/export_onnx"))
    file = read(path)
    assert path.name == "leaving.onnx"
    assert file.metadata["source"] == "local:leaving"
    assert all(check.is_close for check in check_probe(file, runtimes_here(path)))
    monkeypatch.setattr("admodels.deploy.page.shutil.which", lambda name: None)  # as on a Space
    with zipfile.ZipFile(client.predict("leaving", api_name="/export_page")) as archive:
        names = set(archive.namelist())
        assert {"leaving/index.html", "leaving/model.onnx"} <= names
        assert archive.read("leaving/model.onnx")[:100] == path.read_bytes()[:100]
    with pytest.raises(Exception, match="there is no model"):
        client.predict("nowhere", api_name="/export_onnx")

"""The app through `gradio_client`, as another program uses it."""

import json

import pytest
from gradio_client import Client, handle_file

import admodels
from admodels import store

from .conftest import SMALL

OPTIONS = json.dumps({"image_size": 64, "n_components": 4})


@pytest.fixture
def client(app):
    return Client(app, verbose=False)


def fit(client, paths, options=OPTIONS, folds="auto"):
    files = [handle_file(str(p)) for p in paths]
    return client.predict(files, "padim_isvd", 0.01, options, 0, folds, api_name="/fit")


def inspect(client, paths):
    return client.predict([handle_file(str(p)) for p in paths], 0.7, True, api_name="/inspect")[-1]


def test_the_named_endpoints_are_there(client):
    endpoints = set(client.view_api(return_format="dict")["named_endpoints"])
    assert endpoints >= {"/fit", "/inspect", "/save_model", "/load_model", "/list_models", "/delete_model"}


def test_fit_inspect_save_load_delete(client, app, specks):
    summary, _, report = fit(client, specks.train)
    assert (report["n_learned"], report["n_held_out"], report["n_folds"]) == (24, 24, 5)
    assert "4.0%" in report["statement"]
    assert "PaDiM-iSVD" in summary
    rows = inspect(client, [item.path for item in specks.test])
    assert [r["name"] for r in rows] == [item.path.name for item in specks.test]
    assert all(r["is_anomalous"] == (r["score"] > report["threshold"]) for r in rows)
    client.predict("api-model", api_name="/save_model")
    assert "api-model" in [m["name"] for m in client.predict(api_name="/list_models")]

    other = Client(app, verbose=False)
    other.predict("api-model", api_name="/load_model")
    again = inspect(other, [item.path for item in specks.test])
    assert [r["score"] for r in again] == [r["score"] for r in rows]
    # A fresh load, as after a restart of the app, gives the very same scores.
    detector = admodels.load("api-model", device="cpu")
    for item, row in zip(specks.test, detector.predict_batch([i.path for i in specks.test]), strict=True):
        assert row.score == next(r["score"] for r in rows if r["name"] == item.path.name)

    other.predict("api-model", api_name="/delete_model")
    assert "api-model" not in [m.name for m in store.list_models()]
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
    assert figures["conditions"] in shown
    assert "batch 1" in figures["conditions"]
    assert figures["network"]["p50"] <= figures["network"]["p95"]


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
    assert (report["n_learned"], report["n_held_out"], report["n_folds"]) == (19, 5, 0)


def test_one_visitors_model_is_not_anothers(client, app, specks):
    fit(client, specks.train[:8])
    with pytest.raises(Exception, match="no model yet"):
        inspect(Client(app, verbose=False), [specks.test[0].path])


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
    with pytest.raises(Exception, match="not valid JSON"):
        fit(client, specks.train, "{")
    with pytest.raises(Exception, match="no model to save"):
        client.predict("x", api_name="/save_model")
    fit(client, specks.train[:8])
    with pytest.raises(Exception, match="not a name"):
        client.predict("../x", api_name="/save_model")
    (tmp_path / "broken.png").write_bytes(specks.train[0].read_bytes()[:900])
    with pytest.raises(Exception, match=r"broken\.png"):
        inspect(client, [specks.test[0].path, tmp_path / "broken.png"])


def test_unreadable_uploads_are_left_out_of_a_fit(client, specks, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"text")
    report = fit(client, [*specks.train[:10], tmp_path / "broken.png"])[2]
    assert report["n_learned"] == report["n_held_out"] == 10

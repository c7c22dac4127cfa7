"""The commands that take a model out of this program: export, verify, compare-runtimes, page."""

import json
import shutil

import pytest

import admodels
from admodels.deploy import comparison
from admodels.deploy.onnx_file import read
from tests import HUB


@pytest.fixture
def saved(isvd):
    admodels.save(isvd, "line", overwrite=True)
    return "local:line"


def test_export_and_verify(run, saved, tmp_path):
    path = tmp_path / "new" / "line.onnx"
    said = run("export", saved, path, "--licence", "mit", "--data-terms", "ours")
    assert "Its stored picture scores" in said
    metadata = read(path).metadata
    assert metadata["source"] == "local:line"
    assert json.loads(metadata["licences"])["data"] == "ours"
    said = run("verify", path)
    assert "ONNX Runtime" in said
    assert "OpenVINO" in said
    assert "yes" in said
    assert "│ NO" not in said


def test_verify_knows_a_file_whatever_its_name(run, saved, tmp_path):
    path = tmp_path / "line.model"
    run("export", saved, path)
    assert "yes" in run("verify", path)
    assert "scored on the CPU" in run("verify", path, "--device", "cpu", fails=True)
    assert "is no file" in run("verify", "owner/name", "--assets", tmp_path, fails=True)


def test_verify_fails_where_a_runtime_differs(run, saved, tmp_path, monkeypatch):
    path = tmp_path / "line.onnx"
    run("export", saved, path)
    monkeypatch.setattr("admodels.deploy.runtimes.TOLERANCES", {"float32": -1.0})
    run("verify", path, fails=True)


def test_int8_asks_for_good_pictures(run, saved, tmp_path, small_data):
    said = run("export", saved, tmp_path / "line.onnx", "--precision", "int8", fails=True)
    assert "at least 10 good pictures" in said
    assert "0 came" in said


def test_what_cannot_be_exported_is_said(run, saved, tmp_path):
    assert "there is no model" in run("export", "local:nothing", tmp_path / "a.onnx", fails=True)
    assert "which is a folder" in run("export", saved, tmp_path, fails=True)
    assert "does not exist" in run("verify", tmp_path / "a.onnx", fails=True)


def test_a_model_of_the_hub_is_exported_with_its_commit(run, isvd, tmp_path):
    HUB.repos.clear()
    done = admodels.push(isvd, "owner/out", private=False, token="hf_owner")
    run("export", "hf-hub:owner/out", tmp_path / "out.onnx")
    assert read(tmp_path / "out.onnx").metadata["source"] == str(done.reference)


def test_compare_runtimes_prints_and_writes_every_difference(run, saved, tmp_path, monkeypatch, small_data):
    kinds = comparison.pictures_of_all_kinds((300, 400))
    monkeypatch.setattr("admodels.cli.deploy.pictures_of_all_kinds", lambda: kinds)
    found = tmp_path / "found.json"
    good, speck = (small_data / "test" / part for part in ("good", "speck"))
    shutil.copy(next(good.iterdir()), tmp_path / next(speck.iterdir()).name)  # a name that is there twice
    said = run("compare-runtimes", saved, "--data", speck, "--data", next(tmp_path.glob("*.png")), "--json", found)
    rows = json.loads(found.read_text(encoding="utf-8"))
    n_pictures = len(kinds) + len(list(speck.iterdir())) + 1
    assert sum(".png" in line for line in said.splitlines()) == n_pictures - len(kinds)
    assert len(rows) == 2 * n_pictures
    assert f"{len(rows)} of {len(rows)} scores equal" in said
    monkeypatch.setattr(comparison, "TOLERANCES", {"float32": -1.0})
    run("compare-runtimes", saved, fails=True)


def test_a_page_is_written_and_pushed(run, saved, tmp_path, monkeypatch):
    HUB.repos.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    site = tmp_path / "site"
    said = run("page", saved, "--out", site, "--cdn", "--push", "owner/look", "--licence", "mit")
    assert "spaces/owner/look" in said
    listing = HUB.repos["spaces/owner/look"].commits[-1][1]
    assert {"index.html", "model.onnx", "model.json", "service-worker.js", "README.md"} <= set(listing)
    assert b'sdk: "static"' in HUB.file("spaces/owner/look", "README.md")


def test_a_folder_of_something_else_is_not_made_a_page(run, saved, tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    run("page", saved, "--out", tmp_path, "--cdn", fails=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

import json
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import admodels
from admodels import store


@pytest.fixture
def saved(isvd, tmp_path, monkeypatch):
    """A model in a models' folder of its own; yields its folder."""
    monkeypatch.setenv("ADMODELS_HOME", str(tmp_path))
    return store.save(isvd, "bolts")


def edit(folder, change):
    path = folder / store.CONFIG_FILE
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_a_model_is_two_files_without_pickle(saved):
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((saved / "config.json").read_text())
    assert config["format_version"] == 1
    assert len(config["calibration"]["scores"]) == 24
    assert set(config["versions"]) >= {"torch", "numpy"}


def test_saving_over_a_model_needs_to_be_asked_for(saved, isvd):
    with pytest.raises(admodels.StoreError, match="exists already"):
        store.save(isvd, "bolts")
    store.save(isvd, "local:bolts", overwrite=True)
    assert [p.name for p in saved.parent.iterdir()] == ["bolts"]


def test_a_failed_save_leaves_the_old_model_and_no_debris(saved, isvd, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(store, "save_file", fail)
    with pytest.raises(admodels.StoreError, match="no space left"):
        store.save(isvd, "bolts", overwrite=True)
    assert [p.name for p in saved.parent.iterdir()] == ["bolts"]
    assert admodels.load("bolts").calibration_ == isvd.calibration_


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "../x", "a/b", "a\\b", "/etc", "a..", ".hidden", "con", "NUL.txt", "x" * 65, "a\nb", "é"],
)
def test_names_that_could_build_a_path_are_refused(name, isvd):
    for action in (lambda: store.save(isvd, name), lambda: store.load(name), lambda: store.delete(name)):
        with pytest.raises(admodels.StoreError, match="not a name"):
            action()


@given(st.one_of(st.text(max_size=70), st.from_regex(store.NAME_PATTERN, fullmatch=True)))
def test_no_name_leaves_the_models_folder(name):
    try:
        folder = store.LOCAL._folder(name)
    except admodels.StoreError as error:
        folder, refused = None, str(error)
    if folder is None:
        assert "not a name" in refused
    else:
        assert folder.parent == store.models_folder()
        assert folder.resolve().parent == store.models_folder().resolve()


def test_list_rename_delete(saved, isvd):
    store.save(isvd, "nuts")
    assert [m.name for m in store.list_models()] == ["bolts", "nuts"]
    assert store.list_models()[0].n_learned == 24
    with pytest.raises(admodels.StoreError, match="exists already"):
        store.rename("nuts", "bolts")
    store.rename("nuts", "screws")
    store.delete("local:bolts")
    assert [m.reference for m in store.list_models()] == ["local:screws"]
    with pytest.raises(admodels.StoreError, match="Saved models: screws"):
        store.load("bolts")


def test_a_zip_goes_out_and_comes_in_unchanged(saved, isvd, specks, tmp_path):
    archive = store.export_zip("bolts", tmp_path)
    store.import_zip(archive, "copy")
    assert admodels.load("copy", device="cpu").predict(specks.test[0].path).score == (
        isvd.predict(specks.test[0].path).score
    )


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"config.json": b"{}"},
        {"config.json": b"{}", "model.safetensors": b"x", "evil.pkl": b"x"},
        {"../config.json": b"{}", "model.safetensors": b"x"},
        {"config.json": b"{}", "model.safetensors": b"x"},
        {"config.json": b"{}", "model.safetensors": bytes(5_000_000)},
    ],
)
def test_wrong_zips_are_refused_and_leave_nothing(members, tmp_path, monkeypatch):
    monkeypatch.setenv("ADMODELS_HOME", str(tmp_path / "home"))
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(admodels.StoreError):
        store.import_zip(tmp_path / "m.zip", "evil")
    assert store.list_models() == []
    assert list(store.models_folder().iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(format_version=99), "version 99"),
        (lambda c: c.update(method="os.system"), "os.system"),
        (lambda c: c["options"].update(n_componets=3), "n_componets"),
        (lambda c: c["options"].update(image_size="../.."), "image_size"),
        (lambda c: c.update(working_shape={"resized": [64, 64], "cropped": [10**9, 64]}), "working_shape.cropped"),
        (lambda c: c["working_shape"].update(cropped=[32, 32]), "expected|asks for"),
        (lambda c: c["calibration"].update(scores=[]), "calibration.scores"),
        (lambda c: c["calibration"].update(scores=[float("nan")] * 5), "finite"),
        (lambda c: c["calibration"].update(scores=c["calibration"]["scores"][::-1]), "ascending"),
        (lambda c: c["calibration"].update(threshold=0.0), "calibration.threshold"),
        (lambda c: c["calibration"].update(false_alarm_rate=2), "false_alarm_rate"),
        (lambda c: c["fit"].pop("seconds"), "seconds"),
        (lambda c: c.pop("calibration"), "calibration"),
        (lambda c: c["options"].update(n_components=5), "asks for"),
    ],
)
def test_every_wrong_field_is_named(saved, change, said):
    edit(saved, change)
    with pytest.raises(admodels.StoreError, match=said):
        admodels.load("bolts")


def test_wrong_tensors_are_refused(saved):
    path = saved / store.TENSOR_FILE
    good = load_file(path)
    for wrong, said in (
        ({k: v for k, v in good.items() if k != "mean"}, "expected"),
        (good | {"extra": torch.zeros(1)}, "extra"),
        (good | {"mean": good["mean"].double()}, "F64"),
        (good | {"mean": good["mean"][:-1].contiguous()}, "asks for"),
        (good | {"mean": torch.full_like(good["mean"], float("nan"))}, "not finite"),
    ):
        save_file(wrong, path)
        with pytest.raises(admodels.StoreError, match=said):
            admodels.load("bolts")
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(admodels.StoreError, match="cannot be read"):
        admodels.load("bolts")


def test_a_broken_model_does_not_hide_the_others(saved, isvd):
    store.save(isvd, "nuts")
    (saved / store.CONFIG_FILE).write_text("{")
    assert [m.name for m in store.list_models()] == ["nuts"]


def test_a_threshold_set_by_hand_is_kept(isvd):
    moved = isvd.with_threshold(threshold=123.25)
    store.save(moved, "by-hand")
    loaded = admodels.load("by-hand", device="cpu")
    assert loaded.calibration_ == moved.calibration_
    assert loaded.calibration_.threshold == 123.25
    assert "Set by hand" in loaded.calibration_.statement
    assert loaded.calibration_.scores == isvd.calibration_.scores


def test_models_saved_before_there_were_tails_can_be_read(saved, isvd):
    path = saved / store.CONFIG_FILE
    config = json.loads(path.read_text())
    for key in ("pixel_tail", "n_pixels", "hand_threshold"):
        del config["calibration"][key]
    path.write_text(json.dumps(config))
    assert admodels.load("bolts", device="cpu").calibration_.threshold == isvd.calibration_.threshold
    config["calibration"]["pixel_tail"] = [2.0, 1.0]
    path.write_text(json.dumps(config))
    with pytest.raises(admodels.StoreError, match="pixel_tail"):
        admodels.load("bolts")

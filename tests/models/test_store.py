import errno
import json
import tempfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import admodels
from admodels import DETECTORS, LOCAL
from admodels.core.drift import drift_of
from admodels.models import KnownDefect, Store, read_folder, replacing, store, write_folder
from admodels.models.format import CONFIG_FILE, PRODUCT_TENSOR, TENSOR_FILE
from tests.conftest import SMALL


@pytest.fixture
def saved(isvd, tmp_path, monkeypatch):
    """A model in a models' folder of its own; yields its folder."""
    monkeypatch.setenv("ADMODELS_HOME", str(tmp_path))
    return LOCAL.save(isvd, "bolts")


def edit(folder, change):
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")


def models_in(folder):
    """What a user sees there."""
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def test_a_model_is_two_files_without_pickle(saved):
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    assert config["format_version"] == 1
    assert len(config["calibration"]["scores"]) == 24
    assert set(config["versions"]) >= {"torch", "numpy"}


def test_saving_over_a_model_needs_to_be_asked_for(saved, isvd):
    with pytest.raises(admodels.StoreError, match="exists already"):
        LOCAL.save(isvd, "bolts")
    LOCAL.save(isvd, "local:bolts", overwrite=True)
    assert models_in(saved.parent) == ["bolts"]


def test_a_failed_save_leaves_the_old_model_and_no_debris(saved, isvd, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("admodels.models.format.save_file", fail)
    with pytest.raises(admodels.StoreError, match="no space left"):
        LOCAL.save(isvd, "bolts", overwrite=True)
    assert models_in(saved.parent) == ["bolts"]
    assert admodels.load("bolts").calibration_ == isvd.calibration_


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "../x", "a/b", "a\\b", "/etc", "a..", ".hidden", "con", "NUL.txt", "x" * 65, "a\nb", "é"],
)
def test_names_that_could_build_a_path_are_refused(name, isvd):
    for action in (lambda: LOCAL.save(isvd, name), lambda: LOCAL.load(name), lambda: LOCAL.delete(name)):
        with pytest.raises(admodels.StoreError, match="not a name"):
            action()


@given(st.one_of(st.text(max_size=70), st.from_regex(store.NAME_PATTERN, fullmatch=True)))
def test_no_name_leaves_the_models_folder(name):
    try:
        folder = LOCAL._folder(name)
    except admodels.StoreError as error:
        folder, refused = None, str(error)
    if folder is None:
        assert "not a name" in refused
    else:
        assert folder.parent == store.models_folder()
        assert folder.resolve().parent == store.models_folder().resolve()


def test_list_rename_delete(saved, isvd):
    LOCAL.save(isvd, "nuts")
    assert [m.name for m in LOCAL.list_models()] == ["bolts", "nuts"]
    assert LOCAL.list_models()[0].n_learned == 24
    with pytest.raises(admodels.StoreError, match="exists already"):
        LOCAL.rename("nuts", "bolts")
    LOCAL.rename("nuts", "screws")
    LOCAL.delete("local:bolts")
    assert [m.reference for m in LOCAL.list_models()] == ["local:screws"]
    with pytest.raises(admodels.StoreError, match="Saved models: screws"):
        LOCAL.load("bolts")


def test_a_zip_goes_out_and_comes_in_unchanged(saved, isvd, specks, tmp_path):
    archive = LOCAL.export_zip("bolts", tmp_path)
    LOCAL.import_zip(archive, "copy")
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
        LOCAL.import_zip(tmp_path / "m.zip", "evil")
    assert LOCAL.list_models() == []
    assert list(store.models_folder().iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(format_version=99), "version 99"),
        (lambda c: c.update(method="os.system"), "os.system"),
        (lambda c: c["options"].update(n_componets=3), "n_componets"),
        (lambda c: c["options"].update(image_size="../.."), "image_size"),
        (lambda c: c.update(working_shape={"resized": [64, 64], "cropped": [10**9, 64]}), "working_shape.*cropped"),
        (lambda c: c["working_shape"].update(cropped=[32, 32]), "expected|asks for"),
        (lambda c: c["calibration"].update(scores=[]), "calibration.scores"),
        (lambda c: c["calibration"].update(scores=[float("nan")] * 5), "finite"),
        (lambda c: c["calibration"].update(scores=c["calibration"]["scores"][::-1]), "ascending"),
        (lambda c: c["calibration"].update(threshold=0.0), "calibration.threshold"),
        (lambda c: c["calibration"].update(false_alarm_rate=2), "false_alarm_rate"),
        (lambda c: c["fit"].pop("seconds"), "seconds"),
        (lambda c: c.pop("calibration"), "calibration"),
        (lambda c: c["options"].update(n_components=5), "changed after it was saved"),
    ],
)
def test_every_wrong_field_is_named(saved, change, said):
    edit(saved, change)
    with pytest.raises(admodels.StoreError, match=said):
        admodels.load("bolts")


def test_wrong_tensors_are_refused(saved):
    path = saved / TENSOR_FILE
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
    LOCAL.save(isvd, "nuts")
    (saved / CONFIG_FILE).write_text("{", encoding="utf-8")
    assert [m.name for m in LOCAL.list_models()] == ["nuts"]


def test_a_threshold_set_by_hand_is_kept(isvd):
    moved = isvd.with_threshold(threshold=123.25)
    LOCAL.save(moved, "by-hand")
    loaded = admodels.load("by-hand", device="cpu")
    assert loaded.calibration_ == moved.calibration_
    assert loaded.calibration_.threshold == 123.25
    assert "Set by hand" in loaded.calibration_.statement
    assert loaded.calibration_.scores == isvd.calibration_.scores


def test_models_saved_before_there_were_tails_can_be_read(saved, isvd):
    path = saved / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["digests"]  # nor were there those
    for key in ("pixel_tail", "n_pixels", "hand_threshold", "backgrounds"):
        del config["calibration"][key]
    path.write_text(json.dumps(config), encoding="utf-8")
    loaded = admodels.load("bolts", device="cpu")
    assert loaded.calibration_.threshold == isvd.calibration_.threshold
    assert drift_of(loaded.calibration_, [9.0] * 8, [9.0] * 8) is None
    for wrong in ([1.0], [*isvd.calibration_.backgrounds[::-1]], "1"):
        config["calibration"]["backgrounds"] = wrong
        path.write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(admodels.StoreError, match="backgrounds"):
            admodels.load("bolts")
    del config["calibration"]["backgrounds"]
    config["calibration"]["pixel_tail"] = [2.0, 1.0]
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(admodels.StoreError, match="pixel_tail"):
        admodels.load("bolts")


def without_product(folder):
    """As it was saved before there were products."""
    tensors = load_file(folder / TENSOR_FILE)
    save_file({name: tensor for name, tensor in tensors.items() if name != PRODUCT_TENSOR}, folder / TENSOR_FILE)
    edit(folder, lambda config: (config.pop("product"), config.pop("digests")))


def test_models_saved_before_there_were_products_can_be_read_saved_again_and_updated(saved, isvd, normals):
    without_product(saved)
    loaded = admodels.load("bolts", device="cpu")
    assert loaded.fitted_.product is None
    assert loaded.predict(normals[0]).score == isvd.predict(normals[0]).score
    folder = LOCAL.save(loaded, "again")
    assert "product" not in json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    assert admodels.load("again", device="cpu").fitted_.product is None
    loaded.update(normals[:6])
    assert len(loaded.fitted_.product.descriptors) == 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(product=3), "product is int"),
        (lambda c: c.update(product=None), "product is NoneType"),
        (lambda c: c["product"].pop("descriptor"), "'descriptor'"),
        (lambda c: c["product"].update(length=7), "product.length is 7"),
        (lambda c: c["product"].update(length=10**9), "a length of 1000000000, expected"),
        (lambda c: c["product"].update(n_pictures=10**6), "product has 1000000 pictures"),
        (lambda c: c["product"].update(n_pictures=True), "n_pictures is True"),
        (lambda c: c["product"].pop("n_pictures"), "n_pictures"),
        (lambda c: (c["product"].update(n_pictures=5), c.pop("digests")), "asks for"),
        (lambda c: (c.pop("product"), c.pop("digests")), "expected"),
        (lambda c: c["product"].update(n_pictures=5), "changed after it was saved"),
    ],
)
def test_every_wrong_field_of_a_product_is_named(saved, change, said):
    edit(saved, change)
    with pytest.raises(admodels.StoreError, match=said):
        admodels.load("bolts")


def test_a_product_of_another_version_is_left_aside(saved, isvd):
    config, tensors = json.loads((saved / CONFIG_FILE).read_text(encoding="utf-8")), load_file(saved / TENSOR_FILE)
    tensors["product.descriptors"] = torch.zeros(5, 9)
    save_file(tensors, saved / TENSOR_FILE)
    config["product"] = {"descriptor": "of another network", "n_pictures": 5, "length": 9}
    del config["digests"]
    (saved / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    loaded = read_folder(saved, admodels.DETECTORS, device="cpu")
    assert loaded.fitted_.product is None
    assert loaded.fitted_.state.keys() == isvd.fitted_.state.keys()


def test_a_product_can_be_read_without_the_model(isvd):
    admodels.save(isvd, "routed", overwrite=True)
    found, value_range = admodels.LOCAL.product("routed")
    assert np.array_equal(found.descriptors, isvd.fitted_.product.descriptors)
    assert value_range == isvd.fitted_.shape.value_range
    admodels.delete("routed")
    with pytest.raises(admodels.ModelNotFoundError):
        admodels.LOCAL.product("routed")


def test_wrong_descriptors_of_a_product_are_refused(saved):
    path = saved / TENSOR_FILE
    good = load_file(path)
    found = good[PRODUCT_TENSOR]
    for wrong, said in (
        ({k: v for k, v in good.items() if k != PRODUCT_TENSOR}, "expected"),
        (good | {PRODUCT_TENSOR: found.double()}, "F64"),
        (good | {PRODUCT_TENSOR: found[:, 1:].contiguous()}, "asks for"),
        (good | {PRODUCT_TENSOR: torch.full_like(found, float("inf"))}, "not finite"),
        (good | {PRODUCT_TENSOR: found + 1}, "changed after it was saved"),
    ):
        save_file(wrong, path)
        with pytest.raises(admodels.StoreError, match=said):
            admodels.load("bolts")


def test_an_edit_that_people_may_make_is_kept_and_any_other_is_noticed(saved, isvd):
    def for_people(config):
        config.update(fitted_on={"device": "cuda", "precision": "bfloat16"}, saved_at="2025-01-01T00:00:00+00:00")
        config["versions"]["torch"] = "2.9.0"

    edit(saved, for_people)
    loaded = admodels.load("bolts", device="cpu")
    assert loaded.calibration_ == isvd.calibration_
    # Saved again, moved, or under another name: where it was fitted stays with it.
    for other in (loaded, loaded.with_threshold(threshold=3.0)):
        folder = LOCAL.save(other, "again", overwrite=True)
        again = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        before = json.loads((saved / CONFIG_FILE).read_text(encoding="utf-8"))
        for key in ("fitted_on", "saved_at", "versions"):
            assert again[key] == before[key]
    assert (folder / TENSOR_FILE).read_bytes() == (saved / TENSOR_FILE).read_bytes()
    edit(saved, lambda config: config["calibration"].update(map_median=config["calibration"]["map_median"] * 1.01))
    with pytest.raises(admodels.StoreError, match="changed after it was saved"):
        admodels.load("bolts")
    assert [m.name for m in LOCAL.list_models()] == ["again"]
    assert [(m.name, "changed after" in m.reason) for m in LOCAL.list_unreadable()] == [("bolts", True)]


def test_a_fit_forgets_where_an_earlier_model_came_from(saved, normals):
    detector = admodels.load("bolts", device="cpu")
    assert detector.fitted_.origin.fitted_on["device"] == "cpu"
    assert detector.fit(normals).fitted_.origin is None


@given(position=st.integers(0, 10**9), bit=st.integers(0, 7), of_tensors=st.booleans())
def test_a_flipped_bit_gives_the_same_scores_or_an_error(isvd, probe, position, bit, of_tensors):
    with tempfile.TemporaryDirectory() as folder:
        write_folder(isvd, Path(folder))
        path = Path(folder) / (TENSOR_FILE if of_tensors else CONFIG_FILE)
        content = bytearray(path.read_bytes())
        content[position % len(content)] ^= 1 << bit
        path.write_bytes(content)
        try:
            loaded = read_folder(Path(folder), DETECTORS, device="cpu")
        except admodels.AdmodelsError:
            return
        found, expected = loaded.predict(probe), isvd.predict(probe)
        assert (found.score, found.p_value) == (expected.score, expected.p_value)
        assert (found.threshold, found.map_threshold) == (expected.threshold, expected.map_threshold)


@pytest.fixture(scope="module")
def probe():
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def test_models_without_digests_are_read_as_before(saved, isvd, probe):
    edit(saved, lambda config: config.pop("digests"))
    assert admodels.load("bolts", device="cpu").predict(probe).score == isvd.predict(probe).score
    assert [m.name for m in LOCAL.list_models()] == ["bolts"]
    edit(saved, lambda config: config.update(digests={"tensors": 3}))
    with pytest.raises(admodels.StoreError, match="digests"):
        admodels.load("bolts")


def test_two_saves_within_a_second_are_told_apart(saved, isvd):
    first = LOCAL.identity("local:bolts")
    assert LOCAL.identity("bolts") == first
    LOCAL.save(isvd.with_threshold(threshold=1.25), "bolts", overwrite=True)
    assert LOCAL.identity("bolts") != first
    with pytest.raises(admodels.StoreError, match="no model named"):
        LOCAL.identity("nuts")


# EfficientAD says itself that it needs 64 px on each side.
@pytest.mark.parametrize("key", sorted(set(admodels.DETECTORS) - {"efficientad"}))
@pytest.mark.parametrize("size", [(600, 20), (20, 600), (17, 4000)])
def test_what_can_be_fitted_to_very_long_pictures_can_be_saved_and_loaded(key, size, tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(8)]
    detector = admodels.create(key, device="cpu", **SMALL[key]).fit(pictures, n_folds=0)
    assert max(detector.working_shape_.resized) > 4 * min(detector.working_shape_.resized)
    write_folder(detector, tmp_path)
    loaded = read_folder(tmp_path, DETECTORS, device="cpu")
    assert loaded.working_shape_ == detector.working_shape_
    assert loaded.predict(pictures[0]).score == detector.predict(pictures[0]).score


@pytest.mark.parametrize(
    "shape",
    [
        {"resized": [34, 64], "cropped": [64, 64]},
        {"resized": [32, 32], "cropped": [64, 64]},
        {"resized": [96, 96], "cropped": [64, 64]},
        {"resized": [32, 10**9], "cropped": [32, 10**9]},
        {"resized": [64, 64], "cropped": [64, 32]},
    ],
)
def test_a_shape_that_the_options_cannot_give_is_refused_before_it_is_used(saved, shape):
    edit(saved, lambda config: config.update(working_shape=shape))
    with pytest.raises(admodels.StoreError, match="working_shape contradicts the options"):
        admodels.load("bolts")


def test_a_name_is_checked_before_the_work(saved, tmp_path, monkeypatch):
    assert LOCAL.check_name("local:nuts") == "nuts"
    assert LOCAL.check_name("bolts", overwrite=True) == "bolts"
    for name, said in (("bolts", "exists already"), ("con", "not a name"), ("a/b", "not a name"), (None, "not a name")):
        with pytest.raises(admodels.StoreError, match=said):
            LOCAL.check_name(name)
    (saved.parent / "file").write_text("x", encoding="utf-8")
    with pytest.raises(admodels.StoreError, match="exists already"):
        LOCAL.check_name("file", overwrite=True)
    monkeypatch.setenv("ADMODELS_HOME", str(saved.parent / "file"))
    with pytest.raises(admodels.StoreError, match="cannot be written"):
        LOCAL.check_name("nuts")
    with pytest.raises(admodels.StoreError, match="cannot be read"):
        LOCAL.list_models()


def test_a_folder_that_is_no_model_is_told_of(saved):
    (saved / TENSOR_FILE).unlink()
    (saved.parent / "notes").mkdir()
    assert LOCAL.list_models() == []
    assert {m.name: m.reason.split(" ")[0] for m in LOCAL.list_unreadable()} == {
        "bolts": "bolts/model.safetensors",
        "notes": "notes/config.json",
    }


def packed(folder, path, *, kind=zipfile.ZIP_DEFLATED, around="", more=()):
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name in (CONFIG_FILE, TENSOR_FILE):
            archive.write(folder / name, around + name)
        for name in more:
            archive.writestr(name, b"x")
    return path


@pytest.mark.parametrize(
    ("around", "more"),
    [
        ("", ()),
        ("bolts/", ()),
        ("a/b/", ("a/b/.DS_Store",)),
        ("", ("__MACOSX/._config.json", ".DS_Store", "Thumbs.db")),
        ("bolts\\", ()),
    ],
)
def test_a_zip_that_was_made_again_is_taken_in(saved, isvd, probe, tmp_path, around, more):
    archive = packed(saved, tmp_path / "again.zip", around=around, more=more)
    LOCAL.import_zip(archive, "again")
    assert admodels.load("again", device="cpu").predict(probe).score == isvd.predict(probe).score


@pytest.fixture(scope="module", params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def whole_zip(request, isvd, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zip")
    write_folder(isvd, folder)
    return packed(folder, folder / "m.zip", kind=request.param).read_bytes()


@settings(max_examples=40)
@given(data=st.data())
def test_a_damaged_zip_is_our_error_and_leaves_nothing(whole_zip, data):
    damaged, n = bytearray(whole_zip), len(whole_zip)
    at = data.draw(st.integers(0, n - 1) | st.integers(n - 250, n - 1))  # its directory is at the end
    damaged[at] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        models, archive = Store(DETECTORS, Path(folder) / "models"), Path(folder) / "m.zip"
        archive.write_bytes(damaged[: data.draw(st.sampled_from([n, at]))])
        try:
            models.import_zip(archive, "taken")
        except admodels.AdmodelsError:
            assert models_in(models.root) == []
        assert [p.name for p in models.root.iterdir() if p.name.startswith(".staging")] == []


def test_known_defects_go_with_the_model_and_with_its_next_save(saved, isvd, tmp_path):
    pictures = [tmp_path / "a" / "part.png", tmp_path / "b" / "part.png"]  # alike in name
    for i, path in enumerate(pictures):
        path.parent.mkdir()
        path.write_bytes(bytes([i]) * 10)
    defects = [KnownDefect(bytes([i]) * 32, 0.5 + i, path) for i, path in enumerate(pictures)]
    gone = KnownDefect(b"g" * 32, 9.0)
    LOCAL.save(isvd, "bolts", overwrite=True, defects=[*defects, gone])
    LOCAL.rename("bolts", "nuts")
    found = LOCAL.known_defects("nuts")
    assert [(d.digest, d.score) for d in found] == [(d.digest, d.score) for d in (*defects, gone)]
    assert [d.file.read_bytes() for d in found[:2]] == [path.read_bytes() for path in pictures]
    assert found[2].file is None
    assert LOCAL.load("nuts", device="cpu").calibration_ == isvd.calibration_
    # Saved again as they were found there, of which one fewer; then without any.
    LOCAL.save(isvd, "nuts", overwrite=True, defects=found[1:])
    again = LOCAL.known_defects("nuts")
    assert [d.digest for d in again] == [d.digest for d in found[1:]]
    assert again[0].file.read_bytes() == pictures[1].read_bytes()
    LOCAL.save(isvd, "nuts", overwrite=True)
    assert LOCAL.known_defects("nuts") == ()
    assert models_in(LOCAL.root / "nuts") == [CONFIG_FILE, TENSOR_FILE]


@pytest.mark.parametrize(
    "said",
    [
        "text",
        {"sha256": "0" * 64},
        [None, 3, [], {}],
        [{"sha256": "0" * 63, "score": 1.0}, {"sha256": "../" + "0" * 61, "score": 1.0}, {"sha256": 5, "score": 1.0}],
        [{"sha256": "a" * 64, "score": value} for value in (None, True, "1", float("nan"), float("inf"))],
    ],
)
def test_known_defects_that_somebody_wrote_wrong_are_left_out(saved, said):
    right = {"sha256": "b" * 64, "score": 2.0}
    edit(saved, lambda config: config.update(known_defects=said if isinstance(said, dict | str) else [*said, right]))
    found = LOCAL.known_defects("bolts")
    assert [d.digest.hex() for d in found] == ([] if isinstance(said, dict | str) else ["b" * 64])
    LOCAL.load("bolts", device="cpu")  # no verdict depends on them


def test_pictures_that_cannot_be_kept_leave_the_saved_model_as_it_was(saved, isvd, tmp_path):
    before = (saved / CONFIG_FILE).read_bytes()
    with pytest.raises(admodels.StoreError, match="pictures marked as defects could not be kept"):
        LOCAL.save(isvd, "bolts", overwrite=True, defects=[KnownDefect(b"d" * 32, 1.0, tmp_path / "missing.png")])
    assert (saved / CONFIG_FILE).read_bytes() == before


def test_on_a_disk_that_moves_no_folders_a_model_is_saved_replaced_renamed_and_deleted(tmp_path, isvd, monkeypatch):
    moved, replace = [], Path.replace

    def files_only(self, target):
        if self.is_dir():
            raise OSError(errno.ENOTSUP, "this disk moves files only")
        moved.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", files_only)
    models = Store(DETECTORS, tmp_path)
    for _ in range(2):
        models.save(isvd, "line", overwrite=True)
    assert moved.index("model.safetensors") < moved.index("config.json"), "without a configuration it is no model yet"
    models.rename("line", "belt")
    assert [each.name for each in models.list_models()] == ["belt"]
    assert models.load("belt", device="cpu").calibration_.threshold == isvd.calibration_.threshold
    models.delete("belt")
    assert models.list_models() == []
    assert not [path for path in tmp_path.rglob("*") if path.name != ".lock"]


def test_on_a_disk_without_locks_writers_take_turns_all_the_same(tmp_path, monkeypatch):
    def without(self, *_, **__):
        raise NotImplementedError("this disk has no locks")

    monkeypatch.setattr(replacing.FileLock, "acquire", without)
    entered, first_may_end, order = threading.Event(), threading.Event(), []

    def first():
        with replacing.writing(tmp_path):
            entered.set()
            first_may_end.wait()
            order.append("first")

    def second():
        with replacing.writing(tmp_path):
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    entered.wait()
    threads[1].start()
    assert not replacing._TURNS.acquire(blocking=False)
    first_may_end.set()
    for thread in threads:
        thread.join()
    assert order == ["first", "second"]

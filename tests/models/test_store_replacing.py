"""Replacing a saved model is one step for every reader, whoever else writes, and whenever a writer dies."""

import contextlib
import json
import multiprocessing
import threading
from pathlib import Path

import pytest

import admodels
from admodels import DETECTORS
from admodels.models import Store, format, read_folder, replacing, write_folder
from admodels.models.format import CONFIG_FILE, TENSOR_FILE, tensor_digest
from tests.conftest import SMALL

N_SAVES = 12


@pytest.fixture(scope="module")
def two(normals):
    """Two models of one layout that differ in every tensor, and in their calibration."""
    return [admodels.create("padim_isvd", device="cpu", **SMALL["padim_isvd"]).fit(part) for part in pair_of(normals)]


def pair_of(normals):
    return normals[:12], normals[12:]


def told_apart(detector):
    """Of the tensors, and of the configuration: of one model, or of a mixture."""
    return tensor_digest(detector.state_), detector.calibration_.threshold


def write(root, folders, start):
    """Save two models under one name in turn; runs in a thread or in a process of its own."""
    models, loaded = Store(DETECTORS, root), [read_folder(folder, DETECTORS, device="cpu") for folder in folders]
    for i in range(N_SAVES):
        models.save(loaded[(i + start) % 2], "bolts", overwrite=True)


def read_while(are_writing, root, expected):
    """Whatever a reader can do, as long as there are writers; what did not go as it should."""
    models, faults = Store(DETECTORS, root), []
    while are_writing():
        try:
            if told_apart(models.load("bolts", device="cpu")) not in expected:
                faults.append("a mixture")
            if models.show("bolts")["calibration"].threshold not in {threshold for _, threshold in expected}:
                faults.append("another threshold")
            if [info.name for info in models.list_models()] != ["bolts"] or models.list_unreadable():
                faults.append("not in the list")
            models.identity("bolts")
        except Exception as error:
            faults.append(repr(error))
    return faults


@pytest.mark.parametrize("kind", [threading.Thread, multiprocessing.get_context("spawn").Process])
def test_readers_see_one_model_or_the_other_while_several_write(two, tmp_path, kind):
    folders = [tmp_path / "a", tmp_path / "b"]
    for model, folder in zip(two, folders, strict=True):
        folder.mkdir()
        write_folder(model, folder)
    expected = {told_apart(model) for model in two}
    root = tmp_path / "models"
    Store(DETECTORS, root).save(two[0], "bolts")
    writers = [kind(target=write, args=(root, folders, start)) for start in range(2)]
    found = []

    def are_writing():
        return any(writer.is_alive() for writer in writers)

    readers = [threading.Thread(target=lambda: found.extend(read_while(are_writing, root, expected))) for _ in range(2)]
    for thread in (*writers, *readers):
        thread.start()
    for thread in (*writers, *readers):
        thread.join()
    assert found == []
    assert all(getattr(writer, "exitcode", 0) == 0 for writer in writers)
    assert told_apart(Store(DETECTORS, root).load("bolts", device="cpu")) in expected
    assert sorted(p.name for p in (root / "bolts").iterdir()) == [CONFIG_FILE, TENSOR_FILE]


@pytest.mark.parametrize("has_digests", [True, False])
@pytest.mark.parametrize("n_moves", range(4))
def test_a_writer_that_dies_leaves_the_old_model_or_the_new_one(two, tmp_path, monkeypatch, n_moves, has_digests):
    class Died(BaseException):
        pass

    old, new = two
    models = Store(DETECTORS, tmp_path)
    folder = models.save(old, "bolts")
    if not has_digests:
        without_digests(folder)
    moved, real = [], replacing.move

    def move(source, target):
        if len(moved) == n_moves:
            raise Died
        real(source, target)
        moved.append(target)

    monkeypatch.setattr(replacing, "move", move)
    with contextlib.suppress(Died):
        models.save(new, "bolts", overwrite=True)
    assert len(moved) == min(n_moves, 3)
    monkeypatch.setattr(replacing, "move", real)
    found = told_apart(models.load("bolts", device="cpu"))
    assert found == told_apart(new if n_moves >= 2 else old)
    assert models.show("bolts")["calibration"].threshold == found[1]
    models.save(old, "bolts", overwrite=True)
    assert told_apart(models.load("bolts", device="cpu")) == told_apart(old)
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG_FILE, TENSOR_FILE]


@pytest.mark.parametrize("has_digests", [True, False])
def test_a_model_that_is_replaced_between_the_reads_of_its_files_is_read_again(two, tmp_path, monkeypatch, has_digests):
    old, new = two
    models = Store(DETECTORS, tmp_path)
    folder = models.save(old, "bolts")
    if not has_digests:
        without_digests(folder)
    real, replaced = format._read_tensors, []

    def replace_then_read(*given):
        if not replaced:
            replaced.append(True)
            models.save(new, "bolts", overwrite=True)
        return real(*given)

    monkeypatch.setattr(format, "_read_tensors", replace_then_read)
    assert told_apart(models.load("bolts", device="cpu")) == told_apart(new)


def test_a_model_that_is_deleted_or_renamed_while_it_is_read_is_said_to_be_missing(two, tmp_path, monkeypatch):
    models = Store(DETECTORS, tmp_path)
    real = format._read_tensors
    for leave in (lambda: models.delete("bolts"), lambda: models.rename("bolts", "nuts")):
        models.save(two[0], "bolts")

        def leave_then_read(*given, leave=leave):
            leave()
            return real(*given)

        monkeypatch.setattr(format, "_read_tensors", leave_then_read)
        with pytest.raises(admodels.StoreError, match="no model named 'bolts'"):
            models.load("bolts", device="cpu")
        monkeypatch.setattr(format, "_read_tensors", real)
    assert [info.name for info in models.list_models()] == ["nuts"]


def test_of_two_who_save_a_new_name_one_is_told(two, tmp_path):
    models, told = Store(DETECTORS, tmp_path), []

    def save(model):
        try:
            models.save(model, "bolts")
        except admodels.StoreError as error:
            told.append(str(error))

    threads = [threading.Thread(target=save, args=(model,)) for model in two]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 1
    assert "exists already" in told[0]
    assert told_apart(models.load("bolts", device="cpu")) in {told_apart(model) for model in two}


def without_digests(folder: Path):
    """As models were saved before there were any."""
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["digests"]
    path.write_text(json.dumps(config), encoding="utf-8")

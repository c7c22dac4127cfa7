"""Fits on ZeroGPU, with a stand-in for the package `spaces` that pickles what the real one sends between processes."""

import importlib
import json
import pickle
import shutil
import sys
from types import SimpleNamespace

import gradio as gr
import pytest

import admodels
from admodels.pictures.images import inspect_set
from demo.state import server, zero_gpu
from tests.conftest import SMALL, TRAINED


@pytest.fixture
def asked(monkeypatch):
    """`demo.state.zero_gpu` as it is on such a Space; holds the seconds that the GPU was asked for."""
    seconds = []

    def gpu(task, duration):
        def call(*arguments):
            seconds.append(duration(*arguments))
            told = task(*pickle.loads(pickle.dumps(arguments)))
            try:
                for item in told:
                    yield pickle.loads(pickle.dumps(item))
            except gr.Error:
                raise
            except Exception as error:  # the real one tells no more than the class
                raise gr.Error(type(error).__name__) from error
            finally:
                told.close()

        return call

    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=gpu))
    importlib.reload(zero_gpu)
    yield seconds
    monkeypatch.undo()
    importlib.reload(zero_gpu)


@pytest.mark.parametrize("method", ["fapm", "padim_isvd", "tiled"])
def test_a_fit_there_gives_the_same_scores_and_tells_its_progress(asked, normals, specks, method):
    detector = admodels.create(method, device="cpu", **SMALL[method])
    told = []
    fitted = zero_gpu.fit(detector, inspect_set(normals), told.append, n_folds=None, false_alarm_rate=0.05, seed=3)
    expected = admodels.create(method, device="cpu", precision="float32", **SMALL[method])
    expected.fit(normals, false_alarm_rate=0.05, seed=3)
    assert fitted.calibration_ == expected.calibration_
    assert fitted.predict(specks.test[0].path).score == expected.predict(specks.test[0].path).score
    assert {at.stage for at in told} >= {"learning", "setting the threshold"}
    assert zero_gpu.SHORTEST <= asked[0] <= zero_gpu.LONGEST


def test_what_is_wrong_there_is_said_here(asked, normals, tmp_path):
    detector = admodels.create("fapm", device="cpu", **SMALL["fapm"])
    with pytest.raises(admodels.OptionError, match="at least 4 are needed"):
        zero_gpu.fit(detector, inspect_set(normals[:2]), lambda at: None)
    assert asked == []  # for this no GPU was asked for
    pictures = inspect_set([shutil.copy(path, tmp_path) for path in normals])
    (tmp_path / normals[1].name).unlink()  # the estimate looks at a few others
    with pytest.raises(gr.Error, match=f"{normals[1].name}: does not exist"):
        zero_gpu.fit(detector, pictures, lambda at: None)
    assert len(asked) == 1


def test_a_fit_there_can_be_stopped(asked, normals):
    def stop(at):
        raise admodels.Cancelled("stopped")

    with pytest.raises(admodels.Cancelled):
        zero_gpu.fit(admodels.create("fapm", device="cpu", **SMALL["fapm"]), inspect_set(normals), stop)


def test_what_goes_there_and_what_stays(asked):
    assert server.device_name() == "cpu"
    assert zero_gpu.takes(admodels.create("fapm"))
    assert zero_gpu.takes(admodels.create("tiled", method="padim"))
    for method in TRAINED:
        assert not zero_gpu.takes(admodels.create(method))
        assert not zero_gpu.takes(admodels.create("tiled", method=method))
    assert zero_gpu.seconds_to_ask_for(1) == zero_gpu.SHORTEST
    assert zero_gpu.seconds_to_ask_for(40) == 80
    assert zero_gpu.seconds_to_ask_for(1e6) == zero_gpu.LONGEST


def test_the_app_fits_there(asked, client, specks):
    from tests.demo.test_app_api import fit, inspect

    report = fit(client, specks.train, json.dumps(SMALL["padim_isvd"]))[2]
    assert len(asked) == 1
    assert report["n_learned"] == 24
    assert len(inspect(client, [specks.test[0].path])) == 1


def test_elsewhere_nothing_changes():
    assert not zero_gpu.is_there()
    assert not zero_gpu.takes(admodels.create("fapm"))
    assert server.device_name() == "auto"

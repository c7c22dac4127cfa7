"""Fits on ZeroGPU: with the real package `spaces` in a process of its own, and with a stand-in that pickles alike."""

import importlib
import importlib.util
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
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
    settings = {"n_folds": None, "false_alarm_rate": 0.05, "seed": 3}
    fitted, on_cpu = zero_gpu.fit(detector, inspect_set(normals), told.append, **settings)
    expected = admodels.create(method, device="cpu", precision="float32", **SMALL[method])
    expected.fit(normals, false_alarm_rate=0.05, seed=3)
    assert fitted.calibration_ == expected.calibration_
    assert fitted.predict(specks.test[0].path).score == expected.predict(specks.test[0].path).score
    assert on_cpu == ""
    assert {at.stage for at in told} >= {"learning", "setting the threshold"}
    assert zero_gpu.SHORTEST <= asked[0] <= zero_gpu.LONGEST


def test_what_is_wrong_there_is_said_here(asked, normals, tmp_path):
    detector = admodels.create("fapm", device="cpu", **SMALL["fapm"])
    with pytest.raises(admodels.OptionError, match="at least 4 are needed"):
        zero_gpu.fit(detector, inspect_set(normals[:2]), lambda at: None)
    assert asked == []  # for this no GPU was asked for
    pictures = inspect_set([shutil.copy(path, tmp_path) for path in normals])
    (tmp_path / normals[1].name).unlink()  # the estimate looks at a few others
    with pytest.raises(admodels.AdmodelsError, match=f"{normals[1].name}: does not exist"):
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
    assert zero_gpu.seconds_to_ask_for(20) == 40
    assert zero_gpu.seconds_to_ask_for(1e6) == zero_gpu.LONGEST


def test_the_app_fits_there(asked, client, specks):
    from tests.demo.test_app_api import fit, inspect

    report = fit(client, specks.train, json.dumps(SMALL["padim_isvd"]))[2]
    assert len(asked) == 1
    assert report["on_cpu"] == ""
    assert report["n_learned"] == 24
    assert len(inspect(client, [specks.test[0].path])) == 1


def test_elsewhere_nothing_changes():
    assert not zero_gpu.is_there()
    assert not zero_gpu.takes(admodels.create("fapm"))
    assert server.device_name() == "auto"


@pytest.fixture(scope="module")
def real():
    """What came of fits with the real package, against a stand-in for the service that gives the GPUs."""
    if importlib.util.find_spec("spaces") is None:
        pytest.skip("the package spaces is missing: pip install -r tests/requirements.txt")
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tests.demo.on_zero_gpu"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def paths(found):
    return [path for path, _ in found["asked"]]


@pytest.mark.parametrize(
    ("name", "method"), [("first", "padim_isvd"), ("second", "padim_isvd"), ("tiles", "tiled")], ids=lambda value: value
)
def test_the_real_package_fits_there(real, name, method):
    found = real[name]
    assert found["error"] is None
    assert found["on_cpu"] == ""
    assert found["threshold"] == real["expected"][method]
    assert {"learning", "setting the threshold"} <= set(found["stages"])
    (_, asked), *_, (_, released) = found["asked"]
    assert 15 <= int(asked["durationSeconds"]) <= 60
    assert asked["token"] == "head.e30.sign"  # whose share it is
    assert released["fail"] == "false"
    # The second fit is done by the process of the first.
    process = [] if name == "second" else ["/allow"]
    assert paths(found) == ["/schedule", *process, "/release"]


def test_the_real_package_carries_over_what_is_wrong(real):
    assert real["wrong"]["error_class"] == "AdmodelsError"
    assert "001.png: does not exist" in real["wrong"]["error"]
    assert real["stopped"]["error_class"] == "Cancelled"
    assert real["stopped"]["stages"] == ["learning"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("aborted", "ZeroGPU worker error: GPU task aborted"),
        ("quota", "ZeroGPU quota exceeded: "),
        ("expired", "Expired ZeroGPU proxy token"),
        ("none free", "No GPU was available"),
        ("broken", "ZeroGPU API /schedule error: 500"),
        ("queue timeout", "No GPU was available after 60s"),
    ],
)
def test_where_zero_gpu_gives_none_the_cpu_does_it_and_says_why(real, name, why):
    found = real[name]
    assert found["error"] is None
    assert found["threshold"] > 0
    assert found["on_cpu"].startswith("Fitted on the CPU, since ZeroGPU did not do it")
    assert why in found["on_cpu"]
    assert len([path for path in paths(found) if path == "/schedule"]) == 1


def test_a_fit_outlives_its_page_in_the_queue_for_a_gpu(real):
    found = real["refreshed"]
    assert found["on_cpu"] == ""
    assert found["threshold"] == real["expected"]["padim_isvd"]


def test_who_waits_for_a_gpu_can_stop(real):
    found = real["stopped in the queue"]
    assert (found["error_class"], found["stages"]) == ("Cancelled", [zero_gpu.WAITING])
    assert paths(found) == ["/schedule"]


def test_the_app_uses_the_real_package(real):
    assert real["n_reports"] == 1  # to the platform, that it has started
    assert real["app"]["on_cpu"] == ""
    assert real["app"]["threshold"] == real["expected"]["padim_isvd"]
    assert "ZeroGPU quota exceeded" in real["app without quota"]["on_cpu"]
    assert '<p class="warning">Fitted on the CPU' in real["app without quota"]["said"]

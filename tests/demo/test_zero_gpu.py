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
import numpy as np
import pytest
import torch
from gradio_client import handle_file

import admodels
from admodels.pictures.images import inspect_set
from demo.state import server, zero_gpu
from tests.conftest import SMALL


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

    for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):  # to be put back
        monkeypatch.setattr(torch.optim.Optimizer, name, None, raising=False)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=gpu))
    importlib.reload(zero_gpu)
    yield seconds
    monkeypatch.undo()
    importlib.reload(zero_gpu)


@pytest.fixture
def quick(asked, monkeypatch):
    """Whatever else this machine does, a small fit is estimated to fit in one call."""
    monkeypatch.setattr(zero_gpu, "SPARE", 0.0)


@pytest.mark.parametrize("method", sorted(SMALL))
def test_a_fit_there_gives_the_same_scores_and_tells_its_progress(asked, quick, normals, specks, method):
    detector = admodels.create(method, device="cpu", **SMALL[method])
    told = []
    settings = {"n_folds": None, "false_alarm_rate": 0.05, "seed": 3}
    fitted, not_done = zero_gpu.fit(detector, inspect_set(normals), told.append, **settings)
    expected = admodels.create(method, device="cpu", precision="float32", **SMALL[method])
    expected.fit(normals, false_alarm_rate=0.05, seed=3)
    assert fitted.calibration_ == expected.calibration_
    assert fitted.predict(specks.test[0].path).score == expected.predict(specks.test[0].path).score
    assert not_done == ""
    assert {at.stage for at in told} >= {"learning", "setting the threshold"}
    assert len(asked) == 1
    assert zero_gpu.SHORTEST <= asked[0] <= zero_gpu.LONGEST


@pytest.fixture
def short_calls(asked, monkeypatch):
    """A call ends after two steps, each later one after another step; holds the seconds, as `asked`."""
    monkeypatch.setattr(zero_gpu, "RESERVE_SECONDS", 1000)
    return asked


def refuse_call(monkeypatch, number):
    """ZeroGPU gives a GPU for the calls before this one alone."""
    there, calls = zero_gpu._fit_there, []

    def fit_there(*arguments):
        calls.append(arguments)
        if len(calls) >= number:
            raise gr.Error("0s left, 60s requested.", title="ZeroGPU quota exceeded")
        return there(*arguments)

    monkeypatch.setattr(zero_gpu, "_fit_there", fit_there)


def fit_efficientad(normals, on_progress, **options):
    detector = admodels.create("efficientad", device="cpu", **(SMALL["efficientad"] | options))
    return zero_gpu.fit(detector, inspect_set(normals), on_progress, n_folds=None, false_alarm_rate=0.05, seed=3)


@pytest.mark.parametrize("method", sorted(SMALL))
def test_a_training_of_several_calls_is_that_of_one_and_any_other_fit_has_one_call(short_calls, quick, normals, method):
    detector = admodels.create(method, device="cpu", **SMALL[method])
    told = []
    fitted, not_done = zero_gpu.fit(detector, inspect_set(normals), told.append, false_alarm_rate=0.05, seed=3)
    expected = admodels.create(method, device="cpu", precision="float32", **SMALL[method])
    expected.fit(normals, false_alarm_rate=0.05, seed=3)
    assert fitted.calibration_ == expected.calibration_
    assert not_done == ""
    # Six steps: two, one in each of four calls, and what follows them.
    assert len(short_calls) == (6 if expected.method.can_pause else 1)
    steps = [at.done for at in told if at.loss is not None]
    assert steps == sorted(steps)
    if expected.method.can_pause:
        again = [at for at in told if at.stage == zero_gpu.RETURNING]
        assert {at.done for at in again} == {2, 3, 4, 5, 6}
        assert all(at.total == 6 for at in again)


@pytest.mark.parametrize("stage", ["training", zero_gpu.RETURNING, zero_gpu.WAITING])
def test_a_training_stopped_in_a_later_call_or_between_two_is_kept(short_calls, normals, specks, monkeypatch, stage):
    if stage == zero_gpu.WAITING:
        monkeypatch.setattr(zero_gpu, "LOOK_SECONDS", 0.001)
    n_stops = 0

    def stop(at):
        nonlocal n_stops
        if at.stage == stage and at.loss is not None and len(short_calls) > 1 and not n_stops:
            n_stops += 1
            raise admodels.Enough("stopped")

    fitted, not_done = fit_efficientad(normals, stop, max_steps=1000)
    assert n_stops == 1
    assert not_done == ""  # nobody but the visitor ended it
    assert 2 <= int(fitted.state_["n_steps"]) < 20
    assert np.isfinite(fitted.predict(specks.test[0].path).score)
    assert len(short_calls) <= 5


def test_what_was_trained_is_kept_where_zero_gpu_does_not_go_on(short_calls, normals, specks, monkeypatch):
    refuse_call(monkeypatch, 3)
    fitted, not_done = fit_efficientad(normals, lambda at: None, max_steps=70_000)
    assert not_done.startswith("3 of 70,000 training steps were done, since ZeroGPU did not go on (ZeroGPU quota exce")
    assert fitted.details()["training"] == "3 steps"
    assert np.isfinite(fitted.predict(specks.test[0].path).score)


def test_a_training_that_cannot_pause_ends_in_time(short_calls, normals):
    detector = admodels.create("fastflow", device="cpu", **(SMALL["fastflow"] | {"max_steps": 100_000}))
    fitted, not_done = zero_gpu.fit(detector, inspect_set(normals), lambda at: None)
    done = fitted.details()["training"]
    assert not_done.startswith(f"The training ended after {done}; 100,000 steps were asked for.")
    assert len(short_calls) == 1


@pytest.mark.parametrize(
    ("method", "options", "n_folds", "expected"),
    [
        ("efficientad", {}, 0, 50 / 60),
        ("efficientad", {"max_minutes": 30}, 0, 30),
        ("efficientad", {"max_steps": 70_000}, 0, None),
        ("efficientad", {"max_steps": 70_000}, 4, 10 / 60),
        ("fastflow", {}, 0, 50 / 60),
        ("fastflow", {"max_minutes": 0.5}, 0, 0.5),
        ("fastflow", {"max_minutes": 30}, 0, 50 / 60),
    ],
)
def test_what_cannot_go_on_in_another_call_is_given_the_time_of_one(method, options, n_folds, expected):
    detector = admodels.create(method, device="cpu", **options)
    assert zero_gpu._options_there(detector, 300, n_folds)[0]["max_minutes"] == pytest.approx(expected)
    tiled = admodels.create("tiled", device="cpu", method=method, member=options)
    there = zero_gpu._options_there(tiled, 300, n_folds)[0]
    of_tiles = admodels.create("tiled", device="cpu", **there).method.member.config.max_minutes
    assert of_tiles == pytest.approx(min(expected or 1, 50 / 60 / (n_folds + 1)))


def test_a_training_of_few_steps_is_not_given_less_time():
    detector = admodels.create("fastflow", device="cpu", max_steps=6)
    assert zero_gpu._options_there(detector, 20, 0) == (vars(detector.config) | {"precision": "float32"}, "")


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


def test_how_long_the_gpu_is_asked_for(asked):
    assert zero_gpu.is_there()
    assert server.device_name() == "cpu"
    assert zero_gpu.seconds_to_ask_for(1) == zero_gpu.SHORTEST
    assert zero_gpu.seconds_to_ask_for(20) == 40
    assert zero_gpu.seconds_to_ask_for(1e6) == zero_gpu.LONGEST


def test_the_app_fits_there(asked, client, specks):
    from tests.demo.test_app_api import fit, inspect

    report = fit(client, specks.train, json.dumps(SMALL["padim_isvd"]))[2]
    assert len(asked) == 1
    assert report["zero_gpu"] == ""
    assert report["n_learned"] == 24
    assert len(inspect(client, [specks.test[0].path])) == 1


def test_the_app_says_how_far_zero_gpu_came(short_calls, client, specks, monkeypatch):
    from tests.demo.test_app_api import inspect

    refuse_call(monkeypatch, 2)
    files = [handle_file(str(path)) for path in specks.train[:8]]
    options = json.dumps(SMALL["efficientad"])
    said, _, report = client.predict(files, "efficientad", 0.01, options, 0, "auto", api_name="/fit")
    assert report["zero_gpu"].startswith("2 of 6 training steps were done")
    assert '<p class="warning">2 of 6 training steps were done' in said
    assert "2 steps" in said.split("of 6")[1]
    assert "stopped" not in report
    assert len(inspect(client, [specks.test[0].path])) == 1


def test_elsewhere_nothing_changes():
    assert not zero_gpu.is_there()
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
    assert found["not_done"] == ""
    assert found["threshold"] == real["expected"][method]
    assert {"learning", "setting the threshold"} <= set(found["stages"])
    (_, asked), *_, (_, released) = found["asked"]
    assert 15 <= int(asked["durationSeconds"]) <= 60
    assert asked["token"] == "head.e30.sign"  # whose share it is
    assert released["fail"] == "false"
    # The second fit is done by the process of the first.
    process = [] if name == "second" else ["/allow"]
    assert paths(found) == ["/schedule", *process, "/release"]


def test_the_real_package_goes_on_with_a_training_in_the_next_call(real):
    found = real["several calls"]
    assert (found["error"], found["not_done"]) == (None, "")
    assert found["threshold"] == real["expected"]["efficientad"]
    assert paths(found).count("/schedule") == paths(found).count("/release") == 4
    assert zero_gpu.RETURNING in found["stages"]
    found = real["no second call"]
    assert found["error"] is None
    assert found["not_done"].startswith("2 of 4 training steps were done")
    assert "ZeroGPU quota exceeded" in found["not_done"]
    found = real["no call"]
    assert found["error"] is None
    assert found["not_done"].startswith("Fitted on the CPU")


def test_the_real_package_carries_over_what_is_wrong(real):
    assert real["wrong"]["error_class"] == "AdmodelsError"
    assert "001.png: does not exist" in real["wrong"]["error"]
    assert real["stopped"]["error_class"] == "Cancelled"
    assert set(real["stopped"]["stages"]) - {zero_gpu.WAITING} == {"learning"}


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
    assert found["not_done"].startswith("Fitted on the CPU, since ZeroGPU did not do it")
    assert why in found["not_done"]
    assert len([path for path in paths(found) if path == "/schedule"]) == 1


def test_a_fit_outlives_its_page_in_the_queue_for_a_gpu(real):
    found = real["refreshed"]
    assert found["not_done"] == ""
    assert found["threshold"] == real["expected"]["padim_isvd"]


def test_who_waits_for_a_gpu_can_stop(real):
    found = real["stopped in the queue"]
    assert (found["error_class"], found["stages"]) == ("Cancelled", [zero_gpu.WAITING])
    assert paths(found) == ["/schedule"]


def test_the_app_uses_the_real_package(real):
    assert real["n_reports"] == 1  # to the platform, that it has started
    assert real["app"]["zero_gpu"] == ""
    assert real["app"]["threshold"] == real["expected"]["padim_isvd"]
    assert "ZeroGPU quota exceeded" in real["app without quota"]["zero_gpu"]
    assert '<p class="warning">Fitted on the CPU' in real["app without quota"]["said"]

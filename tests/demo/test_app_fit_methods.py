"""Every method through the app's fit, alone and in an ensemble, with everything that it tells on its way."""

import dataclasses
import json
import threading
from types import SimpleNamespace

import pytest
from gradio_client import handle_file

import admodels
from admodels import Progress
from admodels.core.method import Learner
from demo.state import zero_gpu
from demo.state.jobs import Job
from demo.tabs import fitting
from demo.view import text
from tests.conftest import SMALL, TRAINED

BETWEEN_CALLS = [zero_gpu.WAITING, zero_gpu.RETURNING]
SINGLE = {method: options for method, options in SMALL.items() if method != "tiled"}

LAST_STEP = {
    "fapm": {"selecting the coreset"},
    "patchcore": {"selecting the coreset"},
    "padim": {"computing the covariances"},
    "padim_isvd": {"computing the components"},
    "efficientad": {"training"},
    "fastflow": {"training"},
    "reverse_distillation": {"training"},
}


def tiled(method):
    member = {name: value for name, value in SINGLE[method].items() if name != "image_size"}
    return {"image_size": 128, "tile_size": 64, "stride": 64, "method": method, "member": member}


@pytest.mark.parametrize("in_tiles", [False, True], ids=["single", "tiled"])
@pytest.mark.parametrize("method", sorted(SINGLE))
def test_every_method_fits_and_tells_how_far_it_is(client, specks, monkeypatch, method, in_tiles):
    told, tell = [], Job.tell
    monkeypatch.setattr(Job, "tell", lambda job, *at: told.append(at) or tell(job, *at))
    asked, options = ("tiled", tiled(method)) if in_tiles else (method, SINGLE[method])
    files = [handle_file(str(path)) for path in specks.train[:8]]
    summary, _, report = client.predict(files, asked, 0.01, json.dumps(options), 0, "auto", api_name="/fit")
    assert report["method"] == asked
    assert admodels.METHODS[method].title in summary
    assert all(0 <= fraction <= 1 for fraction, _ in told)
    said = {words.split(":")[0] for _, words in told}
    assert said >= {"learning", "setting the threshold"}
    assert said - {"learning", "setting the threshold"} == LAST_STEP[method]
    if method in TRAINED:
        steps = [words for _, words in told if "loss" in words]
        assert len(steps) == SINGLE[method]["max_steps"] * (4 if in_tiles else 1)
        assert any("before the first step" in words for _, words in told)
        assert [fraction for fraction, _ in told] == sorted(fraction for fraction, _ in told)


def learners(cls=Learner):
    return {cls} | {found for sub in cls.__subclasses__() for found in learners(sub)}


def test_every_last_step_has_a_place_on_the_bar():
    stages = {cls.stage for cls in learners() if "stage" in vars(cls)}
    assert len(stages) >= 4
    assert stages <= set(fitting.STAGES)


@pytest.mark.parametrize("stage", [*sorted(fitting.STAGES), *BETWEEN_CALLS])
@pytest.mark.parametrize(("done", "total"), [(0, 0), (0, 9), (3, 9), (9, 9)])
@pytest.mark.parametrize("loss", [None, 0.25])
def test_every_kind_of_progress_has_words(stage, done, total, loss):
    if loss is not None:
        done = max(done, 1)  # a loss is that of a step
    session, told = SimpleNamespace(losses=[]), []
    at = Progress(stage, done, total, 1.5, loss)
    fitting._on_progress(session, threading.Event(), at, lambda *at: told.append(at))
    ((_, words),) = told
    assert words.startswith(stage)
    assert "None" not in words


@pytest.mark.parametrize("stage", [*sorted(fitting.STAGES), *BETWEEN_CALLS])
@pytest.mark.parametrize(("done", "loss"), [(0, None), (6, None), (7, 0.25)])
def test_a_stop_keeps_what_a_step_has_trained_and_nothing_else(stage, done, loss):
    """Between the tiles of an ensemble steps are done, and the next tile has none of its own yet."""
    session, stop = SimpleNamespace(losses=[]), threading.Event()
    stop.set()
    with pytest.raises(admodels.Enough if loss is not None else admodels.Cancelled):
        fitting._on_progress(session, stop, Progress(stage, done, 9, 1.5, loss), lambda *at: None)


def test_the_estimate_says_what_will_be_downloaded():
    about = admodels.Estimate(4, 4, 2.0, 100.0, 1000.0, 1.0, "", network="resnet18")
    assert "downloaded" not in text.estimate(about)
    shown = text.estimate(dataclasses.replace(about, download_mib=44.6))
    assert "resnet18 are not on this machine yet: about 45 MiB will be downloaded first" in shown

"""Fits with the real package `spaces`, in a process of its own since that changes PyTorch; prints what came, as JSON.

Of the package only what needs the GPU itself is left out: to start CUDA in the worker, and to move tensors there. So
the worker computes on the CPU. Requests, queue, processes, pickling and errors are the package's own.
"""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

from tests.demo.zero_gpu_device import Device, gpu

DEVICE = Device()
os.environ |= {
    "SPACES_ZERO_GPU": "true",
    "SPACES_ZERO_DEVICE_API_URL": DEVICE.url,
    "ADMODELS_ENGINE": "torch",  # as on a GPU: OpenVINO's threads do not outlive the fork into a worker
    "OMP_NUM_THREADS": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "ADMODELS_HOME": tempfile.mkdtemp(prefix="admodels-home-"),
}

import spaces.zero.torch  # noqa: E402
from gradio.context import LocalContext  # noqa: E402
from gradio_client import handle_file  # noqa: E402
from starlette.datastructures import Headers  # noqa: E402

import admodels  # noqa: E402
from admodels.pictures import inspect_set  # noqa: E402
from demo.app import build, launch  # noqa: E402
from demo.state import zero_gpu  # noqa: E402
from tests.conftest import EXAMPLES, SMALL, client_of  # noqa: E402

SMALL = SMALL | {"efficientad": {"image_size": 64, "max_steps": 4}}

NORMALS = sorted((EXAMPLES / "pa_brg02_rl/train/good").glob("*"))[:8]
TOKEN = "head.e30.sign"  # e30 is an empty object: nothing is wrong with it


def fit(method="padim_isvd", pictures=NORMALS, on_progress=None):
    """A fit, and what it said of itself."""
    stages = []

    def told(at):
        stages.append(at.stage)
        if on_progress is not None:
            on_progress(at)

    n_asked, found = len(DEVICE.asked), {"error": None, "error_class": None, "not_done": None, "threshold": None}
    detector = admodels.create(method, device="cpu", **SMALL[method])
    try:
        fitted, found["not_done"] = zero_gpu.fit(
            detector, inspect_set(pictures), told, n_folds=None, false_alarm_rate=0.2, seed=3
        )
        found["threshold"] = fitted.calibration_.threshold
    except Exception as error:
        found |= {"error": str(error), "error_class": type(error).__name__}
    return found | {"stages": sorted(set(stages)), "asked": DEVICE.asked[n_asked:]}


def on_cpu(method="padim_isvd"):
    detector = admodels.create(method, device="cpu", precision="float32", **SMALL[method])
    return detector.fit(NORMALS, false_alarm_rate=0.2, seed=3).calibration_.threshold


def stop(at):
    raise admodels.Cancelled("stopped")


def kill_worker(at):
    if at.stage != zero_gpu.WAITING and kill_worker.pid is None:
        kill_worker.pid = int(DEVICE.of("/allow")[-1]["pid"])
        os.kill(kill_worker.pid, signal.SIGKILL)


kill_worker.pid = None


def main():
    for name in ("init", "move"):
        setattr(spaces.zero.torch, name, lambda *_, **__: None)
    LocalContext.request.set(SimpleNamespace(headers=Headers({"x-ip-token": TOKEN})))
    found = {"expected": {method: on_cpu(method) for method in ("padim_isvd", "tiled", "efficientad")}}
    found["first"] = fit()
    DEVICE.answers.append((200, gpu(idle=True)))
    found["second"] = fit()
    found["tiles"] = fit("tiled")
    with tempfile.TemporaryDirectory() as folder:
        pictures = [shutil.copy(path, folder) for path in NORMALS]
        given = inspect_set(pictures)
        Path(pictures[1]).unlink()  # the estimate looks at a few others
        found["wrong"] = fit(pictures=given.images)
    n_released = len(DEVICE.of("/release"))
    found["stopped"] = fit(on_progress=stop_at_work)
    DEVICE.wait_for("/release", n_released + 1)
    found["aborted"] = fit(on_progress=kill_worker)
    refusals = {
        "quota": (429, {"left": 7, "wait": 3600}),
        "expired": (401, {}),
        "none free": (503, {}),
        "broken": (500, {}),
        "queue timeout": ["event: ping", "event: failed"],
    }
    for name, answer in refusals.items():
        DEVICE.answers.append(answer)
        found[name] = fit()
    # Each call ends when it has trained: four steps take a call of two, two of one, and one for what follows.
    reserve, zero_gpu.RESERVE_SECONDS = zero_gpu.RESERVE_SECONDS, 1000
    found["several calls"] = fit("efficientad")
    DEVICE.answers += [(200, gpu()), refusals["quota"]]
    found["no second call"] = fit("efficientad")
    zero_gpu.RESERVE_SECONDS = reserve
    DEVICE.answers.append(refusals["quota"])
    found["no call"] = fit("fastflow")
    # The page that asked is gone by the time it is this fit's turn.
    gone = SimpleNamespace(_id="event", alive=False)
    LocalContext.blocks.set(SimpleNamespace(_queue=SimpleNamespace(active_jobs=[[gone]]), server=None))
    LocalContext.event_id.set("event")
    DEVICE.answers.append(["event: ping", "event: ping", f"event: succeeded\ndata: {json.dumps(gpu())}"])
    found["refreshed"] = fit()
    turn, n_released = threading.Event(), len(DEVICE.of("/release"))
    DEVICE.answers.append(["event: ping", turn, f"event: succeeded\ndata: {json.dumps(gpu())}"])
    found["stopped in the queue"] = fit(on_progress=stop)
    turn.set()
    DEVICE.wait_for("/release", n_released + 1)  # the GPU that came too late is given back
    LocalContext.blocks.set(None)
    LocalContext.event_id.set(None)

    demo = build()
    _, url, _ = launch(demo, prevent_thread_lock=True, server_port=None, quiet=True)
    given = [handle_file(str(path)) for path in NORMALS]
    asking = (given, "padim_isvd", 0.2, json.dumps(SMALL["padim_isvd"]), 3, "auto")
    client = client_of(url)
    found["app"] = client.predict(*asking, api_name="/fit")[2]
    DEVICE.answers.append(refusals["quota"])
    said, _, report = client.predict(*asking, api_name="/fit")
    found["app without quota"] = {"said": said, "zero_gpu": report["zero_gpu"]}
    found["n_reports"] = len(DEVICE.of("/startup-report"))
    print(json.dumps(found))
    sys.stdout.flush()
    for worker in multiprocessing.active_children():  # who reads what is printed waits for all that may print
        worker.kill()
    os._exit(0)  # the package's threads do not end by themselves


def stop_at_work(at):
    if at.stage != zero_gpu.WAITING:
        stop(at)


if __name__ == "__main__":
    main()

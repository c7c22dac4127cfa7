"""Start a server by itself, let clients inspect with models of their own choice, and check every score.

Endpoints of the app are called through `gradio_client`; `/v1/score` with the picture as the body, over a connection
that each client keeps.
"""

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
from gradio_client import Client, handle_file

import admodels
from admodels.evaluation.datasets import load_dataset
from admodels.models import Store

ROOT = Path(__file__).resolve().parents[3]
SETS = {"specks": "pa_brg02_rl", "fibres": "pa_brg03_tl"}
TOLERANCE = 1e-4  # of a score, relative: sums in another order
HTTP = "/v1/score"  # of the interface for programs
N_MEMORY = 10  # how often memory is looked at, after equal numbers of requests


@dataclass(frozen=True)
class Work:
    """What clients ask for: model, picture, and the score that the library gives."""

    model: str
    picture: Path
    score: float


@dataclass
class Found:
    """What happened."""

    n_pictures: int = 1  # in a request
    seconds: float = 0.0
    ended: list[float] = field(default_factory=list)  # when each request ended
    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    n_wrong: int = 0
    memory: dict[int, int] = field(default_factory=dict)  # bytes of the server, by number of requests

    @property
    def n_requests(self) -> int:
        return len(self.ended)

    @property
    def median_rate(self) -> float:
        """Pictures a second, the median over whole seconds."""
        return self.n_pictures * statistics.median(np.bincount(np.floor(self.ended).astype(int))[: int(self.seconds)])

    def latency(self, percent: float) -> float:
        return float(np.percentile(self.latencies, percent))


def prepare(home: Path, options: dict) -> tuple[list[Work], float]:
    """Fit and save a model for each set in the folder that the app is to use, and score the test pictures.

    Returns:
        What clients may ask for, and how many pictures a second `predict` scores in a loop.
    """
    store, work, seconds = Store(admodels.DETECTORS, home / "models"), [], []
    for name, folder in SETS.items():
        data = load_dataset(ROOT / "examples" / folder)
        detector = admodels.create("fapm", device="cpu", **options).fit(data.train)
        store.save(detector, name)
        for _ in range(3):
            for item in data.test:
                started = time.perf_counter()
                score = detector.predict(item.path).score
                seconds.append(time.perf_counter() - started)
                work.append(Work(name, item.path, score))
    return list(dict.fromkeys(work)), 1 / statistics.median(seconds)


@contextmanager
def serve(home: Path, *arguments: str, page: bool = True, **more: str) -> Iterator[tuple[str, psutil.Process]]:
    """The app, or a server without a page, in a process of its own; yields its address and the process.

    Args:
        arguments: of `python -m admodels serve`.
        more: environment variables.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = more | {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(home / "gradio"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "ADMODELS_HOME": str(home),
    }
    command = ["app.py"] if page else ["-m", "admodels", "serve", "--port", str(port), *arguments]
    with subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=os.environ | settings, stdout=subprocess.DEVNULL
    ) as started:
        address = f"http://127.0.0.1:{port}/"
        try:
            wait_for(address if page else f"{address}readyz", started)
            yield address, psutil.Process(started.pid)
        finally:
            started.terminate()


def wait_for(address: str, started: subprocess.Popen, seconds: float = 120) -> httpx.Response:
    """The first good answer of a server that was just started."""
    deadline = time.monotonic() + seconds
    while True:
        assert started.poll() is None, "it ended"
        assert time.monotonic() < deadline, "it does not answer"
        with suppress(httpx.TransportError):
            answer = httpx.get(address, timeout=60)
            if answer.is_success:
                return answer
        time.sleep(0.1)


def run(
    server: tuple[str, psutil.Process],
    work: list[Work],
    endpoint: str,
    n_clients: int,
    seconds: float,
    n_least: int,
    n_pictures: int = 1,
    on_begin: Callable[[], object] | None = None,
) -> Found:
    """Let clients inspect, each with its own model and pictures, for so long and for so many requests.

    Args:
        on_begin: called once all clients are there, just before their first requests that count.
    """
    address, process = server
    found, lock = Found(n_pictures), threading.Lock()
    every, began = max(n_least // N_MEMORY, 1), 0.0

    def begin() -> None:
        nonlocal began
        began = time.monotonic()
        if on_begin is not None:
            on_begin()

    ready = threading.Barrier(n_clients + 1, begin)

    def is_done() -> bool:
        return found.n_requests >= n_least and time.monotonic() - began > seconds

    def client(number: int) -> None:
        mine = work[number % len(work) :: n_clients] or [work[number % len(work)]]
        model = mine[0].model
        mine = [item for item in mine if item.model == model]
        try:
            ask = _asking(address, endpoint, model)
        except BaseException:
            ready.abort()  # nobody waits for who does not come
            raise
        ready.wait()
        for turn in range(10**9):
            if is_done():
                return
            items = [mine[(turn * n_pictures + i) % len(mine)] for i in range(n_pictures)]
            started = time.monotonic()
            try:
                is_wrong = not np.allclose(ask(items), [item.score for item in items], rtol=TOLERANCE)
                error = None
            except Exception as failed:  # counted, whatever it is
                is_wrong, error = False, f"{type(failed).__name__}: {failed}"
            now = time.monotonic()
            with lock:
                found.n_wrong += is_wrong
                found.errors += [error] if error else []
                found.ended.append(now - began)
                found.latencies.append(now - started)
                if found.n_requests % every == 0:
                    found.memory[found.n_requests] = _memory(process)

    threads = [threading.Thread(target=client, args=(i,), daemon=True) for i in range(n_clients)]
    for thread in threads:
        thread.start()
    ready.wait()
    for thread in threads:
        thread.join()
    found.seconds = time.monotonic() - began
    return found


def _memory(process: psutil.Process) -> int:
    """Bytes of a server with its workers."""
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))


def _asking(address: str, endpoint: str, model: str) -> Callable[[list[Work]], list[float]]:
    """What asks for the scores of pictures."""
    if endpoint == HTTP:
        return _asking_by_http(address, model)
    # No certificates: the client would read those of the machine for each request, 20 ms of the shared cores.
    api = Client(address, verbose=False, download_files=False, ssl_verify=False, httpx_kwargs={"timeout": 60})
    api.predict(model, api_name="/load_model")
    rest = () if endpoint == "/score" else (0.7, True)

    def ask(items: list[Work]) -> list[float]:
        answer = api.predict([handle_file(str(item.picture)) for item in items], *rest, api_name=endpoint)
        return [row["score"] for row in (answer if endpoint == "/score" else answer[-1])]

    return ask


def _asking_by_http(address: str, model: str) -> Callable[[list[Work]], list[float]]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    contents: dict[Path, bytes] = {}

    def ask(items: list[Work]) -> list[float]:
        pictures = [contents.setdefault(item.picture, item.picture.read_bytes()) for item in items]
        body, headers = pictures[0], {}
        if len(pictures) > 1:
            parts = [
                b'--cut\r\nContent-Disposition: form-data; name="p"; filename="p"\r\n\r\n%b\r\n' % p for p in pictures
            ]
            body, headers = b"".join(parts) + b"--cut--\r\n", {"Content-Type": "multipart/form-data; boundary=cut"}
        connection.request("POST", f"{HTTP}?model=local:{model}", body, headers)
        answer = connection.getresponse()
        said = json.loads(answer.read())
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {said}")
        return [row["score"] for row in said.get("pictures", [said])]

    ask([Work(model, picture, 0.0) for picture in _some_picture()])  # the model is loaded, as for the others
    return ask


def _some_picture() -> list[Path]:
    return [next((ROOT / "examples" / SETS["specks"]).rglob("*.png"))]

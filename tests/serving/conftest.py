"""What the tests of serving share: saved models, and servers of this process."""

import threading
from contextlib import contextmanager

import httpx
import pytest
import uvicorn

import admodels
from admodels.models.store import Store
from admodels.serving.http import Service, Settings
from admodels.serving.http.server import standalone
from tests.conftest import SMALL, until


@pytest.fixture(scope="module")
def store(tmp_path_factory, example):
    """Two models of other methods."""
    store = Store(admodels.DETECTORS, tmp_path_factory.mktemp("served"))
    for name, method in (("specks", "fapm"), ("other", "padim")):
        store.save(admodels.create(method, device="cpu", **SMALL[method]).fit(example.train), name)
    return store


@contextmanager
def serving(store, around=None, **settings):
    """A server in this process; yields a client and the service."""
    more = {"around": around} if around is not None else {}
    service = Service(store, admodels.HUB, Settings(**{"device": "cpu"} | settings), **more)
    server = uvicorn.Server(uvicorn.Config(standalone(service), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client, service
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def served(store):
    with serving(store) as (client, _):
        yield client


@pytest.fixture(scope="module")
def picture(example):
    """A defective picture."""
    return next(item.path for item in example.test if item.is_defective)

"""A server without a page: `python -m admodels serve`."""

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette

from admodels.api import HUB, LOCAL
from admodels.errors import AdmodelsError, OptionError
from admodels.models.store import LOCAL_PREFIX
from admodels.runtime.device import usable_cores
from admodels.runtime.memory import keep_freed_memory
from admodels.serving.http.metrics import MULTIPROCESS
from admodels.serving.http.routes import routes
from admodels.serving.http.service import Service
from admodels.serving.http.settings import Settings, is_loopback, n_workers
from admodels.serving.models import AUTO, in_full

LOG = logging.getLogger(__name__)
# How the options of `serve` reach its worker processes.
HOST, DEVICE, MODEL = "ADMODELS_SERVE_HOST", "ADMODELS_SERVE_DEVICE", "ADMODELS_SERVE_MODEL"
TRY_AGAIN_SECONDS = 10.0
CLOSING_SECONDS = 30  # for requests that run when the server is asked to end


def serve(host: str, port: int, *, device: str = "auto", model: str = "") -> None:
    """Serve until interrupted.

    Args:
        model: of requests that name none; it is loaded before the server says that it is ready.

    Raises:
        OptionError: a setting cannot be used.
        StoreError: there is no such model.
    """
    settings, workers = Settings.from_environment(host=host, device=device, default_model=model), n_workers()
    if workers > usable_cores():
        raise OptionError(
            f"ADMODELS_WORKERS is {workers}, and there are {usable_cores()} cores; expected at most one for each."
        )
    check_model(model)
    if not settings.api_key and not is_loopback(host):
        LOG.warning("Everybody who reaches %s can have pictures scored. Set ADMODELS_API_KEY to ask for a key.", host)
    os.environ |= {HOST: host, DEVICE: device, MODEL: model}
    with tempfile.TemporaryDirectory(prefix="admodels-metrics-") as shared:
        if workers > 1:
            os.environ[MULTIPROCESS] = shared
            os.environ["OMP_NUM_THREADS"] = str(max(1, usable_cores() // workers))
        uvicorn.run(
            "admodels.serving.http.server:application",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=CLOSING_SECONDS,
        )


def check_model(reference: str) -> None:
    """See that a saved model is there, before processes are started that would each say so.

    Raises:
        StoreError: it is not, or cannot be read.
    """
    if reference not in ("", AUTO) and in_full(reference).startswith(LOCAL_PREFIX):
        LOCAL.show(in_full(reference))


def application() -> Starlette:
    """What each worker process runs, by the options that `serve` left in the environment."""
    keep_freed_memory()
    settings = Settings.from_environment(
        host=os.environ.get(HOST, "127.0.0.1"),
        device=os.environ.get(DEVICE, "auto"),
        default_model=os.environ.get(MODEL, ""),
    )
    return standalone(Service(LOCAL, HUB, settings))


def standalone(service: Service) -> Starlette:
    """A service as an application of its own."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        loading = None
        if service.settings.default_model:
            service.is_ready = False
            loading = asyncio.create_task(_load_default(service))
        yield
        if loading is not None:
            loading.cancel()
        service.close()

    return Starlette(routes=routes(service), lifespan=lifespan)


async def _load_default(service: Service) -> None:
    """Until it is there: the Hub may be out of reach for now, or somebody is about to save it."""
    said = ""
    while not service.is_ready:
        try:
            await service.load(service.settings.default_model)
            service.is_ready = True
        except AdmodelsError as error:
            if str(error) != said:
                said = str(error)
                LOG.warning("%s Trying again every %g s.", said, TRY_AGAIN_SECONDS)
            await asyncio.sleep(TRY_AGAIN_SECONDS)

"""The same endpoints on Ray Serve: replicas that score, on one machine or many, and a front that sends them pictures.

Where a replica dies, the pictures that it had are sent to another one: to score a picture twice does no harm. Ray
starts a new one in its place. Every machine needs this library and the saved models: a models' folder that all of them
see, or models of the Hub.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from admodels.api import HUB, LOCAL
from admodels.errors import AdmodelsError, OptionError
from admodels.serving.batches import Places
from admodels.serving.http.metrics import Metrics
from admodels.serving.http.routes import refusal, routes
from admodels.serving.http.server import check_model
from admodels.serving.http.service import WAITING_BYTES, Given, Service, Wanted
from admodels.serving.http.settings import Settings

APP, REPLICAS = "admodels", "Replica"
AT_ONCE = 32  # requests that a replica has at a time, so that batches form
WANTED_AT_ONCE = 8  # from there on another replica is worth it
MAX_TRIES, PAUSE_SECONDS = 6, 0.25


@dataclass(frozen=True)
class Replicas:
    """How many score: a fixed number, or as many as the load asks for."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> "Replicas":
        """`2`, or `1-4`.

        Raises:
            OptionError: it is neither.
        """
        first, separator, last = text.strip().partition("-")
        numbers = [first, last if separator else first]
        if not all(n.isascii() and n.isdecimal() and int(n) > 0 for n in numbers) or int(numbers[0]) > int(numbers[1]):
            raise OptionError(f"--replicas is {text!r}; expected a number such as 2, or a range such as 1-4.")
        return cls(*map(int, numbers))


@dataclass(frozen=True)
class Refusal:
    """An error of the library on its way to another process."""

    status: int
    detail: str
    headers: dict[str, str] | None


class Replica:
    """Scores pictures in a process of its own."""

    def __init__(self, settings: Settings) -> None:
        self._service = Service(LOCAL, HUB, settings)
        if settings.default_model:
            self._service.models.prepare(settings.default_model)

    async def score(self, wanted: Wanted, given: Sequence[Given]) -> list[dict[str, Any]] | Refusal:
        """What is said of each picture."""
        try:
            return await self._service.score(wanted, given)
        except AdmodelsError as error:
            return Refusal(*refusal(error))


class Front:
    """What the endpoints need, from replicas elsewhere."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.store = settings, LOCAL
        self.metrics = Metrics()
        self.places = Places(settings.max_waiting, WAITING_BYTES)
        self.is_ready = True  # a replica counts as started when its model is loaded

    async def score(self, wanted: Wanted, given: Sequence[Given]) -> list[dict[str, Any]]:
        """As `Service`; a request that a replica died with goes to another one."""
        from ray import serve
        from ray.exceptions import RayActorError

        handle = serve.get_deployment_handle(REPLICAS, APP)
        for attempt in range(1, MAX_TRIES + 1):
            try:
                said = await handle.score.remote(wanted, given)
                break
            except RayActorError:
                if attempt == MAX_TRIES:
                    raise
                await asyncio.sleep(attempt * PAUSE_SECONDS)
        if isinstance(said, Refusal):
            raise HTTPException(said.status, said.detail, said.headers)
        return said

    def held(self) -> list[dict[str, Any]]:
        """Each replica has its own; none is here."""
        return []


def serve_on_ray(host: str, port: int, replicas: Replicas, *, device: str = "auto", model: str = "") -> None:
    """Serve until interrupted, on the cluster that `RAY_ADDRESS` names or on one that is started here.

    Raises:
        OptionError: Ray Serve is not installed, or a setting cannot be used.
        StoreError, HubError: there is no such model.
    """
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise OptionError(
            f"--ray needs Ray Serve, and {error.name} is missing: pip install 'admodels[serve,cluster]'"
        ) from error
    settings = Settings.from_environment(host=host, device=device, default_model=model)
    check_model(model)
    is_ours = not os.environ.get("RAY_ADDRESS")
    ray.init(log_to_driver=False, **({"address": "local", "include_dashboard": False} if is_ours else {}))
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # Ray's own handlers would leave its processes behind
        signal.signal(number, lambda *_: ended.set())
    try:
        serve.start(http_options={"host": host, "port": port}, proxy_location="HeadOnly")
        serve.run(_application(settings, replicas), name=APP, route_prefix="/")
        ended.wait()
    finally:
        if is_ours:
            serve.shutdown()
        else:  # others may serve there too
            serve.delete(APP)
        ray.shutdown()


def _application(settings: Settings, replicas: Replicas) -> Any:
    """Front and replicas, for `serve.run`."""
    from ray import serve

    scaling: dict[str, Any] = {"num_replicas": replicas.least}
    if replicas.most > replicas.least:
        within = {"min_replicas": replicas.least, "max_replicas": replicas.most}
        scaling = {"autoscaling_config": within | {"target_ongoing_requests": WANTED_AT_ONCE}}
    gpus = {"num_gpus": 1} if settings.device.startswith("cuda") else {}
    scorers = serve.deployment(
        Replica, name=REPLICAS, max_ongoing_requests=AT_ONCE, ray_actor_options={"num_cpus": 1} | gpus, **scaling
    ).bind(settings)

    def build() -> Starlette:
        return Starlette(routes=routes(Front(settings)))

    front = serve.deployment(
        serve.ingress(build)(),
        name="Front",
        max_ongoing_requests=4 * settings.max_waiting,  # it refuses by itself what is too much
        ray_actor_options={"num_cpus": 0},
    )
    return front.bind(scorers)

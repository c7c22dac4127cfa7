"""What the endpoints have in common: models, the queue, threads that decode, figures."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from admodels.core.calibration import check_rate
from admodels.core.detector import Prepared
from admodels.errors import ImageError, ImageSetError
from admodels.models.hub import Hub
from admodels.models.store import Store
from admodels.pictures.images import picture_name
from admodels.runtime.device import usable_cores
from admodels.serving import answers
from admodels.serving.batches import Batches, Judged, Places
from admodels.serving.http.metrics import Metrics
from admodels.serving.http.settings import Settings
from admodels.serving.models import AUTO, Models, Served
from admodels.serving.routing import choose, of_unknown, said_of

T = TypeVar("T")
N_LOADERS = 4  # models that are loaded or downloaded at a time
WAITING_BYTES = 2**30  # of pictures that are here at a time, as they came


@dataclass(frozen=True)
class Given:
    """A picture as it came."""

    content: bytes
    name: str = ""

    def named(self, position: int) -> str:
        """Its name, or its number."""
        return self.name or picture_name(self.content, position)


@dataclass(frozen=True)
class Wanted:
    """What a request asks for.

    Attributes:
        rate: the false-alarm rate of the threshold; None takes the model's own.
        map: none, png or npy.
    """

    model: str
    rate: float | None = None
    map: str = "none"
    regions: bool = False


class Scoring(Protocol):
    """What the endpoints need.

    Attributes:
        is_ready: whether it is the moment to send pictures.
    """

    settings: Settings
    store: Store
    metrics: Metrics
    places: Places
    is_ready: bool

    async def score(self, wanted: Wanted, given: Sequence[Given]) -> list[dict[str, Any]]:
        """What is said of each picture, in the order in which they came: plain values."""

    def held(self) -> list[dict[str, Any]]:
        """The models that are in memory."""


class Service:
    """Scores pictures for requests, in this process.

    Args:
        around: a context that each batch is scored in.
    """

    def __init__(
        self,
        store: Store,
        hub: Hub,
        settings: Settings,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.settings, self.store = settings, store
        self.models = Models(
            store,
            hub,
            device=settings.device,
            max_bytes=settings.max_model_bytes,
            takes_hub=settings.takes_hub,
        )
        self.metrics = Metrics()
        self.places = Places(settings.max_waiting, WAITING_BYTES)
        self.is_ready = True
        self._batches = Batches(around, self._note_batch)
        self._decoders = ThreadPoolExecutor(usable_cores() + 1, "decoding")
        self._loaders = ThreadPoolExecutor(N_LOADERS, "loading")
        self._coming: dict[str, asyncio.Future[Served]] = {}

    async def score(self, wanted: Wanted, given: Sequence[Given]) -> list[dict[str, Any]]:
        """What is said of each picture, in the order in which they came.

        Raises:
            StoreError, HubError: there is no such model.
            OptionError: what is wanted cannot be had.
            ImageError: the picture cannot be used.
            ImageSetError: of several pictures some cannot be used; all of them are named.
        """
        if wanted.rate is not None:  # what cannot be is refused before anything is scored
            check_rate(wanted.rate)
        if wanted.model == AUTO:
            known = await self._load(self.models.known)
            choices = await self._each(given, lambda item, i: choose(item.content, item.named(i), known))
            names = list(dict.fromkeys(choice.name for choice in choices if choice.name is not None))
        else:
            names, choices = [wanted.model], []
        models = {name: await self._model(name) for name in names}
        self.metrics.models.set(len(self.models.held))
        of_each = [models.get(choice.name) for choice in choices] or [models[wanted.model]] * len(given)
        prepared = await self._each(given, lambda item, i: _prepared(of_each[i], item, i))
        judged = await asyncio.gather(
            *(
                asyncio.wrap_future(self._batches.score(served.detector, item))
                for served, (item, _) in zip(of_each, prepared, strict=True)
                if served is not None
            )
        )
        # Drawing and looking for regions take time that would keep others from being answered.
        is_quick, left, rows = wanted.map == "none" and not wanted.regions, iter(judged), []
        for i, (item, served, (_, decoding)) in enumerate(zip(given, of_each, prepared, strict=True)):
            if served is None:
                row = of_unknown(item.named(i))
            else:
                about = (served, item, i, next(left), decoding, wanted)
                row = _answer(*about) if is_quick else await self._run(_answer, *about)
            if choices:
                row["routed"] = said_of(choices[i], known)
            rows.append(row)
        return rows

    async def _model(self, reference: str) -> Served:
        """A model as it is now. However many requests wait for it, only one thread does."""
        coming = self._coming.get(reference)
        if coming is None:
            coming = self._coming[reference] = asyncio.ensure_future(self._load(self.models.get, reference))
            coming.add_done_callback(lambda _: self._coming.pop(reference, None))
        return await asyncio.shield(coming)

    async def _each(self, given: Sequence[Given], do: Callable[[Given, int], T]) -> list[T]:
        """What is made of each picture in other threads; all that cannot be used are named."""
        found = await asyncio.gather(*(self._run(do, item, i) for i, item in enumerate(given)), return_exceptions=True)
        errors = [each for each in found if isinstance(each, BaseException)]
        for error in errors:
            if not isinstance(error, ImageError) or len(given) == 1:
                raise error
        if errors:
            raise ImageSetError(errors, len(given))
        return found

    def _run(self, do: Callable[..., T], *arguments: Any) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._decoders, do, *arguments)

    def _load(self, do: Callable[..., T], *arguments: Any) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._loaders, do, *arguments)

    async def load(self, reference: str) -> None:
        """Load a model before anybody asks for it."""
        await self._load(self.models.prepare, reference)

    def held(self) -> list[dict[str, Any]]:
        """The models that are in memory."""
        return [answers.of_model(served) for served in self.models.held]

    def close(self) -> None:
        """Score what waits, then end the threads."""
        self.is_ready = False
        self._decoders.shutdown(cancel_futures=False)
        self._batches.close()
        self._loaders.shutdown(wait=False, cancel_futures=True)

    def _note_batch(self, n: int, seconds: float) -> None:
        self.places.learn(seconds / n)
        self.metrics.batches.observe(n)
        self.metrics.scoring.observe(seconds)


def _prepared(served: Served | None, given: Given, position: int) -> tuple[Prepared | None, float]:
    """A picture ready for its model's network, and the seconds that took; nothing, where it has no model."""
    return (None, 0.0) if served is None else served.prepared(given.content, given.named(position))


def _answer(
    served: Served, given: Given, position: int, judged: Judged, decoding: float, wanted: Wanted
) -> dict[str, Any]:
    name, prediction = given.named(position), judged.prediction.judged(served.calibration(wanted.rate))
    took = {"decoding": decoding, "waiting": judged.waiting, "scoring": judged.scoring}
    row = answers.of_scored(served, name, prediction, regions=wanted.regions, seconds=took, n_batch=judged.n_batch)
    if wanted.map == "png":  # decoded again, since large pixels of all that wait would need much memory
        row["map"] = answers.map_as_png(served.detector.read(given.content, name=name), prediction)
    elif wanted.map == "npy":
        row["map"] = answers.map_as_npy(prediction)
    return row | {"model_notices": list(served.notices)} if served.notices else row

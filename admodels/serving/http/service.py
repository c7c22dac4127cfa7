"""What the endpoints have in common: models, the queue, threads that decode, figures."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from admodels.core.calibration import Calibration
from admodels.core.detector import Prepared
from admodels.core.results import Prediction
from admodels.errors import ImageError, ImageSetError
from admodels.models.hub import Hub
from admodels.models.store import Store
from admodels.pictures.images import picture_name
from admodels.runtime.device import usable_cores
from admodels.serving import answers
from admodels.serving.batches import Batches, Judged, Places
from admodels.serving.http.metrics import Metrics
from admodels.serving.http.settings import Settings
from admodels.serving.models import Models, Served

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


@dataclass(frozen=True)
class Said:
    """What a request is answered: plain values, which another process may send.

    Attributes:
        model: which one said it, and `notices` what its users should know.
        pictures: what was found in each, in the order in which they came.
    """

    model: dict[str, Any]
    notices: tuple[str, ...]
    pictures: list[dict[str, Any]]


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

    async def score(self, wanted: Wanted, given: Sequence[Given]) -> Said:
        """What a model says of pictures."""

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
        self._loaders = ThreadPoolExecutor(4, "loading")  # a download keeps nobody from being answered

    async def score(self, wanted: Wanted, given: Sequence[Given]) -> Said:
        """What a model says of pictures.

        Raises:
            StoreError, HubError: there is no such model.
            OptionError: what is wanted cannot be had.
            ImageError: the picture cannot be used.
            ImageSetError: of several pictures some cannot be used; all of them are named.
        """
        loop = asyncio.get_running_loop()
        served = await loop.run_in_executor(self._loaders, self.models.get, wanted.model)
        self.metrics.models.set(len(self.models.held))
        calibration = served.detector.fitted_.calibration
        if wanted.rate is not None:
            calibration = calibration.with_rate(wanted.rate)
        read = [loop.run_in_executor(self._decoders, _prepared, served, item, i) for i, item in enumerate(given)]
        prepared = await asyncio.gather(*read, return_exceptions=True)
        if errors := [found for found in prepared if isinstance(found, BaseException)]:
            unexpected = [error for error in errors if not isinstance(error, ImageError)]
            raise (unexpected or errors)[0] if unexpected or len(given) == 1 else ImageSetError(errors, len(given))
        judged = [asyncio.wrap_future(self._batches.score(served.detector, item)) for item, _ in prepared]
        said = await asyncio.gather(*judged)
        rows = []
        for i, (item, one, (_, decoding)) in enumerate(zip(given, said, prepared, strict=True)):
            arguments = (served, item, i, one, decoding, calibration, wanted)
            is_quick = wanted.map == "none" and not wanted.regions  # the rest would keep others from being answered
            rows.append(
                _answer(*arguments) if is_quick else await loop.run_in_executor(self._decoders, _answer, *arguments)
            )
        return Said(answers.of_model(served), served.notices, rows)

    def held(self) -> list[dict[str, Any]]:
        """The models that are in memory."""
        return [answers.of_model(served) for served in self.models.held]

    async def load(self, reference: str) -> Served:
        """A model, loaded before anybody asks for it."""
        return await asyncio.get_running_loop().run_in_executor(self._loaders, self.models.get, reference)

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


def _prepared(served: Served, given: Given, position: int) -> tuple[Prepared, float]:
    """A picture ready for the network, and the seconds that took."""
    started = time.perf_counter()
    decoded = served.detector.read(given.content, name=given.named(position))
    return served.detector.prepare(decoded), time.perf_counter() - started


def _answer(
    served: Served,
    given: Given,
    position: int,
    judged: Judged,
    decoding: float,
    calibration: Calibration,
    wanted: Wanted,
) -> dict[str, Any]:
    prediction: Prediction = judged.prediction.judged(calibration)
    name = given.named(position)
    row = answers.of_picture(name, prediction, regions=wanted.regions)
    if wanted.map == "png":  # decoded again, since large pixels of all that wait would need much memory
        row["map"] = answers.map_as_png(served.detector.read(given.content, name=name), prediction)
    elif wanted.map == "npy":
        row["map"] = answers.map_as_npy(prediction)
    took = {"decoding": decoding, "waiting": judged.waiting, "scoring": judged.scoring}
    row["milliseconds"] = {step: round(1000 * seconds, 2) for step, seconds in took.items()}
    row["n_batch"] = judged.n_batch
    return row

"""From pictures to rows: what a watcher says of each."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from admodels.core.detector import Prepared
from admodels.errors import AdmodelsError, ScoreError
from admodels.serving import answers
from admodels.serving.batches import predictions
from admodels.serving.models import Models, Served, in_full


@dataclass(frozen=True)
class Ready:
    """A picture that is decoded.

    Attributes:
        picture, path: its name, and where it is from.
        decoding: seconds that took; `since`, when it was over.
    """

    picture: str
    path: str
    prepared: Prepared
    decoding: float
    since: float


class Scorer:
    """What is said of pictures, by a model that may be replaced meanwhile.

    Args:
        rate: the false-alarm rate of the threshold; None takes the model's own.
        regions: whether rows say where in a picture.
    """

    def __init__(self, models: Models, reference: str, *, rate: float | None = None, regions: bool = False) -> None:
        self._models, self.reference, self._rate, self._regions = models, reference, rate, regions

    @property
    def key(self) -> str:
        """The model's name in full, as it was given."""
        return in_full(self.reference)

    def load(self, tell: Callable[[str], None]) -> None:
        """Load the model, and say what whoever uses it should know.

        Raises:
            StoreError, HubError, OptionError: as `served`.
        """
        for notice in self.served().notices:
            tell(notice)

    def served(self) -> Served:
        """The model as it is now.

        Raises:
            StoreError, HubError: there is none, or it cannot be read.
            OptionError: it cannot have that false-alarm rate.
        """
        served = self._models.get(self.reference)
        served.calibration(self._rate)
        return served

    def ready(self, served: Served, image: Path | np.ndarray, picture: str, path: str) -> Ready:
        """Decode a picture.

        Raises:
            ImageError: it cannot be used.
        """
        prepared, decoding = served.prepared(image, picture)
        return Ready(picture, path, prepared, decoding, time.perf_counter())

    def rows(self, served: Served, batch: Sequence[Ready]) -> list[dict[str, Any]]:
        """A row for each picture."""
        calibration = served.calibration(self._rate)
        started = time.perf_counter()
        found = predictions([item.prepared for item in batch], served.detector)
        scoring = time.perf_counter() - started
        rows = []
        for item, said in zip(batch, found, strict=True):
            if isinstance(said, ScoreError):
                rows.append(self.error_row(served, item.picture, item.path, said))
                continue
            if isinstance(said, Exception):
                raise said
            took = {"decoding": item.decoding, "waiting": started - item.since, "scoring": scoring}
            row = answers.of_scored(
                served,
                item.picture,
                said.judged(calibration),
                regions=self._regions,
                seconds=took,
                n_batch=len(batch),
            )
            rows.append(row | _origin(served, item.path))
        return rows

    def error_row(self, served: Served, picture: str, path: str, error: AdmodelsError) -> dict[str, Any]:
        """The row of a picture of which nothing can be said."""
        return {"picture": picture, "error": str(error), **_origin(served, path)}


def _origin(served: Served, path: str) -> dict[str, Any]:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"path": path, "model": answers.of_model(served), "at": at}

"""From pictures to rows: what a watcher says of each."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from admodels.core.calibration import check_rate
from admodels.core.detector import Prepared
from admodels.core.method import BATCH_SIZE
from admodels.errors import AdmodelsError, ImageError, ScoreError
from admodels.serving import answers
from admodels.serving.batches import predictions
from admodels.serving.models import AUTO, Known, Models, Served, in_full
from admodels.serving.routing import choose, not_considered, of_unknown, said_of


@dataclass(frozen=True)
class Current:
    """What pictures are scored by for a while.

    Attributes:
        served: the model; None where each picture is scored by the saved model whose good pictures it resembles.
        known: the saved models that are chosen from, by reference.
    """

    served: Served | None
    known: Mapping[str, Known] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        """Pictures that are worth scoring together."""
        return BATCH_SIZE if self.served is None else self.served.detector.batch_size


@dataclass(frozen=True)
class Ready:
    """A picture that is decoded.

    Attributes:
        picture, path: its name, and where it is from.
        served: the model that scores it; None where no saved model is for it.
        prepared: for that model's network.
        decoding: seconds that took; `since`, when it was over.
        chosen: what the row says of how the model was chosen.
    """

    picture: str
    path: str
    served: Served | None
    prepared: Prepared | None
    decoding: float
    since: float
    chosen: Mapping[str, Any] = field(default_factory=dict)


class Scorer:
    """What is said of pictures, by models that may be replaced meanwhile.

    Args:
        reference: of the model; `auto` chooses among the saved ones for each picture.
        rate: the false-alarm rate of the threshold; None takes the model's own.
        regions: whether rows say where in a picture.
    """

    def __init__(self, models: Models, reference: str, *, rate: float | None = None, regions: bool = False) -> None:
        self._models, self._rate, self._regions = models, rate, regions
        self._is_auto = reference.strip() == AUTO
        self.key = AUTO if self._is_auto else in_full(reference)  # the model's name in full
        self.shown = "The saved models" if self._is_auto else self.key

    def load(self, tell: Callable[[str], None]) -> None:
        """Load the model, and say what whoever uses it should know; and which cannot be chosen.

        Raises:
            StoreError, HubError, OptionError: as `current`.
        """
        if self._rate is not None:
            check_rate(self._rate)
        current = self.current()
        for notice in () if current.served is None else current.served.notices:
            tell(notice)
        if left := not_considered(current.known):
            tell(f"{', '.join(left)} cannot be chosen: saved by an earlier version, or damaged. Fit again.")

    def current(self) -> Current:
        """What pictures are scored by now.

        Raises:
            StoreError, HubError: there is no such model, or it cannot be read.
        """
        return Current(None, self._models.known()) if self._is_auto else Current(self._models.get(self.key))

    def ready(self, current: Current, image: Path | np.ndarray, picture: str, path: str) -> Ready:
        """Decode a picture, and choose its model where there is a choice.

        Raises:
            ImageError: it cannot be used.
            StoreError: the model that was chosen is gone, or cannot be read.
        """
        served, chosen = current.served, {}
        if served is None:
            choice = choose(image, picture, current.known)
            chosen = {"routed": said_of(choice, current.known)}
            if choice.name is None:
                return Ready(picture, path, None, None, 0.0, time.perf_counter(), chosen)
            served = self._models.get(choice.name)
        prepared, decoding = served.prepared(image, picture)
        return Ready(picture, path, served, prepared, decoding, time.perf_counter(), chosen)

    def row(self, current: Current, image: np.ndarray, picture: str, path: str) -> dict[str, Any]:
        """The row of one picture by itself.

        Raises:
            StoreError: as `ready`.
        """
        try:
            (row,) = self.rows([self.ready(current, image, picture, path)])
        except ImageError as error:
            return self.error_row(current.served, picture, path, error)
        return row

    def rows(self, batch: Sequence[Ready]) -> list[dict[str, Any]]:
        """A row for each picture; those of the same model are scored together."""
        rows: list[dict[str, Any]] = [{} for _ in batch]
        for served in dict.fromkeys(item.served for item in batch):
            positions = [i for i, item in enumerate(batch) if item.served is served]
            own = [batch[i] for i in positions]
            found = map(_of_unknown, own) if served is None else self._of_model(served, own)
            for i, row in zip(positions, found, strict=True):
                rows[i] = row
        return rows

    def error_row(self, served: Served | None, picture: str, path: str, error: AdmodelsError) -> dict[str, Any]:
        """The row of a picture of which nothing can be said."""
        return {"picture": picture, "error": str(error), **_origin(served, path)}

    def _of_model(self, served: Served, ready: Sequence[Ready]) -> Iterable[dict[str, Any]]:
        n = served.detector.batch_size
        for start in range(0, len(ready), n):
            yield from self._of_batch(served, ready[start : start + n])

    def _of_batch(self, served: Served, batch: Sequence[Ready]) -> list[dict[str, Any]]:
        calibration = served.calibration(self._rate)
        started = time.perf_counter()
        found = predictions([item.prepared for item in batch], served.detector)
        scoring = time.perf_counter() - started
        rows = []
        for item, said in zip(batch, found, strict=True):
            if isinstance(said, ScoreError):
                rows.append(self.error_row(served, item.picture, item.path, said) | item.chosen)
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
            rows.append(row | item.chosen | _origin(served, item.path))
        return rows


def _of_unknown(item: Ready) -> dict[str, Any]:
    return of_unknown(item.picture) | item.chosen | _origin(None, item.path)


def _origin(served: Served | None, path: str) -> dict[str, Any]:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"path": path, "model": None if served is None else answers.of_model(served), "at": at}

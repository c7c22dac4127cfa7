"""The models that requests name: each is loaded once, and again where it was replaced meanwhile."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from admodels.core.calibration import Calibration
from admodels.core.detector import Detector, Prepared
from admodels.core.product import Product
from admodels.errors import ModelNotFoundError, OptionError, StoreError
from admodels.limits import limit
from admodels.models.hub import Hub
from admodels.models.references import PREFIX
from admodels.models.store import LOCAL_PREFIX, Store
from admodels.pictures.images import ImageLike
from admodels.pictures.value_range import ValueRange

AUTO = "auto"  # in place of a name: the saved model whose good pictures a picture resembles
MAX_MODEL_GIB = 4  # of models in memory, unless ADMODELS_MAX_SERVED_GIB says otherwise
LOOK_AGAIN = 1.0  # seconds that a saved model is taken to be what it was


@dataclass(frozen=True, eq=False)
class Served:
    """A model that is in memory.

    Attributes:
        reference: that a program can name it by, pinned to the commit where it is of the Hub.
        version: what tells it from every other that has its name, before and after; the commit where it is of the Hub.
        notices: what whoever uses it should know.
    """

    reference: str
    version: str
    detector: Detector
    notices: tuple[str, ...] = ()

    def calibration(self, rate: float | None) -> Calibration:
        """The model's own, or with the threshold for another false-alarm rate.

        Raises:
            OptionError: there is no such rate.
        """
        own = self.detector.fitted_.calibration
        return own if rate is None else own.with_rate(rate)

    def prepared(self, image: ImageLike, name: str) -> tuple[Prepared, float]:
        """A picture ready for the model's network, and the seconds that took.

        Raises:
            ImageError: it cannot be used.
        """
        started = time.perf_counter()
        found = self.detector.prepare(self.detector.read(image, name=name))
        return found, time.perf_counter() - started


@dataclass(frozen=True)
class Known:
    """A saved model as a product that a picture may show.

    Attributes:
        version: of the model.
        product: None where the model was saved before it was kept, or cannot be read.
        value_range: how values of more than 8 bits are read.
    """

    version: str
    product: Product | None
    value_range: ValueRange | None


NOT_KNOWN = Known("", None, None)


@dataclass(eq=False)
class _Slot:
    """One name's model, and who may load it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    served: Served | None = None
    looked_at: float = 0.0


class Models:
    """Loads models as they are asked for, and lets go those not used for the longest time where memory ends.

    Args:
        max_bytes: of all that are held; the one in use is held even if it is larger.
        takes_hub: whether models of the Hub may be named, which are downloaded.
    """

    def __init__(self, store: Store, hub: Hub, *, device: str, max_bytes: int, takes_hub: bool) -> None:
        self.store, self._hub, self._device = store, hub, device
        self._max_bytes, self._takes_hub = max_bytes, takes_hub
        self._slots: OrderedDict[str, _Slot] = OrderedDict()  # the one used last comes last
        self._lock = threading.Lock()
        self._known: dict[str, Known] = {}
        self._known_at = -math.inf
        self._looking = threading.Lock()

    @property
    def held(self) -> list[Served]:
        """Those in memory now."""
        with self._lock:
            return [slot.served for slot in self._slots.values() if slot.served is not None]

    def get(self, reference: str) -> Served:
        """The model of this name as it is now. It may be loaded or downloaded first, which can take long.

        Raises:
            StoreError, HubError: there is no such model, or it cannot be read.
            OptionError: models of the Hub may not be named here.
        """
        key = in_full(reference)
        is_of_hub = key.startswith(PREFIX)
        if is_of_hub and not self._takes_hub:
            raise OptionError(
                f"{reference!r} is a model of the Hub, and this server downloads none, because everybody who reaches "
                "it could ask for any. Name a saved model, such as local:bolts; or set ADMODELS_API_KEY."
            )
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
        try:
            with slot.lock:
                served = self._newest(key, slot, self._of_hub if is_of_hub else self._of_store)
        except Exception:
            with self._lock:
                if slot.served is None and self._slots.get(key) is slot:
                    del self._slots[key]  # names that mean nothing are not kept
            raise
        return served

    def known(self) -> dict[str, Known]:
        """All saved models as products, by reference.

        Raises:
            StoreError: the models' folder cannot be read.
            ModelNotFoundError: none of them can be chosen by what it looks like.
        """
        with self._looking:
            if time.monotonic() - self._known_at > LOOK_AGAIN:
                found, unreadable = self.store.look()
                known = {LOCAL_PREFIX + folder.name: NOT_KNOWN for folder in unreadable}
                for info in found:
                    with suppress(ModelNotFoundError):  # deleted meanwhile
                        known[info.reference] = self._known_of(info.reference)
                self._known, self._known_at = known, time.monotonic()
            known = self._known
        if not any(each.product for each in known.values()):
            why = "they were saved by an earlier version: fit one again" if known else "none is saved: fit one first"
            raise ModelNotFoundError(f"no saved model can be chosen by what a picture looks like; {why}.")
        return known

    def prepare(self, reference: str) -> None:
        """See that a model is there and in memory; of `auto`, that there are models to choose from.

        Raises:
            StoreError, HubError, OptionError: as `get`.
        """
        if reference == AUTO:
            self.known()
        else:
            self.get(reference)

    def _known_of(self, reference: str) -> Known:
        version, before = self.store.identity(reference), self._known.get(reference)
        if before is not None and before.version == version:
            return before
        try:
            return Known(version, *self.store.product(reference))
        except ModelNotFoundError:
            raise
        except StoreError:  # its tensors are damaged
            return NOT_KNOWN

    def _newest(self, key: str, slot: _Slot, load: Callable[[str, Served | None], Served]) -> Served:
        if slot.served is None or time.monotonic() - slot.looked_at > LOOK_AGAIN:
            before = slot.served
            try:
                slot.served = load(key, before)
            except Exception:
                slot.served = None  # what is gone, or cannot be read any more, is not served either
                raise
            slot.looked_at = time.monotonic()
            if slot.served is not before:
                self._make_room(key)
        return slot.served

    def _of_store(self, key: str, before: Served | None) -> Served:
        version = self.store.identity(key)
        if before is not None and before.version == version:
            return before
        detector = self.store.load(key, device=self._device)
        _warm_up(detector)
        # Whoever replaces it right now is noticed at the next look.
        return Served(key, version, detector)

    def _of_hub(self, key: str, before: Served | None) -> Served:
        """What a branch means is asked once: a model does not change under a line that runs."""
        if before is not None:
            return before
        pulled = self._hub.pull_verified(key, device=self._device)
        _warm_up(pulled.detector)
        notices = () if pulled.verification.is_close else (pulled.verification.statement,)
        return Served(str(pulled.reference), pulled.reference.revision, pulled.detector, notices)

    def _make_room(self, newest: str) -> None:
        with self._lock:
            used = sum(slot.served.detector.model_mib * 2**20 for slot in self._slots.values() if slot.served)
            for key in [key for key, slot in self._slots.items() if slot.served is not None and key != newest]:
                if used <= self._max_bytes:
                    return
                used -= self._slots.pop(key).served.detector.model_mib * 2**20


def max_model_bytes() -> int:
    """How much models in memory may take.

    Raises:
        OptionError: `ADMODELS_MAX_SERVED_GIB` is no number above 0.
    """
    return int(limit("ADMODELS_MAX_SERVED_GIB", MAX_MODEL_GIB) * 2**30)


def in_full(reference: str) -> str:
    """A model's name with its prefix: `bolts` is `local:bolts`, and `owner/name` is `hf-hub:owner/name`."""
    name = reference.strip()
    is_of_hub = name.startswith(PREFIX) or ("/" in name and not name.startswith(LOCAL_PREFIX))
    prefix = PREFIX if is_of_hub else LOCAL_PREFIX
    return prefix + name.removeprefix(prefix)


def _warm_up(detector: Detector) -> None:
    """Have the network compiled here, and not while others wait for their scores."""
    for n in {1, detector.batch_size}:
        detector.score_batch(torch.zeros(n, *detector.fitted_.shape.cropped, 3, dtype=torch.uint8))

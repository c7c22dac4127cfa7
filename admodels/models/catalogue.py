"""A model of every category of a data set on the Hub, each in a repository of its own, and a collection of them.

One category after the other: fitted, measured where it has test pictures, pushed with its card, added to the
collection. What stopped is run again: a repository that holds a model of the same method, options and good pictures
already, as its newest commit's configuration says, is passed over.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from time import sleep
from typing import Any, TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from admodels.core.detector import Detector
from admodels.core.results import OnProgress
from admodels.errors import AdmodelsError, Cancelled, DataError, HubError
from admodels.evaluation.accuracy import Accuracy, evaluate
from admodels.evaluation.datasets import Dataset
from admodels.models.card import TAG, Source, pictures_digest
from admodels.models.hub import Held, Hub, check_about
from admodels.models.hub_errors import explained, is_refusal, may_pass, seconds_asked
from admodels.models.references import Reference, parse_reference
from admodels.pictures.images import content_digest

WAITS = (5.0, 30.0, 90.0)  # seconds before another try, where the Hub asks for no more
MAX_WAIT = 600.0
MAX_TITLE = 59  # characters that the Hub takes for a collection's
MAX_CATEGORY = 64

T = TypeVar("T")
OnWait = Callable[[float, HubError], None]


@dataclass(frozen=True)
class Entry:
    """One category, and the repository that its model goes to.

    Attributes:
        name: of its folder.
        category: as its card says it.
    """

    name: str
    category: str
    repo_id: str
    data: Dataset

    @property
    def n_defective(self) -> int:
        """Of its test pictures."""
        return sum(item.is_defective for item in self.data.test)


@dataclass(frozen=True)
class Found:
    """What is in a category's repository before anything is done.

    Attributes:
        is_same: the model there is of this method, these options and these good pictures.
        said: what is there, and so what will be done, in a few words.
    """

    held: Held | None
    is_same: bool
    said: str
    digests: tuple[str, ...] = ()


class Outcome(StrEnum):
    """What became of a category."""

    PUSHED = "pushed"
    PASSED_OVER = "there already"
    FAILED = "failed"


@dataclass(frozen=True)
class Row:
    """What became of a category; figures are None where they are not known.

    Attributes:
        reference: of its model on the Hub, pinned to the commit.
        image_auroc: measured on `n_test` pictures.
        threshold: and how it was set, in a sentence.
        said: why it failed, or what else there is to know.
    """

    name: str
    repo_id: str
    outcome: Outcome
    reference: Reference | None = None
    image_auroc: float | None = None
    n_test: int | None = None
    threshold: float | None = None
    threshold_statement: str = ""
    fit_seconds: float | None = None
    predict_fps: float | None = None
    said: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return vars(self) | {"reference": str(self.reference) if self.reference else None, "outcome": str(self.outcome)}


@dataclass(frozen=True)
class Published:
    """What became of all categories.

    Attributes:
        collection: its address; empty where there is none.
        collection_fault: why the collection lacks models, if it does.
    """

    rows: tuple[Row, ...]
    collection: str = ""
    collection_fault: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether every category has its model on the Hub and its place in the collection."""
        return not self.collection_fault and all(row.outcome is not Outcome.FAILED for row in self.rows)


def entries(datasets: Mapping[str, Dataset], owner: str, method: str) -> list[Entry]:
    """Where the model of each category goes: `owner/<category>-<method>`, in characters that the Hub takes.

    Raises:
        DataError: a category's name gives no repository's, or two of them the same one.
        HubError: the owner is none.
    """
    parse_reference(f"{owner}/name")
    found: dict[str, Entry] = {}
    for name, data in datasets.items():
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()  # ü becomes u
        stem = re.sub(r"[-.]{2,}", "-", re.sub(r"[^A-Za-z0-9_.-]+", "-", plain)).strip("-._")
        repo_id = f"{owner}/{stem}-{method}"
        try:
            if not stem:
                raise HFValidationError("no letter or digit of it can be used")
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise DataError(
                f"the folder {name!r} gives no name for a repository ({error}). Rename it with letters from a to z, "
                "digits and dashes."
            ) from error
        # Upper and lower case are one to the Hub.
        if (other := found.get(repo_id.casefold())) is not None:
            raise DataError(f"the folders {other.name!r} and {name!r} would both go to {repo_id}. Rename one of them.")
        category = re.sub(r"[^A-Za-z0-9 _-]+", " ", stem)[:MAX_CATEGORY].strip()
        found[repo_id.casefold()] = Entry(name, category, repo_id, data)
    return list(found.values())


class Catalogue:
    """The models of a data set's categories on the Hub.

    Args:
        hub: where they go.
        new_detector: makes an unfitted detector, alike for all categories.
        owner: user or organisation.
        about: what all cards say: licence, terms of the pictures, data set on the Hub.
        title: of the collection, at most 59 characters.
        private: the repositories and the collection, where they are created now.
        with_picture: publish one defective test picture of each category, with its heatmap and without.
        token: of the Hub; by default `HF_TOKEN` or the one that is logged in.
        on_wait: told how long is waited, and why, before the Hub is asked again.

    Raises:
        DataError, HubError: something of it is not as the Hub takes it; nothing was done yet.
    """

    def __init__(
        self,
        hub: Hub,
        new_detector: Callable[[], Detector],
        datasets: Mapping[str, Dataset],
        owner: str,
        *,
        about: Source,
        title: str,
        private: bool = True,
        with_picture: bool = False,
        token: str | bool | None = None,
        on_wait: OnWait | None = None,
    ) -> None:
        detector = new_detector()
        self.key, self.options = detector.key, detector.config.stored()
        self.entries = entries(datasets, owner, self.key)
        for entry in self.entries:
            check_about(entry.category, about.licence, about.dataset)
        if not 1 <= len(title.strip()) <= MAX_TITLE:
            raise HubError(f"the collection's title is {title!r}; expected 1 to {MAX_TITLE} characters.")
        self.owner, self.title, self.private = owner, title.strip(), private
        self._hub, self._new_detector, self._about = hub, new_detector, about
        self._with_picture, self._token, self._on_wait = with_picture, token, on_wait

    def look(self, entry: Entry) -> Found:
        """What is in a category's repository; nothing is changed.

        Raises:
            HubError, StoreError: the Hub cannot be asked, or what is there cannot be told.
            ImageError: a good picture cannot be read.
        """
        held = self._patiently(lambda: self._hub.held(entry.repo_id, token=self._token))
        digests = tuple(sorted({content_digest(path).hex() for path in entry.data.train}))
        return self._compared(held, digests)

    def _compared(self, held: Held | None, digests: tuple[str, ...]) -> Found:
        if held is None:
            return Found(None, False, "nothing there yet", digests)
        if held.method != self.key:
            return Found(held, False, f"replaces a model of {held.method}", digests)
        changed = sorted(name for name, value in self.options.items() if held.options.get(name) != value)
        if changed:
            return Found(held, False, f"replaces a model with another {', '.join(changed)}", digests)
        if not held.pictures_digest:
            return Found(held, False, "replaces a model that does not say which pictures it learned from", digests)
        if held.pictures_digest != pictures_digest(digests):
            return Found(held, False, "replaces a model of other good pictures", digests)
        return Found(held, True, "there already", digests)

    def publish(
        self, *, on_row: Callable[[Row], None] | None = None, on_progress: OnProgress | None = None
    ) -> Published:
        """Fit, measure and push what is not there yet, one category after the other.

        A category that fails does not stop the others, unless this account may not push at all.

        Args:
            on_row: called after every category.
            on_progress: told of the fits and evaluations; raise `Cancelled` in it to stop.

        Raises:
            HubError: nobody is logged in who may push; nothing was done yet.
        """
        self._patiently(lambda: self._hub.check_may_write(self._token))
        rows: list[Row] = []
        slug, address, fault, refused = "", "", "", ""
        for entry in self.entries:
            row = Row(entry.name, entry.repo_id, Outcome.FAILED, said=f"not tried: {refused}")
            if not refused:
                try:
                    row = self._publish(entry, on_progress)
                except Cancelled:
                    raise
                except (AdmodelsError, OSError) as error:
                    row = replace(row, said=str(error))
                    if isinstance(error, HubError) and is_refusal(error):
                        refused = str(error)
            if row.reference is not None:
                try:
                    if not slug:
                        slug, address = self._patiently(self._collection)
                    self._patiently(lambda: self._add(slug, row.reference.repo_id))  # noqa: B023 - called at once
                except HubError as error:
                    fault = fault or str(error)
            rows.append(row)
            if on_row is not None:
                on_row(row)
        return Published(tuple(rows), address, fault)

    def _publish(self, entry: Entry, on_progress: OnProgress | None) -> Row:
        found = self.look(entry)
        if found.is_same:
            return self._passed_over(entry, found.held)
        detector, data = self._new_detector(), entry.data
        accuracy: Accuracy | None = None
        if data.test:
            accuracy = evaluate(detector, data, robustness=False, on_progress=on_progress)
        else:
            detector.fit(data.train, on_progress=on_progress)
        preview = _typical_defect(entry, accuracy) if self._with_picture and accuracy is not None else None
        tries = 0

        def push() -> Row:
            nonlocal tries
            tries += 1
            if tries > 1:  # the answer may have been lost, and not the commit
                held = self._hub.held(entry.repo_id, token=self._token)
                if (again := self._compared(held, found.digests)).is_same:
                    return replace(self._passed_over(entry, again.held), outcome=Outcome.PUSHED)
            done = self._hub.push(
                detector,
                entry.repo_id,
                private=self.private,
                category=entry.category,
                licence=self._about.licence,
                data_terms=self._about.data_terms,
                dataset=self._about.dataset,
                evaluation=accuracy,
                preview=preview,
                learned_digests=list(found.digests),
                token=self._token,
            )
            notes = list(done.notices)
            if done.kept_card:
                notes.append(
                    "somebody wrote or edited the model card there, so it was kept; it may describe an earlier model"
                )
            calibration = detector.calibration_
            return Row(
                entry.name,
                done.reference.repo_id,
                Outcome.PUSHED,
                done.reference,
                accuracy.image_auroc if accuracy is not None else None,
                accuracy.n_test if accuracy is not None else None,
                calibration.threshold,
                calibration.statement,
                detector.fit_report_.seconds,
                done.predict_fps,
                "; ".join(notes),
            )

        return self._patiently(push)

    def _passed_over(self, entry: Entry, held: Held) -> Row:
        about, wanted = held.about, self._about.licence
        notes = []
        if held.licence != wanted:
            notes.append(
                f"there under the licence {held.licence or '(none stated)'}, not {wanted}; change it in its card on "
                "the Hub"
            )
        if about.image_auroc is None and 0 < entry.n_defective < len(entry.data.test):
            notes.append("its card states no accuracy; delete it on the Hub to have it measured and pushed anew")
        return Row(
            entry.name,
            about.reference.repo_id,
            Outcome.PASSED_OVER,
            about.reference,
            about.image_auroc,
            about.n_test,
            held.calibration.threshold,
            held.calibration.statement,
            held.report.seconds,
            about.predict_fps,
            "; ".join(notes),
        )

    def _collection(self) -> tuple[str, str]:
        """The collection's name on the Hub and its address; made if there is none of this title."""
        with explained(f"the collection {self.title}", "made"):
            api = HfApi(token=self._token, library_name=TAG)
            made = api.create_collection(self.title, namespace=self.owner, private=self.private, exists_ok=True)
        return made.slug, made.url

    def _add(self, slug: str, repo_id: str) -> None:
        with explained(f"the collection {self.title}", "extended"):
            HfApi(token=self._token, library_name=TAG).add_collection_item(slug, repo_id, "model", exists_ok=True)

    def _patiently(self, do: Callable[[], T]) -> T:
        """What `do` gives; it is tried a few times more, ever later, where the Hub or the network fails for now."""
        for seconds in WAITS:
            try:
                return do()
            except HubError as error:
                if not may_pass(error):
                    raise
                seconds = min(max(seconds, seconds_asked(error)), MAX_WAIT)
                if self._on_wait is not None:
                    self._on_wait(seconds, error)
                sleep(seconds)
        return do()


def default_title(root: Path, detector: Detector) -> str:
    """A collection's title: the data set's folder and the method."""
    more = f": {detector.title}"
    return f"{root.resolve().name[: MAX_TITLE - len(more)]}{more}"


def _typical_defect(entry: Entry, accuracy: Accuracy) -> Path | None:
    """The defective test picture whose score is in the middle of theirs; none where there is none."""
    defective = [i for i, item in enumerate(entry.data.test) if item.is_defective]
    in_order = sorted(defective, key=lambda i: accuracy.scores[i])
    return entry.data.test[in_order[len(in_order) // 2]].path if in_order else None

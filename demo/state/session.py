"""What one visitor has open."""

import math
import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from admodels import DETECTORS, LOCAL, Cancelled, Detector, ImageError, NotFittedError, OptionError
from admodels.models import KnownDefect, Store
from admodels.pictures import ImageLike, ImageSet, content_digest
from demo.errors import shown_errors
from demo.state.captured import Captured
from demo.state.current import Compared, Current, Evaluated, Inspection, Question, Result, Shown, Single
from demo.state.jobs import JOBS, Job, Tell
from demo.state.marks import Added, Addition, Mark, MarkFolder, MarkScores
from demo.state.server import is_shared

DOWNLOAD_SECONDS = 600  # until a file that was to be downloaded is removed: Gradio has its copy long before
BEGIN_SECONDS = 30  # a page that was asked for a fit and says no more of it by then is gone
N_FRAMES = 20
N_PAINTED = 3  # to which an editor may go back by Undo


@dataclass(frozen=True)
class Chosen:
    """The good pictures chosen for a fit.

    Attributes:
        source: where they are from, in words.
        files: the uploaded files that they came in; none for an example set.
        captured: of a camera's pictures, what is kept beside them.
    """

    images: ImageSet
    source: str
    files: tuple[str, ...] = ()
    captured: Captured | None = None


@dataclass(frozen=True)
class HubLogin:
    """A token of the Hub, in memory only, and where it came from: the two have different ends.

    Attributes:
        is_typed: it was typed here, and stays until its visitor empties the field or the visit ends. Else it is of the
            login button, and goes with that login.
        expires_at: seconds since the epoch, from when on the Hub takes it no more.
    """

    token: str = field(repr=False)
    is_typed: bool = True
    expires_at: float = math.inf

    @property
    def is_good(self) -> bool:
        """Whether it may still be used."""
        return time.time() < self.expires_at


@dataclass(frozen=True)
class Painted:
    """A good picture with what was drawn on it at random, and both as one; uint8, of one size."""

    good: np.ndarray
    defect: np.ndarray
    both: np.ndarray


@dataclass(frozen=True)
class Again:
    """Pictures that a model which was replaced since had scored: the new one scores them again.

    Attributes:
        is_own: it is the picture that was published with the new model instead.
    """

    images: tuple[ImageLike, ...]
    names: tuple[str, ...]
    show: int
    by_score: bool
    is_own: bool = False


class Stop:
    """What ends a visitor's work of one kind: whatever was begun before it is pressed, nothing that comes later.

    Each piece has an event of its own, so that a press is neither lost nor meant for what is asked for next.
    """

    def __init__(self) -> None:
        self._begun: threading.Event | None = None  # of what was asked for, and has not got its event yet
        self._events: weakref.WeakSet[threading.Event] = weakref.WeakSet()  # held by those who look at them
        self._lock = threading.Lock()

    def begin(self) -> None:
        """A piece of work was asked for, which takes its event later."""
        self._begun = threading.Event()

    def forget(self) -> None:
        """What was asked for will not come, or has its event."""
        self._begun = None

    def take(self) -> threading.Event:
        """The event of a piece of work, which may be set already."""
        with self._lock:
            event, self._begun = self._begun or threading.Event(), None
            self._events.add(event)
        return event

    def press(self) -> None:
        """End them all."""
        with self._lock:
            events = [*self._events, *filter(None, [self._begun])]
        for event in events:
            event.set()


class Seen(NamedTuple):
    """What was inspected, shown and judged last, by number, when a page was told."""

    n_inspected: int
    n_shown: int
    n_judged: int


@dataclass(frozen=True, eq=False)
class Inspecting:
    """Pictures that are scored just now.

    Attributes:
        by_page: a page asked for it, which others given on a page take the place of; not a program.
    """

    images: tuple[ImageLike, ...]
    names: tuple[str, ...]
    by_page: bool


@dataclass
class Session:
    """One visitor's work: the good pictures chosen, the current model, and what it said.

    What models said (`inspected`, `shown`, `evaluated`, `single`, `compared`, `mark_scores`) is always of the current
    one; `keep` sees to that.
    """

    chosen: Chosen | None = None
    apart: tuple[ImageLike, ...] = ()  # of the good pictures of the last fit, those unlike the others
    # While the camera's frames are taken: `n_picks` as it was, since another choice ends it.
    capturing: int | None = None
    n_picks: int = 0  # begun: one that ends late must not overwrite a later one; and so below
    n_estimates: int = 0
    n_searches: int = 0
    n_selected: int = 0
    n_chosen: int = 0
    n_inspected: int = 0  # other pictures taken for those inspected
    n_shown: int = 0  # another one of them shown
    n_judged: int = 0  # another threshold
    current: Current | None = None
    n_fits: int = 0  # their numbers tell models apart that have no name yet
    inspected: Inspection | None = None
    shown: Shown | None = None
    evaluated: Evaluated | None = None
    single: Single | None = None
    compared: Compared | None = None  # of the pictures of `evaluated`, always
    again: Again | None = None
    n_announced: int = 0  # how often the page says that they are being scored, and waits for an answer
    answer: tuple[Inspection | None, dict[str, Any]] | None = None  # to all of these, and what was found when it came
    marks: tuple[Mark, ...] = ()  # pictures marked as defects, whatever the model
    mark_scores: MarkScores | None = None
    mark_folder: MarkFolder | None = None
    addition: Addition | None = None  # good pictures to be confirmed
    added: Added | None = None
    evaluated_before: str = ""  # the label of a model that was evaluated, and replaced since
    panels: dict[str, Current | None] = field(default_factory=dict)  # whose threshold each page was told last
    seen: dict[str, Seen] = field(default_factory=dict)  # what each page shows of what was inspected
    inspecting: Inspecting | None = None  # on a page, until it ends or another one is begun
    question: Question | None = None
    fit_stop: Stop = field(default_factory=Stop)
    side_stop: Stop = field(default_factory=Stop)
    job: Job | None = None  # the fit that runs, waits, or ended last
    begun_at: float | None = None  # when a fit was last asked for
    is_asked: bool = False  # a fit was asked for, and is not queued yet
    estimated: tuple[Any, float] | None = None  # for what, and how many seconds a fit of it will take
    side_job: Job | None = None  # what else takes long and runs or waits
    pages: set[str] = field(default_factory=set)  # session hashes that are open
    n_requests: int = 0
    left_at: float | None = None  # when the last page was closed
    losses: list[tuple[int, float]] = field(default_factory=list)  # of the training that runs, or ran last, by step
    painted: deque[Painted] = field(default_factory=lambda: deque(maxlen=N_PAINTED))  # what the editor was given last
    # When the camera's last frames came, by page: each has a stream of its own.
    frames: defaultdict[str, deque[float]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=N_FRAMES)))
    login: HubLogin | None = None
    found: dict[str, dict] = field(default_factory=dict)  # rows of the last search of the Hub, by name
    learned: dict[str, frozenset[bytes]] = field(default_factory=dict)  # of models saved here, by `Store.identity`
    pushed_to: str = ""  # the repository of the last push
    downloads: list[tuple[float, TemporaryDirectory]] = field(default_factory=list)  # when each was made
    models: TemporaryDirectory | None = None  # where its models are saved on a shared server, removed with it
    used_at: float = field(default_factory=time.monotonic)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def pictures(self) -> ImageSet | None:
        """The good pictures chosen for a fit."""
        return self.chosen.images if self.chosen is not None else None

    @property
    def is_capturing(self) -> bool:
        """Whether frames of the camera are taken as good pictures."""
        return self.capturing is not None and self.capturing == self.n_picks

    def rechoose(self, before: Chosen | None, after: Chosen | None) -> bool:
        """Choose other good pictures; False where `before` is no longer what is chosen."""
        with self._lock:
            if self.chosen is not before:
                return False
            self.chosen = after
        return True

    @property
    def has_unsaved(self) -> bool:
        """Whether the current model would be lost if another one took its place."""
        return self.current is not None and not self.current.is_kept

    def answered(self, said: str) -> Question | None:
        """Take the question of these words, once; None where it is another one by now, or none."""
        with self._lock:
            asked = self.question
            if asked is None or asked.said != said:
                return None
            self.question = None
            return asked

    def use_instead_of(self, known: Current | None, current: Current) -> bool:
        """Make this the current model; False where one that is not saved took the place of `known` meanwhile."""
        with self._lock:
            before = self.current
            is_known = before is known or (known is not None and not known.is_kept and known.is_same_model(before))
            if self.has_unsaved and not is_known:
                return False
            self.use(current)
        return True

    def use(self, current: Current) -> None:
        """Make this the current model; what another one said is dropped, its pictures are to be scored again."""
        with self._lock:
            before, self.current = self.current, current
            if before is not None and not before.is_same_model(current):
                if self.inspected is not None:
                    pictures = self.inspected.pictures
                    images, names = tuple(p.image for p in pictures), tuple(p.name for p in pictures)
                    self.again = Again(images, names, self.inspected.show, self.inspected.by_score)
                if self.evaluated is not None:
                    self.evaluated_before = before.label
                self.inspected = self.shown = self.evaluated = self.single = self.compared = self.mark_scores = None
                self.n_inspected += 1
                self.addition = None
                if self.added is not None and not self.added.after.is_same_model(current):
                    self.added = None  # there is no way back to what it was before
            self._judge(before)

    def try_on(self, current: Current, image: ImageLike, name: str) -> None:
        """Have the current model score the picture that was published with it, instead of what another one scored."""
        with self._lock:
            if self.current is current:
                self.inspected = self.shown = None
                self.n_inspected += 1
                self.again = Again((image,), (name,), 0, True, is_own=True)

    def replace(self, before: Current, after: Current) -> bool:
        """The same model with another threshold or label; False where `before` is no longer the current one."""
        with self._lock:
            if self.current is not before:
                return False
            self.current = after
            self._judge(before)
        return True

    def change(self, model: Current, to: Callable[[Current], Current]) -> Current | None:
        """Another form of a model, made of it as it is by now; None where another model took its place.

        Args:
            model: whatever its threshold and its label were.
            to: makes the same model with another threshold or label.
        """
        with self._lock:
            if not model.is_same_model(self.current):
                return None
            before, self.current = self.current, to(self.current)
            self._judge(before)
            return self.current

    def keep(self, *results: Result | MarkScores) -> list[Result] | None:
        """Take results and judge them by the current threshold; None where their model was replaced meanwhile.

        None too for a comparison where other pictures were evaluated meanwhile.
        """
        with self._lock:
            if not all(result.current.is_same_model(self.current) and self._goes_on(result) for result in results):
                return None
            judged = [result.judged(self.current) for result in results]
            for result in judged:
                if isinstance(result, Inspection):
                    is_other = self.inspected is None or self.inspected.pictures is not result.pictures
                    self.n_inspected += is_other
                    self.inspected, self.again = result, None
                elif isinstance(result, Shown):
                    self.shown = result
                    self.n_shown += 1
                elif isinstance(result, MarkScores):
                    self.mark_scores = result
                elif isinstance(result, Evaluated):
                    self.evaluated, self.evaluated_before = result, ""
                    self.compared = None
                elif isinstance(result, Compared):
                    self.compared = result
                else:
                    self.single = result
        return judged

    @property
    def now(self) -> Seen:
        """What a page that is told now has seen."""
        return Seen(self.n_inspected, self.n_shown, self.n_judged)

    def inspected_on(self, page: str) -> Inspection | None:
        """The pictures that a page lists; None where there are none.

        Raises:
            OptionError: others were inspected since, on another page of the same visitor.
        """
        with self._lock:
            seen, n_now, inspection = self.seen.get(page), self.n_inspected, self.inspected
        if inspection is not None and (seen is None or seen.n_inspected != n_now):
            raise OptionError(
                "Other pictures were inspected since, on another page of yours. Open another tab and then Inspect to "
                "see them here, or inspect these once more."
            )
        return inspection

    def shown_on(self, page: str) -> Shown | None:
        """The picture that a page shows; None where there is none.

        Raises:
            OptionError: another one was chosen since, perhaps on another page of the same visitor.
        """
        with self._lock:
            seen, now, shown = self.seen.get(page), self.now, self.shown
        if shown is not None and (seen is None or seen[:2] != now[:2]):
            raise OptionError(
                f"{shown.decoded.name} was chosen since, perhaps on another page of yours, and this page may show "
                "another picture. Choose the one you mean in Inspect again."
            )
        return shown

    def begin_inspection(self, page: str, images: Sequence[ImageLike], names: Sequence[str], add: bool) -> Inspecting:
        """The pictures to score, where `add` together with those inspected before, or being inspected.

        What was begun on a page before it ends without a result; programs may do several at once.
        """
        with self._lock:
            if add and images:
                images, names = self._with_those_before(images, names)
            begun = Inspecting(tuple(images), tuple(names), by_page=page in self.pages)
            if begun.by_page:
                self.inspecting = begun
        return begun

    def _with_those_before(
        self, images: Sequence[ImageLike], names: Sequence[str]
    ) -> tuple[Sequence[ImageLike], Sequence[str]]:
        if self.inspecting is not None:
            return [*self.inspecting.images, *images], [*self.inspecting.names, *names]
        before = self.inspected.pictures if self.inspected is not None else ()
        return [*(item.image for item in before), *images], [*(item.name for item in before), *names]

    def goes_on(self, begun: Inspecting) -> bool:
        """Whether no other inspection was begun on a page meanwhile."""
        return not begun.by_page or self.inspecting is begun

    def end_inspection(self, begun: Inspecting) -> None:
        """It gave a result, or an error."""
        with self._lock:
            if self.inspecting is begun:
                self.inspecting = None

    def take_again(self) -> Again | None:
        """The pictures that are to be scored again, once."""
        with self._lock:
            again, self.again = self.again, None
        return again

    def _goes_on(self, result: Result) -> bool:
        """Whether what a result was made from is still there; all but comparisons stand for themselves."""
        if not isinstance(result, Compared):
            return True
        return self.evaluated is not None and self.evaluated.test is result.evaluated.test

    def _judge(self, before: Current | None) -> None:
        if before is None or before.detector is not self.current.detector:  # else it has got another name at most
            self.n_judged += 1
        self.inspected = self.inspected and self.inspected.judged(self.current)
        self.shown = self.shown and self.shown.judged(self.current)
        self.evaluated = self.evaluated and self.evaluated.judged(self.current)
        self.single = self.single and self.single.judged(self.current)
        self.compared = self.compared and self.compared.judged(self.current)
        self.mark_scores = self.mark_scores and self.mark_scores.judged(self.current)

    def mark(self, image: ImageLike, name: str) -> Mark:
        """Keep a picture as a known defect; once, however often it is marked.

        Raises:
            ImageError: it cannot be read any more.
        """
        with self._lock:
            known = self.mark_of(image)
            if known is not None:
                return known
            mark = self._copied(image, name)
            self.marks = (*self.marks, mark)
        return mark

    def adopt(self, current: Current, defects: Iterable[KnownDefect]) -> None:
        """Mark the pictures that were kept as defects with a saved model, which is in use now.

        Their scores are asked anew where the picture is here; the others have what was saved, as long as it is in use.
        """
        with self._lock:
            marks, scores = {mark.digest: mark for mark in self.marks}, {}
            for defect in defects:
                mark = marks.get(defect.digest)
                if mark is not None and mark.file is not None:
                    continue
                copied = None
                if defect.file is not None:
                    with suppress(ImageError, OSError):  # somebody may delete the model just now
                        copied = self._copied(defect.file, defect.file.name)
                if copied is not None and copied.digest == defect.digest:
                    marks[defect.digest] = replace(copied, is_kept=True)
                else:
                    name = f"a picture marked earlier ({defect.digest.hex()[:8]})"
                    marks[defect.digest] = mark or Mark(None, name, defect.digest, is_kept=True)
                    scores[defect.digest] = defect.score
            self.marks = tuple(marks.values())
            if scores and current.is_same_model(self.current):
                known = self.mark_scores.scores if self.mark_scores is not None else {}
                self.mark_scores = MarkScores(self.current, {**known, **scores})

    def _copied(self, image: ImageLike, name: str) -> Mark:
        self.mark_folder = self.mark_folder or MarkFolder()
        return self.mark_folder.add(image, name)

    def keep_marks(self, digests: Collection[bytes]) -> None:
        """Know that these marks were kept with a saved model."""
        with self._lock:
            self.marks = tuple(replace(m, is_kept=m.is_kept or m.digest in digests) for m in self.marks)

    def mark_of(self, image: ImageLike) -> Mark | None:
        """The mark on a picture, wherever it comes from; None where there is none."""
        digest = content_digest(image)
        return next((mark for mark in self.marks if mark.digest == digest), None)

    def unmark(self, digests: Collection[bytes]) -> None:
        """Forget that these pictures are defects; their copies stay as long as an evaluation may show them."""
        with self._lock:
            self.marks = tuple(mark for mark in self.marks if mark.digest not in digests)

    def begin_fit(self) -> None:
        """A fit was asked for; from here on Stop is meant for it too."""
        self.fit_stop.begin()
        self.begun_at, self.is_asked = time.monotonic(), True

    def has_begun(self) -> None:
        """The fit that was asked for is queued now, or will never be."""
        self.is_asked = False
        self.fit_stop.forget()

    @property
    def since_begun(self) -> float:
        """Seconds since a fit was last asked for."""
        return math.inf if self.begun_at is None else time.monotonic() - self.begun_at

    @property
    def is_beginning(self) -> bool:
        """Whether a fit was asked for and is not queued yet; no longer than its page may take to go on."""
        return self.is_asked and self.since_begun < BEGIN_SECONDS

    @property
    def is_fitting(self) -> bool:
        """Whether a fit of this visitor runs or waits for its turn."""
        return self.job is not None and self.job.is_running

    @property
    def has_fit(self) -> bool:
        """Whether there is a fit that Stop would end: one asked for, waiting for its turn, or running."""
        return self.is_beginning or self.is_fitting

    @property
    def is_busy(self) -> bool:
        """Whether anything of this visitor runs or waits for its turn."""
        return any(job is not None and job.is_running for job in (self.job, self.side_job))

    def run(self, work: Callable[[Tell], Any], progress: gr.Progress) -> Any:
        """Do something long, beside a fit, that this visitor can stop wherever it tells how far it is; its result.

        Raises:
            Cancelled, gr.Error: as `Jobs.run`.
        """
        stop = self.side_stop.take()

        def stoppable(tell: Tell) -> Any:
            def told(fraction: float, words: str) -> None:
                if stop.is_set():
                    raise Cancelled("stopped")
                tell(fraction, words)

            return work(told)

        with shown_errors():
            self.side_job = job = JOBS.submit(stoppable, stop)
        try:
            return JOBS.follow(job, progress)
        finally:
            if self.side_job is job:  # what it gave is not held longer than needed
                self.side_job = None

    @property
    def is_logged_in(self) -> bool:
        """Whether this visitor has a token of the Hub that may still be used."""
        return self.login is not None and self.login.is_good

    def token(self) -> str | bool | None:
        """What the Hub is asked with: this visitor's token; else none on a shared server, elsewhere the machine's."""
        if self.is_logged_in:
            return self.login.token
        return False if is_shared() else None

    def download_folder(self) -> Path:
        """An empty folder for a file to download; Gradio serves a copy from its own cache.

        It goes some time later with another download, or with the session.
        """
        folder, now = TemporaryDirectory(prefix="admodels-"), time.monotonic()
        with self._lock:
            self.downloads = [(at, old) for at, old in self.downloads if now - at < DOWNLOAD_SECONDS]
            self.downloads.append((now, folder))
        return Path(folder.name)

    def folders(self) -> list[Path]:
        """Where this session keeps files."""
        with self._lock:
            kept = [folder for _, folder in self.downloads]
            kept += [folder for folder in (self.models, self.mark_folder and self.mark_folder.folder) if folder]
        return [Path(folder.name) for folder in kept]

    def detectors(self) -> list[Detector]:
        """The models that this session holds in memory."""
        with self._lock:
            stopped = self.question and self.question.stopped
            held = (self.current, stopped, *((self.added.before, self.added.after) if self.added else ()))
        return [current.detector for current in held if current]

    def store(self) -> Store:
        """Where models are saved: the machine's own folder, or on a shared server one for this visitor alone."""
        if not is_shared():
            return LOCAL
        if self.models is None:
            self.models = TemporaryDirectory(prefix="admodels-")
        return Store(DETECTORS, Path(self.models.name))

    def in_use(self) -> Current:
        """The current model.

        Raises:
            NotFittedError: there is none.
        """
        current = self.current
        if current is None:
            raise NotFittedError("there is no model yet. Train one in the Train tab, or load one in the Models tab.")
        return current

    def model(self) -> Detector:
        """The current model's detector.

        Raises:
            NotFittedError: there is none.
        """
        return self.in_use().detector

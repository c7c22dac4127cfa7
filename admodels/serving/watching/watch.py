"""Pictures that arrive in a folder, and frames of a camera, scored as they come: `python -m admodels watch`.

Every picture's row is handed on at least once. What a crash cuts off is done again at the next start, so at worst the
rows of one batch, and those that wait for a webhook, come twice.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from admodels.errors import AdmodelsError, DataError, ImageError, OptionError, OutputError
from admodels.files import check_folder
from admodels.pictures.images import read_ahead
from admodels.pictures.picture_files import sort_out
from admodels.serving.models import LOOK_AGAIN
from admodels.serving.routing import UNKNOWN
from admodels.serving.watching.arrivals import Arrivals, Stamp, stamp_of
from admodels.serving.watching.camera import Camera
from admodels.serving.watching.journal import Journal
from admodels.serving.watching.outputs import Outputs, Result, move_into
from admodels.serving.watching.scoring import Current, Ready, Scorer

IDLE_SECONDS = 0.05
N_BATCHES = 4  # between two looks at the folder, at the model and at whether to stop
UNREADABLE = "unreadable"
FOLDERS = ("good", "borderline", "suspected", UNKNOWN, UNREADABLE)  # of pictures that were moved

Tell = Callable[[str], None]
IsStopped = Callable[[], bool]


class FolderWatch:
    """Scores what arrives in a folder.

    Args:
        journal: of this folder and this model, opened.
        move_to: folder whose folders, named as the verdicts, and `unreadable` take what is done.
        again: score what was done before, too.

    Raises:
        DataError: there is no such folder.
        OptionError, OutputError: pictures cannot be moved there.
        StoreError, HubError: there is no such model.
    """

    def __init__(
        self,
        folder: Path,
        scorer: Scorer,
        outputs: Outputs,
        journal: Journal,
        tell: Tell,
        *,
        move_to: Path | None = None,
        again: bool = False,
    ) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder. Make it first, or check the path.")
        if move_to is not None:
            check_folder(move_to, "--move-to")
            if folder.resolve() in [(move_to / name).resolve() for name in FOLDERS]:
                raise OptionError(f"--move-to is {move_to}, which would move pictures into {folder}. Choose another.")
        self._folder, self._scorer, self._outputs, self._journal = folder, scorer, outputs, journal
        self._tell, self._move_to = tell, move_to
        self._trouble = _Trouble(tell)
        self._passed_over: set[str] = set()
        scorer.load(tell)  # before the journal may be begun anew
        self._arrivals = Arrivals(folder, journal.start(os.listdir(folder), again=again))
        outputs.on_done = self._note

    def run(self, is_stopped: IsStopped) -> None:
        """Watch until stopped.

        Raises:
            OutputError, OSError: rows, or what was done, cannot be written; pictures concerned are scored again at the
                next start.
        """
        while not is_stopped():
            self._outputs.collect()
            if not (self._is_there() and self._score_some(is_stopped)):
                time.sleep(IDLE_SECONDS)
        if left := self._outputs.close():
            self._tell(f"{len(left)} rows were not delivered in time. They come again at the next start.")

    def _is_there(self) -> bool:
        try:
            looked = self._arrivals.look_if_due()
        except OSError as error:
            self._trouble.tell("folder", f"{self._folder} cannot be read ({error.strerror}). Waiting for it.")
            return False
        if looked:
            self._trouble.is_over("folder", f"{self._folder} is back.")
        return not self._trouble.is_there("folder")

    def _score_some(self, is_stopped: IsStopped) -> bool:
        """Score some of the files that wait; whether there were any."""
        if not self._arrivals.take(1):
            return False
        try:
            current = self._scorer.current()
            self._score_with(current, is_stopped)
        except OutputError:
            raise
        except AdmodelsError as error:
            self._trouble.tell("model", f"{error} Pictures wait until it can be used.")
            time.sleep(LOOK_AGAIN)
            return False
        self._trouble.is_over("model", f"{self._scorer.shown} can be used again.")
        return True

    def _score_with(self, current: Current, is_stopped: IsStopped) -> None:
        n = current.batch_size
        todo = [(name, stamp) for name, stamp in self._arrivals.take(N_BATCHES * n) if self._is_picture(name, stamp)]

        def load(position: int) -> Ready:
            name = todo[position][0]
            return self._scorer.ready(current, self._folder / name, name, str(self._folder / name))

        batch: list[Result] = []
        ready: list[Ready] = []
        for (name, stamp), found in zip(todo, read_ahead(len(todo), load, n + 1), strict=True):
            if is_stopped():
                break
            if stamp_of(self._folder / name) != stamp:
                self._arrivals.look_anew(name)
            elif not isinstance(found, ImageError):
                batch.append(Result({}, name, stamp))
                ready.append(found)
            elif not self._arrivals.try_again(name):
                row = self._scorer.error_row(current.served, name, str(self._folder / name), found)
                self._hand_on([Result(row, name, stamp)])
            if len(batch) == n:
                self._score(batch, ready)
                batch, ready = [], []
        if batch and not is_stopped():
            self._score(batch, ready)

    def _score(self, batch: Sequence[Result], ready: Sequence[Ready]) -> None:
        rows = self._scorer.rows(ready)
        self._hand_on([Result(row, item.name, item.stamp) for row, item in zip(rows, batch, strict=True)])

    def _hand_on(self, results: Sequence[Result]) -> None:
        for result in results:
            self._arrivals.settle(result.name, result.stamp)
        self._outputs.put(results)

    def _is_picture(self, name: str, stamp: Stamp) -> bool:
        if sort_out([self._folder / name]).images:
            return True
        self._arrivals.settle(name, stamp)
        if name not in self._passed_over:
            self._passed_over.add(name)
            self._tell(f"{name} is not a picture and was skipped.")
        return False

    def _note(self, results: Sequence[Result]) -> None:
        """Move what is done away, else note it in the journal: a file put back is then scored again."""
        left = [result for result in results if not self._is_moved(result)]
        self._journal.append((item.name, item.stamp, (item.row["model"] or {}).get("version", "")) for item in left)

    def _is_moved(self, result: Result) -> bool:
        path = self._folder / result.name
        # New content under the same name is not what was scored.
        if self._move_to is None or stamp_of(path) != result.stamp:
            return False
        try:
            move_into(self._move_to / result.row.get("verdict", UNREADABLE), path)
        except OSError as error:
            self._tell(f"{result.name} stays where it is: it cannot be moved ({error}).")
            return False
        self._arrivals.look_anew(result.name)
        return True


def watch_camera(
    camera: Camera,
    scorer: Scorer,
    outputs: Outputs,
    tell: Tell,
    *,
    every: float,
    n_frames: int | None,
    is_stopped: IsStopped,
) -> None:
    """Score the frames of a camera until stopped, until a file ends, or until there were `n_frames`.

    Raises:
        StoreError, HubError, OptionError: there is no such model, or it cannot have that false-alarm rate.
        OutputError: rows cannot be written.
    """
    scorer.load(tell)
    trouble, n = _Trouble(tell), 0
    for number, pixels in camera.frames(every, is_stopped):
        outputs.collect()
        try:
            row = scorer.row(scorer.current(), pixels, f"frame {number}", camera.shown)
        except AdmodelsError as error:
            trouble.tell("model", f"{error} Frames are passed over until it can be used.")
            continue
        trouble.is_over("model", f"{scorer.shown} can be used again.")
        outputs.put([Result(row)])
        n += 1
        if n == n_frames:
            break
    while outputs.n_waiting and not is_stopped():
        outputs.collect()
        time.sleep(IDLE_SECONDS)
    outputs.give_up(outputs.close(), "the watcher was stopped")


class _Trouble:
    """Says what is wrong once, and when it is over."""

    def __init__(self, tell: Tell) -> None:
        self._tell, self._with = tell, set()

    def is_there(self, what: str) -> bool:
        return what in self._with

    def tell(self, what: str, message: str) -> None:
        if what not in self._with:
            self._with.add(what)
            self._tell(message)

    def is_over(self, what: str, message: str) -> None:
        if what in self._with:
            self._with.remove(what)
            self._tell(message)

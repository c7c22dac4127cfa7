"""Which files of a folder have arrived whole. It is looked at again and again: network shares tell of no change."""

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from admodels.pictures.picture_files import is_litter

LOOK_SECONDS = 0.3  # from one look to the next
SHARE_OF_LOOKS = 8  # a look that takes long is followed by a pause of so many times as long
STILL_SECONDS = 0.3  # that a file has not changed, before it is read
PATIENCE_SECONDS = 5  # with a file that does not change and cannot be read: some programs set size and time first
TRY_AGAIN_SECONDS = 1
N_COMPARED = 2_000  # of the files that are done, in one look: each is a question to the disk or to the network
N_FORGOTTEN = 10_000  # files that are done and gone, before they are forgotten

Stamp = tuple[int, int]  # size, and time of the last change in ns


def stamp_of(path: str | Path) -> Stamp | None:
    """What changes with a file's content; None where there is no such file now, or it is a folder or a pipe."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


@dataclass(eq=False)
class _Arriving:
    stamp: Stamp
    since: float  # when it was first seen as it is
    is_still: bool = False
    try_at: float = 0.0


class Arrivals:
    """New files of a folder, and those with new content. Folders inside it are not looked into.

    Args:
        settled: the files that are done, as they were; it becomes this object's.
    """

    def __init__(self, folder: Path, settled: dict[str, Stamp]) -> None:
        self._folder, self._settled = folder, settled
        self._arriving: dict[str, _Arriving] = {}
        self._compare: list[str] = []  # of the files that are done
        self._next_look = 0.0

    def look_if_due(self) -> bool:
        """Look at the folder, unless that was done a moment ago; whether it was looked at.

        Raises:
            OSError: the folder is not there, or cannot be listed.
        """
        started = time.monotonic()
        if started < self._next_look:
            return False
        self._next_look = started + LOOK_SECONDS  # of a look that fails
        self._look(started)
        took = time.monotonic() - started
        self._next_look = started + max(LOOK_SECONDS, (1 + SHARE_OF_LOOKS) * took)
        return True

    def take(self, n: int) -> list[tuple[str, Stamp]]:
        """At most n files that stand still, those that came first before the others."""
        now, taken = time.monotonic(), []
        for name, arriving in self._arriving.items():
            if arriving.is_still and now >= arriving.try_at:
                taken.append((name, arriving.stamp))
                if len(taken) == n:
                    break
        return taken

    def settle(self, name: str, stamp: Stamp) -> None:
        """Nothing more is to be done with this file until it changes."""
        self._arriving.pop(name, None)
        self._settled[name] = stamp

    def look_anew(self, name: str) -> None:
        """Forget all about a file: it changed while it was read, or is gone."""
        self._arriving.pop(name, None)
        self._settled.pop(name, None)

    def try_again(self, name: str) -> bool:
        """Whether a file that could not be read is worth another try, which `take` then gives."""
        arriving, now = self._arriving.get(name), time.monotonic()
        if arriving is None:
            return True
        arriving.try_at = now + TRY_AGAIN_SECONDS
        return now < arriving.since + PATIENCE_SECONDS

    def _look(self, now: float) -> None:
        seen = set(os.listdir(self._folder))
        for name in self._arriving.keys() - seen:
            del self._arriving[name]
        # An empty folder may be a share that is not mounted: its files come back.
        if seen and len(self._settled) > 2 * len(seen) + N_FORGOTTEN:
            self._settled = {name: stamp for name, stamp in self._settled.items() if name in seen}
        new = []
        for name in [*(seen - self._settled.keys()), *self._to_compare(seen)]:
            known = self._arriving.get(name)
            if (known is not None and known.is_still) or is_litter(name):
                continue
            stamp = stamp_of(self._folder / name)
            if stamp is None or self._settled.get(name) == stamp:
                continue
            if known is None:
                new.append((stamp[1], name, stamp))
            elif known.stamp != stamp:
                known.stamp, known.since = stamp, now
            else:
                known.is_still = now - known.since >= STILL_SECONDS
        for _, name, stamp in sorted(new):
            self._arriving[name] = _Arriving(stamp, now)

    def _to_compare(self, seen: set[str]) -> list[str]:
        """Those of the files that are done whose turn it is; what is arriving again is looked at each time."""
        if not self._compare:
            self._compare = list(self._settled)
        now, self._compare = self._compare[:N_COMPARED], self._compare[N_COMPARED:]
        turn = {*now, *(self._arriving.keys() & self._settled.keys())}
        return list(turn & seen)

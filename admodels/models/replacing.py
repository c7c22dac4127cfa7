"""Replacing a model's folder while other threads and programs read it.

A model is replaced in two steps, tensors and configuration, and readers need no lock: they look at what lies in the
folder before and after, and read again where it changed. Writers take turns, by a lock on the models' folder. The new
configuration waits beside the old one as `NEXT_FILE` while the tensors are exchanged, so that a program that dies there
leaves all that the next one needs to finish its work.

A disk may have no locks, as a mounted bucket has none. There the threads of one program still take turns, and what is
written stays whole; with several programs the last one wins.
"""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from admodels.errors import StoreError
from admodels.models import known_defects
from admodels.models.format import CONFIG_FILE, TENSOR_FILE, tensor_digest

NEXT_FILE, LOCK_FILE = "config.json.next", ".lock"
N_READS = 20  # of a model that is being replaced, before a reader waits for its turn among the writers
WAIT_SECONDS = 60.0  # for another writer; each needs moments

T = TypeVar("T")
_TURNS = threading.Lock()  # of this program's writers, wherever they write: each needs moments


def staging(root: Path) -> tempfile.TemporaryDirectory:
    """A folder beside the models that is removed afterwards; a leading dot keeps it out of every listing.

    Raises:
        StoreError: the disk refuses.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".staging-", dir=root, ignore_cleanup_errors=True)
    except OSError as error:
        raise StoreError(
            f"the models' folder {root} cannot be written ({error}). Set ADMODELS_MODELS to another folder."
        ) from error


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """One writer at a time in a models' folder, of all threads and programs.

    Raises:
        StoreError: the disk refuses, or another writer does not end.
    """
    try:
        with _TURNS, _file_lock(root):
            yield
    except Timeout as error:
        raise StoreError(
            f"another program has been writing to {root} for a long time. Try again when it is done."
        ) from error
    except OSError as error:
        raise StoreError(f"the models' folder {root} cannot be written ({error}). Free space there.") from error


@contextmanager
def _file_lock(root: Path) -> Iterator[None]:
    lock = FileLock(root / LOCK_FILE, mode=0o666)
    try:
        lock.acquire(WAIT_SECONDS, poll_interval=0.005)
    except NotImplementedError:  # this disk has no locks
        yield
        return
    try:
        yield
    finally:
        lock.release()


def steadily(folder: Path, read: Callable[[], T]) -> T:
    """What `read` gives of a model's folder, all of it from one saved model, whoever replaces that meanwhile."""
    for _ in range(N_READS):
        before = _stamps(folder)
        if before[NEXT_FILE] is not None:
            break  # it is being replaced, or somebody died while replacing it
        try:
            result = read()
        except StoreError:
            if _stamps(folder) == before:
                raise
            continue
        if _stamps(folder) == before:
            return result
    with writing(folder.parent):
        finish(folder)
        return read()


def _stamps(folder: Path) -> dict[str, tuple[int, ...] | None]:
    """What changes with every replacement of a file; None where there is none."""
    found: dict[str, tuple[int, ...] | None] = {}
    for name in (CONFIG_FILE, TENSOR_FILE, NEXT_FILE):
        try:
            stat = (folder / name).stat()
            found[name] = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except OSError:
            found[name] = None
    return found


def put(staged: Path, target: Path) -> None:
    """Put the staged files of a model into its folder, new or not; only for who is writing."""
    if not target.exists():
        new = staged / "new"
        new.mkdir()
        for name in (TENSOR_FILE, CONFIG_FILE, known_defects.FIELD):
            if (staged / name).exists():
                move(staged / name, new / name)
        move(new, target)
        return
    finish(target)
    move(staged / CONFIG_FILE, target / NEXT_FILE)
    move(staged / TENSOR_FILE, target / TENSOR_FILE)
    move(target / NEXT_FILE, target / CONFIG_FILE)
    # Last: a program that dies here leaves pictures that the new configuration does not state, or lacks some.
    pictures = target / known_defects.FIELD
    if pictures.exists():
        move(pictures, staged / "replaced")
    if (staged / known_defects.FIELD).exists():
        move(staged / known_defects.FIELD, pictures)


def finish(folder: Path) -> None:
    """Finish, or take back, a replacement during which its program died; only for who is writing."""
    waiting = folder / NEXT_FILE
    if not waiting.exists():
        return
    try:
        wanted = json.loads(waiting.read_bytes())["digests"]["tensors"]
        with safe_open(folder / TENSOR_FILE, framework="pt") as opened:
            is_there = tensor_digest({name: opened.get_tensor(name) for name in opened.keys()}) == wanted  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        is_there = False
    if is_there:
        move(waiting, folder / CONFIG_FILE)
    else:
        waiting.unlink()


def move(source: Path, target: Path) -> None:
    """Move a file, in the place of one that may be there, or a folder.

    Windows refuses while another program has the file open, which no reader does for long.
    """
    until = time.monotonic() + WAIT_SECONDS / 6
    while True:
        try:
            source.replace(target)
            return
        except OSError as error:
            if isinstance(error, PermissionError) and sys.platform == "win32" and time.monotonic() < until:
                time.sleep(0.01)
            elif source.is_dir() and not target.exists():  # a mounted bucket may move files only
                _move_files(source, target)
                return
            else:
                raise


def _move_files(source: Path, target: Path) -> None:
    """Move a folder file by file, its configuration last: without one it is no model yet."""
    target.mkdir(parents=True)
    for item in sorted(source.iterdir(), key=lambda item: item.name == CONFIG_FILE):
        move(item, target / item.name)
    source.rmdir()

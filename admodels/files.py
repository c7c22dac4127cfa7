"""Files that results are written to: looked at before the work, written whole or not at all, always UTF-8."""

import hashlib
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from admodels.errors import OutputError

MAX_STEM_BYTES = 180  # most systems take 255 in a name; the rest is for endings
RESERVED_NAMES = {"con", "prn", "aux", "nul", *(f"{p}{i}" for p in ("com", "lpt") for i in range(10))}  # on Windows
# On one system or another. Lone surrogates from \udc80 to \udcff stay: they are a name's bytes in another encoding.
NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udc7f\udd00-\udfff]')


def home_folder() -> Path:
    """What is kept for this user: `$ADMODELS_HOME`, by default in the user's cache folder."""
    home = os.environ.get("ADMODELS_HOME")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "admodels"


def check_file(path: Path, what: str) -> None:
    """See that a file can be written, before the work whose result it is to hold; its folder is made.

    Args:
        what: the file's part, for the message, such as "--json".

    Raises:
        OutputError: it is a folder, or cannot be written; the message says what to do.
    """
    if path.is_dir():
        raise OutputError(f"{what} is {path}, which is a folder. Give the path of a file, such as {path / 'result'}.")
    if _is_special(path):
        if not os.access(path, os.W_OK):
            raise OutputError(f"{what} is {path}, which cannot be written. Choose another file.")
        return
    check_folder(path.resolve().parent, f"the folder of {what}")
    if path.is_file() and not os.access(path, os.W_OK):
        raise OutputError(f"{what} is {path}, which is write-protected. Choose another file.")


def check_folder(folder: Path, what: str) -> None:
    """See that files can be written into a folder, which is made.

    Raises:
        OutputError: it is a file, or cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = _beside(folder / "probe")
        probe.touch()
        probe.unlink()
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(
            f"{what} is {folder}, but {error.filename or folder} is a file. Choose another folder."
        ) from error
    except (OSError, ValueError) as error:
        raise OutputError(f"{what} is {folder}, which cannot be written ({error}). Choose another folder.") from error


def write_text(path: Path, text: str) -> None:
    """Write a whole text file as UTF-8, in one step: who reads it sees the old one or the new one.

    What UTF-8 cannot hold, such as the bytes of a file name in another encoding, is written as an escape.

    Raises:
        OutputError: the disk refuses.
    """
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file, in one step.

    Raises:
        OutputError: the disk refuses.
    """
    try:
        if _is_special(path):
            path.write_bytes(content)
            return
        path = path.resolve()  # a link stays a link
        part = _beside(path)
        try:
            part.write_bytes(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error}). Free space there, or choose another file.") from error


def safe_stem(name: str) -> str:
    """A file name without ending, made of any text: what some system refuses is replaced by an underscore."""
    stem = NOT_IN_NAMES.sub("_", name).rstrip(". ").lstrip()
    while len(stem.encode("utf-8", errors="surrogatepass")) > MAX_STEM_BYTES:
        stem = stem[:-1]
    return f"_{stem}" if not stem or stem.split(".")[0].lower() in RESERVED_NAMES else stem


class OwnStems:
    """Gives out stems under which the files of every picture are nobody else's, whatever the pictures are called.

    Args:
        endings: of the files that are made from each stem.
        taken: names that must not be used, such as those of the pictures themselves.
    """

    def __init__(self, endings: Iterable[str], taken: Iterable[str] = ()) -> None:
        self._endings = tuple(endings)
        self._taken = {same_name(name) for name in taken}
        self._n_tried: dict[str, int] = {}

    def take(self, name: str) -> str:
        """The name itself, or with a number where that is taken."""
        wanted = safe_stem(name)
        while True:
            n = self._n_tried[wanted] = self._n_tried.get(wanted, 0) + 1
            stem = wanted if n == 1 else f"{wanted}_{n}"
            names = {same_name(stem + ending) for ending in self._endings}
            if not names & self._taken:
                self._taken |= names
                return stem


def same_name(name: str) -> str:
    """What is equal for two names that are one file on some system: there case or the form of an accent is ignored."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def named_files(names: Iterable[str], ending: str) -> dict[str, str]:
    """A file name of its own for each name, the same in every run: the name itself wherever that can be.

    Where it cannot, or is another's up to case, a digest of the name makes it unique.
    """
    files: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(names):
        stem = safe_stem(name)
        if stem != name or same_name(stem + ending) in taken:
            stem += "-" + hashlib.sha256(name.encode("utf-8", errors="surrogatepass")).hexdigest()[:12]
        taken.add(same_name(stem + ending))
        files[name] = stem + ending
    return files


def _beside(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(8)}.part")


def _is_special(path: Path) -> bool:
    """Whether it is there and something that must not be replaced, such as a device or a pipe."""
    return path.exists() and not path.is_file()

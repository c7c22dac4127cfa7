"""Weights by HTTP: checked against the hash in their name, in one step for every reader, and never without end.

Neither PyTorch's own download nor `urlopen` has a time limit unless the whole process is given one.
"""

import hashlib
import http.client
import re
import time
import urllib.request
import uuid
from pathlib import Path
from urllib.parse import urlsplit

CHUNK_BYTES = 2**18


def file_of(url: str, folder: Path) -> Path:
    """Where the file of this address lies, or will."""
    return folder / Path(urlsplit(url).path).name


def download(url: str, folder: Path, *, stall_seconds: float, minutes: float) -> Path:
    """The file of this address in `folder`, made there if need be; what is there already is not fetched again.

    Args:
        url: its file name holds the first digits of the file's SHA-256, such as resnet18-f37072fd.pth.
        stall_seconds: how long to wait for a connection, and for the next byte.
        minutes: how long the whole may take.

    Raises:
        OSError: no connection, too slow, cut short, not what its name says, or the folder cannot be written; nothing is
            left behind.
    """
    path = file_of(url, folder)
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        _fetch(url, part, stall_seconds, minutes)
        check(part, path.name)
        try:
            part.replace(path)
        except PermissionError:  # Windows, where another process has just put it there and reads it
            if not path.is_file():
                raise
    except http.client.HTTPException as error:
        raise OSError(f"the connection ended too early: {error!r}") from error
    except TimeoutError as error:
        raise OSError(f"no data received for {stall_seconds:g} seconds") from error
    finally:
        part.unlink(missing_ok=True)
    return path


def check(path: Path, name: str | None = None) -> None:
    """Compare a file with the hash in its name, or in the name that it is to have.

    Raises:
        OSError: they differ, or it cannot be read.
    """
    stated = re.search(r"-([0-9a-f]{8,64})\.", name or path.name)
    if stated is None:
        return
    with open(path, "rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if not found.startswith(stated[1]):
        raise OSError(f"its SHA-256 begins with {found[: len(stated[1])]}, not with {stated[1]} as its name says")


def _fetch(url: str, to: Path, stall_seconds: float, minutes: float) -> None:
    end = time.monotonic() + 60 * minutes
    request = urllib.request.Request(url, headers={"User-Agent": "admodels"})
    with urllib.request.urlopen(request, timeout=stall_seconds) as response, open(to, "xb") as opened:
        # `read1` gives what is there: `read` would wait for a whole chunk, however slowly it came.
        while chunk := response.read1(CHUNK_BYTES):
            opened.write(chunk)
            if time.monotonic() > end:
                raise OSError(f"only {opened.tell() / 2**20:.1f} MiB received in {minutes:g} minutes")
        expected = response.headers.get("Content-Length")
        if expected is not None and opened.tell() != int(expected):
            raise OSError(f"{opened.tell():,} of {int(expected):,} bytes received")

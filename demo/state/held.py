"""What all visitors of a shared server hold together, on its disk and in its memory, and how much that may be.

Limits on one upload or one fit do not bound that. On a server of one's own nothing here refuses.
"""

import os
from pathlib import Path

from gradio.utils import get_upload_folder
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from admodels import OptionError
from demo.state.limits import limit
from demo.state.server import is_shared
from demo.state.session import Session
from demo.state.sessions import SESSIONS

DISK, MODELS = "ADMODELS_MAX_DISK_GIB", "ADMODELS_MAX_MODELS_GIB"
GIB = 2**30


def check_disk(more: int = 0) -> None:
    """Refuse what would be kept on a disk where the visitors of a shared server have as much as they may.

    Args:
        more: bytes that are to come, as far as that is known.

    Raises:
        OptionError: there is no room for them.
    """
    if not is_shared():
        return
    held, most = on_disk() + more, limit(DISK)
    if held > most * GIB:
        raise OptionError(
            f"The pictures and models of all visitors would take {held / GIB:.1f} GiB of this server's disk, and may "
            f"take {most:g} GiB. Delete models you no longer need, or try again later: what visitors leave is deleted."
        )


def check_memory(session: Session) -> None:
    """Refuse another model in memory where the other visitors' models take as much as they may.

    Args:
        session: of who asks; its own model would make room.

    Raises:
        OptionError: there is no room.
    """
    if not is_shared():
        return
    most = limit(MODELS)
    if SESSIONS.models_mib(but=session) > most * 2**10:
        SESSIONS.forget_away()
    if (held := SESSIONS.models_mib(but=session)) > most * 2**10:
        raise OptionError(
            f"The models of other visitors take {held / 2**10:.1f} GiB of this server's memory, and may take {most:g} "
            "GiB. Nothing was changed. Try again later: a model goes when its visitor does."
        )


def on_disk() -> int:
    """Bytes of all uploads, and of what visitors' sessions keep in folders of their own."""
    return sum(_bytes_in(folder) for folder in (Path(get_upload_folder()), *SESSIONS.folders()))


def _bytes_in(folder: Path) -> int:
    n_bytes = 0
    for at, _, names in os.walk(folder):
        for name in names:
            try:
                n_bytes += os.stat(os.path.join(at, name), follow_symlinks=False).st_size
            except OSError:  # it was deleted just now
                continue
    return n_bytes


class UploadsWithin:
    """Refuses an upload for which there is no room on the disk; those that are under way count too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._coming = 0  # bytes; of one event loop, so no lock is needed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].rstrip("/").endswith("/upload"):
            await self._app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"")
        n_bytes = int(said) if said.isdigit() else 0
        self._coming += n_bytes
        try:
            answer = await self._answer(receive)
            await answer(scope, receive, send)
        finally:
            self._coming -= n_bytes

    async def _answer(self, receive: Receive) -> ASGIApp:
        try:
            await run_in_threadpool(check_disk, self._coming)
        except OptionError as error:
            while (await receive()).get("more_body"):  # a browser reads no answer before it has sent everything
                pass
            return PlainTextResponse(str(error), 413)
        return self._app

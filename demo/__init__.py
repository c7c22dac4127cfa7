"""The Gradio layer. What has to happen before Gradio and PyTorch are imported happens here."""

import inspect
import os
from pathlib import Path


def keep_in(storage: Path) -> None:
    """On its owner's own Space, save models where they outlive a restart, unless the variable says where.

    Nothing else goes there: such storage is a mounted bucket, without locks, and links in it are lost. The Hub's cache
    consists of links; compiled networks are made again in a second; what visitors of a shared Space save is theirs.
    """
    is_own = os.environ.get("SPACE_ID") and os.environ.get("ADMODELS_SHARED") == "0"
    if is_own and os.access(storage, os.W_OK):
        os.environ.setdefault("ADMODELS_MODELS", str(storage / "admodels" / "models"))


keep_in(Path("/data"))

# After each event Gradio sums up the last ones, by default 10,000, in a table that nothing here shows.
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000")

# Gradio writes stub files for editors whenever it is imported, about two seconds of work that nobody needs at run time.
# It passes over a component whose file it cannot find; so, while it is imported, it finds none of its own.
_getfile = inspect.getfile


def _getfile_but_not_of_gradio(thing: object) -> str:
    if isinstance(thing, type) and thing.__module__.startswith("gradio."):
        raise OSError
    return _getfile(thing)


inspect.getfile = _getfile_but_not_of_gradio
try:
    import gradio  # noqa: F401
finally:
    inspect.getfile = _getfile

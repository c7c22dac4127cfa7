"""The Gradio layer. What has to happen before Gradio is imported happens here."""

import inspect
import os
from pathlib import Path

PERSISTENT = Path("/data")  # where a Space has storage that outlives a restart

if os.environ.get("SPACE_ID") and os.access(PERSISTENT, os.W_OK):
    os.environ.setdefault("HF_HOME", str(PERSISTENT / "huggingface"))  # models pulled once
    os.environ.setdefault("ADMODELS_HOME", str(PERSISTENT / "admodels"))  # models saved, where visitors share them

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

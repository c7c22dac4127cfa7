"""Build the demo and launch it. Hugging Face Spaces starts this file."""

import gc
import os
import sys

# Gradio reads it when it is imported.
port = os.environ.get("GRADIO_SERVER_PORT", "7860")
if not (port.isascii() and port.isdecimal() and int(port) < 2**16):
    sys.exit(
        f"Error: GRADIO_SERVER_PORT is {port!r}; expected a number up to 65535. Set it to a valid value, or unset it."
    )

gc.disable()  # all that is made while it starts stays anyway: a second less to the first page

from demo.app import build, launch  # noqa: E402, I001 - it prepares what is imported next
from admodels import AdmodelsError  # noqa: E402
from demo.state.limits import check_settings  # noqa: E402

try:
    check_settings()
    demo = build()
    gc.freeze()
    gc.enable()
    if __name__ == "__main__":
        launch(demo)
except (AdmodelsError, OSError) as error:  # what whoever set this up can act on, a port that is taken for example
    sys.exit(f"Error: {error}")

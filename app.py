"""Build the demo and launch it. Hugging Face Spaces starts this file."""

import gc

gc.disable()  # all that is made while it starts stays anyway: a second less to the first page

from demo.blocks import build, launch  # noqa: E402

demo = build()
gc.freeze()
gc.enable()

if __name__ == "__main__":
    launch(demo)

"""The sets of pictures that come with the app."""

from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# The first stands in the README, and says what the app does: a good part, a defective one, what is found in it.
EXAMPLE_SETS = {"Paper with specks": EXAMPLES / "pa_brg02_rl", "Paper with fibres": EXAMPLES / "pa_brg03_tl"}

"""The sets of pictures that come with the app."""

from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EXAMPLE_SETS = {"Paper with specks": EXAMPLES / "pa_brg02_rl", "Paper with fibres": EXAMPLES / "pa_brg03_tl"}

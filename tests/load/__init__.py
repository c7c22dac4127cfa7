"""Many clients at once: `python -m tests.load` prints what the app does under load."""

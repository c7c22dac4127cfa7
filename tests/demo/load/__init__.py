"""Many clients at once: `python -m tests.demo.load` prints what the app does under load."""

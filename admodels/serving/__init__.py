"""From the demo to the line: models behind HTTP, and folders and cameras that are watched."""

"""Folders and cameras that are watched: what arrives is scored, and told to whoever asked."""

"""Shared ground: files, processes, one option validator, random streams. Imports nothing of the package but errors."""

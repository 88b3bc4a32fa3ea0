"""The files of a run, and JSON files that are whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from unirain_plugin.errors import DataError

CURVE = "curve.jsonl"
"""In a run's experiment folder: the figures of each validation, a line each."""
RESULT = "evaluation.json"
"""In a run's experiment folder: what came out. Where it stands, the run is finished."""


def write_text(path: Path, text: str) -> None:
    """Write a text file beside its name and move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)


def write_json(path: Path, value: object) -> None:
    """Write plain data as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: If it is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); remove it to have it made anew.") from None

"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run import write_rainrag


@pytest.fixture()
def rainrag_root(tmp_path: Path) -> Path:
    """A folder in RainRAG's layout: 4 types × 3 pairs of 48×56 pictures."""
    return write_rainrag(tmp_path / "rainrag")

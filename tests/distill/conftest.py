"""Rendered pairs and real-rain stand-ins for the pipeline's tests, made once a session."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # stub_voters, for `imports` in this process and in workers
from distill_helpers import photographs, write_png

from unirain_plugin.rain.render import render_rain
from unirain_plugin.rain_types import RAIN_TYPES


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """``pairs/{type}/{input,target}`` (2 photographs × 2 rains) and ``real/{type}`` (the other two photographs)."""
    root = tmp_path_factory.mktemp("rendered")
    for number, (name, photo) in enumerate(photographs().items()):
        for rain_type in RAIN_TYPES:
            for seed in (0, 1):
                pair = render_rain(photo, rain_type, 10 * number + seed)
                if number < 2:
                    write_png(root / "pairs" / rain_type / "input" / f"{name}{seed}.png", pair.lq)
                    write_png(root / "pairs" / rain_type / "target" / f"{name}{seed}.png", pair.gt)
                else:
                    write_png(root / "real" / rain_type / f"{name}{seed}.png", pair.lq)
    return root


@pytest.fixture()
def settings(rendered, tmp_path):
    """A complete option mapping for the rendered pairs, with stub voters; works in this process."""
    return {
        "name": "test",
        "imports": ["stub_voters"],
        "references": {"images": str(rendered / "real")},
        "candidates": {"dataroot": str(rendered / "pairs"), "source": "rendered"},
        "voters": [
            {"type": "HashVoter", "name": "first"},
            {"type": "HashVoter", "name": "second", "salt": 1},
            {"type": "CostlyVoter", "name": "third", "salt": 2},
        ],
        "retrieval": {"k1": 8, "k2": 4, "k3": 2, "working_size": 48},
        "engine": {"workers": 0},
        "report": {"enabled": False},
        "output": str(tmp_path / "out"),
        "shard_size": 3,
    }

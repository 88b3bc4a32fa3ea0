"""Fixtures shared by all tests: small data in RainRAG's layout, made on the fly."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from unirain_plugin.rain_types import RAIN_TYPES


def write_rainrag(root: Path, per_type: int = 3, size: tuple[int, int] = (48, 56), types=RAIN_TYPES, seed: int = 0):
    """Write ``{type}/{input,target}/NNN.png``: smooth random pictures, and the same with noise as "rain"."""
    rng = np.random.default_rng(seed)
    for rain_type in types:
        for folder in ("input", "target"):
            (root / rain_type / folder).mkdir(parents=True, exist_ok=True)
        for index in range(per_type):
            coarse = rng.uniform(30, 220, (6, 7, 3)).astype(np.float32)
            target = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
            rain = (rng.random(size) < 0.05)[..., None] * rng.integers(60, 120)
            lq = (target.astype(np.int32) + rain).clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(root / rain_type / "target" / f"{index:03d}.png"), target)
            cv2.imwrite(str(root / rain_type / "input" / f"{index:03d}.png"), lq)
    return root


@pytest.fixture()
def rainrag_root(tmp_path: Path) -> Path:
    """A folder in RainRAG's layout: 4 types × 3 pairs of 48×56 pictures."""
    return write_rainrag(tmp_path / "rainrag")

"""The interface of a captioner (T_r and T_q in the paper's relation triplets)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unirain_plugin.distill.parts import Part


@dataclass(frozen=True, slots=True)
class Scene:
    """A rainy image to be described.

    Attributes:
        id: Of the reference or candidate.
        path: Its file.
        image: uint8 RGB (H, W, 3).
    """

    id: str
    path: Path
    image: np.ndarray


class Captioner(Part, ABC):
    """Base of all captioners; register subclasses with ``@CAPTIONER.register()``."""

    @abstractmethod
    def caption(self, scenes: Sequence[Scene]) -> list[str]:
        """Describe a batch: one sentence for each image, in order, the same whatever else is in the batch."""

    def calls(self, images: int) -> int:
        """Requests to a server that describing so many images takes, for ``--dry-run``."""
        return 0

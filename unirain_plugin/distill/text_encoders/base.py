"""The interface of a text encoder (the paper's φ_T)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from unirain_plugin.distill.parts import Part


class TextEncoder(Part, ABC):
    """Base of all text encoders; register subclasses with ``@TEXT_ENCODER.register()``."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Turn sentences into vectors: float32 (n, d). The pipeline compares them by L2 distance."""

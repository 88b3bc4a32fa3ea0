"""The interface of an embedder (f_r and f_q in the paper's relation triplets)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from unirain_plugin.distill.parts import Part


class Embedder(Part, ABC):
    """Base of all embedders; register subclasses with ``@EMBEDDER.register()``.

    Attributes:
        batch_size: Images that the pipeline hands over (and keeps in memory) at a time.
    """

    batch_size: int = 16

    @abstractmethod
    def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Describe a batch of uint8 RGB images (H, W, 3), of any sizes, by vectors: float32 (n, d).

        The pipeline compares them by cosine; they need not have unit length.
        """

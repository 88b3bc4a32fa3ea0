"""The interfaces of what describes an image: captioner, embedder, text encoder (the paper's relation triplets)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unirain_plugin.distill.registry import Part
from unirain_plugin.errors import DataError


@dataclass(frozen=True, slots=True)
class Scene:
    """A rainy image to be described."""

    id: str  # of the reference or candidate
    path: Path  # its file
    image: np.ndarray  # uint8 RGB (H, W, 3)


class Captioner(Part, ABC):
    """Base of all captioners; register subclasses with ``@CAPTIONER.register()``."""

    @abstractmethod
    def caption(self, scenes: Sequence[Scene]) -> list[str | DataError]:
        """Describe a batch: one sentence for each image, in order, the same whatever else is in the batch.

        A DataError in its place says why an image has none: then it counts as one that cannot be read.
        """

    def calls(self, images: int) -> int:
        """Requests to a server that describing so many images takes, for ``--dry-run``."""
        return 0


class Embedder(Part, ABC):
    """Base of all embedders; register subclasses with ``@EMBEDDER.register()``."""

    batch_size: int = 16  # images that the pipeline hands over (and keeps in memory) at a time

    @abstractmethod
    def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Describe a batch of uint8 RGB images (H, W, 3) of any sizes: float32 (n, d), to be compared by cosine."""


class TextEncoder(Part, ABC):
    """Base of all text encoders; register subclasses with ``@TEXT_ENCODER.register()``."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Turn sentences into vectors: float32 (n, d). The pipeline compares them by L2 distance."""

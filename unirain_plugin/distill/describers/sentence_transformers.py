"""Sentence features by a model of the sentence-transformers package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unirain_plugin.distill.describers.base import TextEncoder
from unirain_plugin.distill.registry import TEXT_ENCODER
from unirain_plugin.errors import OptionError
from unirain_plugin.support.packages import require


@TEXT_ENCODER.register()
class SentenceTransformersEncoder(TextEncoder):
    """Any sentence-transformers model: a local folder, or a name on the hub.

    Args:
        model: Folder or name (``all-MiniLM-L6-v2``).
        device: ``cpu``, ``cuda``, …
        batch_size: Sentences at a time.
        normalize: Bring the vectors to unit length.
    """

    registry_name = "sentence_transformers"

    def __init__(
        self, model: str = "all-MiniLM-L6-v2", device: str = "cpu", batch_size: int = 256, normalize: bool = True
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise OptionError(f"batch_size: expected at least 1, got {batch_size!r}.")
        self.model, self.normalize = model, normalize
        self._device, self._batch_size = device, batch_size
        self._loaded: Any = None

    def check(self) -> None:
        """Look for the package."""
        require("sentence_transformers", "sentence-transformers")

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode sentences, ``batch_size`` at a time.

        Raises:
            OptionError: If the model cannot be loaded.
        """
        rows = self._load().encode(
            list(texts),
            batch_size=self._batch_size,
            normalize_embeddings=self.normalize,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(rows, np.float32)

    def _load(self) -> Any:
        if self._loaded is None:
            package = require("sentence_transformers", "sentence-transformers")
            try:
                self._loaded = package.SentenceTransformer(self.model, device=self._device)
            except (OSError, ValueError, RuntimeError) as error:
                raise OptionError(f"sentence-transformers cannot load the model '{self.model}': {error}") from error
        return self._loaded

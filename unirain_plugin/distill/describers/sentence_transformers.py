"""Sentence features by a model of the sentence-transformers package."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np

from unirain_plugin.distill.describers.base import TextEncoder
from unirain_plugin.distill.registry import TEXT_ENCODER
from unirain_plugin.errors import OptionError
from unirain_plugin.support.packages import require
from unirain_plugin.support.spec import at_least


@TEXT_ENCODER.register()
@dataclass(eq=False)
class SentenceTransformersEncoder(TextEncoder):
    """Any sentence-transformers model: a local folder, or a name on the hub."""

    registry_name = "sentence_transformers"

    model: str = "all-MiniLM-L6-v2"  # folder or name (``all-MiniLM-L6-v2``)
    device: str = "cpu"  # ``cpu``, ``cuda``, …
    batch_size: Annotated[int, at_least(1)] = 256  # sentences at a time
    normalize: bool = True  # bring the vectors to unit length

    def fingerprint(self) -> dict[str, Any]:
        own = {"model": self.model, "normalize": self.normalize}
        return {"type": type(self).__qualname__, "version": self.version, **own}

    def check(self) -> None:
        require("sentence_transformers", "sentence-transformers")

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode sentences, ``batch_size`` at a time. An OptionError if the model cannot be loaded."""
        rows = self._model.encode(
            list(texts),
            batch_size=self.batch_size,
            normalize_embeddings=self.normalize,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(rows, np.float32)

    @cached_property
    def _model(self) -> Any:
        package = require("sentence_transformers", "sentence-transformers")
        try:
            return package.SentenceTransformer(self.model, device=self.device)
        except (OSError, ValueError, RuntimeError) as error:
            raise OptionError(f"sentence-transformers cannot load the model '{self.model}': {error}") from error

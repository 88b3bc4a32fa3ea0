"""Visual features by any image encoder of open_clip (the paper: CLIP)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unirain_plugin.distill.clip_models import ClipModel
from unirain_plugin.distill.embedders.base import Embedder
from unirain_plugin.distill.registry import EMBEDDER


@EMBEDDER.register()
class OpenClipEmbedder(Embedder):
    """CLIP image features; the weights are named or the run is refused.

    Args:
        model: open_clip model name, ``local-dir:DIR`` or ``hf-hub:OWNER/NAME``.
        pretrained: Tag, local weights file, or null where the model's folder brings them.
        device: ``cpu``, ``cuda``, …
        precision: ``fp32``, ``fp16`` or ``bf16``.
        batch_size: Images at a time.
        config_dir: Folder with model configurations of your own.
    """

    registry_name = "open_clip"

    def __init__(
        self,
        model: str = "ViT-B-32",
        pretrained: str | None = "openai",
        device: str = "cpu",
        precision: str = "fp32",
        batch_size: int = 64,
        config_dir: str | None = None,
    ) -> None:
        self.clip = ClipModel(model, pretrained, device, precision, batch_size, config_dir)
        self.batch_size = batch_size

    def check(self) -> None:
        """See the base class."""
        self.clip.check()

    def fingerprint(self) -> dict:
        """See the base class."""
        return {"type": self.registry_name, "version": self.version, **self.clip.fingerprint()}

    def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """See the base class."""
        rows = []
        for batch in self.clip.image_batches(images):
            with self.clip.inference():
                rows.append(self.clip.model.encode_image(batch).float().cpu().numpy())
        return np.concatenate(rows)

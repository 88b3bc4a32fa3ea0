"""Sentence features by any text encoder of open_clip (the paper: CLIP's)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unirain_plugin.distill.clip_models import ClipModel
from unirain_plugin.distill.registry import TEXT_ENCODER
from unirain_plugin.distill.text_encoders.base import TextEncoder
from unirain_plugin.errors import OptionError


@TEXT_ENCODER.register()
class OpenClipTextEncoder(TextEncoder):
    """CLIP text features, as they are (our choice: the paper's L2 distance is stated on φ_T itself).

    Args:
        model: open_clip model name, ``local-dir:DIR`` or ``hf-hub:OWNER/NAME``.
        pretrained: Tag, local weights file, or null where the model's folder brings them.
        device: ``cpu``, ``cuda``, …
        precision: ``fp32``, ``fp16`` or ``bf16``.
        batch_size: Sentences at a time.
        normalize: Bring the vectors to unit length.
        config_dir: Folder with model configurations of your own.
    """

    registry_name = "open_clip"

    def __init__(
        self,
        model: str = "ViT-B-32",
        pretrained: str | None = "openai",
        device: str = "cpu",
        precision: str = "fp32",
        batch_size: int = 256,
        normalize: bool = False,
        config_dir: str | None = None,
    ) -> None:
        self.clip = ClipModel(model, pretrained, device, precision, batch_size, config_dir)
        if not isinstance(normalize, bool):
            raise OptionError(f"normalize: expected true or false, got {normalize!r}.")
        self.normalize = normalize

    def check(self) -> None:
        """See the base class."""
        self.clip.check()

    def fingerprint(self) -> dict:
        """See the base class."""
        own = {"type": self.registry_name, "version": self.version, "normalize": self.normalize}
        return {**own, **self.clip.fingerprint()}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """See the base class."""
        rows = []
        for batch in self.clip.token_batches(texts):
            with self.clip.inference():
                features = self.clip.model.encode_text(batch, normalize=self.normalize)
                rows.append(features.float().cpu().numpy())
        return np.concatenate(rows)

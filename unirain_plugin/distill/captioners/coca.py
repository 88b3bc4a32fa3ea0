"""Captions by CoCa, through open_clip."""

from __future__ import annotations

from collections.abc import Sequence

from unirain_plugin.distill.captioners.base import Captioner, Scene
from unirain_plugin.distill.clip_models import ClipModel
from unirain_plugin.distill.parts import require
from unirain_plugin.distill.registry import CAPTIONER
from unirain_plugin.errors import OptionError


@CAPTIONER.register()
class CocaCaptioner(Captioner):
    """Writes captions with open_clip's CoCa (weights such as ``mscoco_finetuned_laion2b_s13b_b90k``).

    Beam search, open_clip's default, needs transformers ≤ 4.56; ``generation: top_k`` runs with any.

    Args:
        model: open_clip model name, ``coca_ViT-B-32`` or ``coca_ViT-L-14``, or ``local-dir:DIR``.
        pretrained: Tag, weights file, or null for a ``local-dir`` that holds them.
        device: ``cpu``, ``cuda``, ``cuda:1``, …
        precision: ``fp32``, ``fp16`` or ``bf16``.
        batch_size: Images at a time.
        generation: ``beam_search`` or ``top_k`` (always the likeliest word: deterministic).
        max_words: Longest caption in tokens.
    """

    registry_name = "coca"

    def __init__(
        self,
        model: str = "coca_ViT-L-14",
        pretrained: str | None = "mscoco_finetuned_laion2b_s13b_b90k",
        device: str = "cpu",
        precision: str = "fp32",
        batch_size: int = 8,
        generation: str = "beam_search",
        max_words: int = 30,
    ) -> None:
        if generation not in ("beam_search", "top_k"):
            raise OptionError(f"generation: expected beam_search or top_k, got {generation!r}.")
        if not 3 <= max_words <= 76:
            raise OptionError(f"max_words: expected 3 to 76, got {max_words}.")
        self.clip = ClipModel(model, pretrained, device, precision, batch_size)
        self.generation, self.max_words = generation, max_words

    def check(self) -> None:
        """See the base class."""
        self.clip.check()
        require("transformers", "'transformers<=4.56'")

    def fingerprint(self) -> dict:
        """See the base class."""
        return {**super().fingerprint(), **self.clip.fingerprint()}

    def caption(self, scenes: Sequence[Scene]) -> list[str]:
        """See the base class.

        Raises:
            OptionError: If the model writes no captions, or its beam search does not run with this transformers.
        """
        model = self.clip.model
        if not hasattr(model, "generate"):
            raise OptionError(f"captioner: the model '{self.clip.name}' is no CoCa: it has no text decoder.")
        decode = require("open_clip", "open_clip_torch", "distill").decode
        texts: list[str] = []
        for batch in self.clip.image_batches([scene.image for scene in scenes]):
            try:
                with self.clip.inference():
                    # top_k=1 with min_seq_len at its smallest: greedy, hence deterministic
                    tokens = model.generate(
                        batch,
                        generation_type=self.generation,
                        seq_len=self.max_words,
                        min_seq_len=2,
                        **({"top_k": 1} if self.generation == "top_k" else {}),
                    )
            except (ImportError, NameError, AssertionError) as error:
                raise OptionError(
                    f"captioner: open_clip's {self.generation} fails ({error}); it needs 'transformers<=4.56', "
                    "or set generation: top_k."
                ) from error
            texts += [_clean(decode(row)) for row in tokens]
        return texts


def _clean(text: str) -> str:
    """Take away CoCa's markers and white space."""
    return " ".join(text.split("<end_of_text>")[0].replace("<start_of_text>", "").split())

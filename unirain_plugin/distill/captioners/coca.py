"""Captions by CoCa, through open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unirain_plugin.distill.captioners.base import Captioner, Scene
from unirain_plugin.distill.clip_models import ClipModel
from unirain_plugin.distill.registry import CAPTIONER
from unirain_plugin.errors import OptionError
from unirain_plugin.support.packages import require

if TYPE_CHECKING:
    import torch

_START, _END, _PAD = 49406, 49407, 0
_SHORTEST = 5  # tokens before the end may come, as in open_clip's own generation


@CAPTIONER.register()
class CocaCaptioner(Captioner):
    """Writes captions with open_clip's CoCa (weights such as ``mscoco_finetuned_laion2b_s13b_b90k``).

    Args:
        model: open_clip model name, ``coca_ViT-B-32`` or ``coca_ViT-L-14``, or ``local-dir:DIR``.
        pretrained: Tag, weights file, or null for a ``local-dir`` that holds them.
        device: ``cpu``, ``cuda``, ``cuda:1``, …
        precision: ``fp32``, ``fp16`` or ``bf16``.
        batch_size: Images at a time.
        generation: ``greedy`` (always the likeliest word; our own loop, deterministic, needs nothing else) or
            ``beam_search`` (open_clip's, which needs transformers ≤ 4.56).
        max_words: Longest caption in tokens.
        config_dir: Folder with model configurations of your own.
    """

    registry_name = "coca"

    def __init__(
        self,
        model: str = "coca_ViT-L-14",
        pretrained: str | None = "mscoco_finetuned_laion2b_s13b_b90k",
        device: str = "cpu",
        precision: str = "fp32",
        batch_size: int = 8,
        generation: str = "greedy",
        max_words: int = 30,
        config_dir: str | None = None,
    ) -> None:
        if generation not in ("greedy", "beam_search"):
            raise OptionError(f"generation: expected greedy or beam_search, got {generation!r}.")
        if not isinstance(max_words, int) or not _SHORTEST < max_words <= 76:
            raise OptionError(f"max_words: expected {_SHORTEST + 1} to 76, got {max_words}.")
        self.clip = ClipModel(model, pretrained, device, precision, batch_size, config_dir)
        self.generation, self.max_words = generation, max_words

    def check(self) -> None:
        """See the base class."""
        self.clip.check()
        if self.generation == "beam_search":
            package = require("transformers", "'transformers<=4.56'")
            if not hasattr(package, "BeamSearchScorer"):
                raise OptionError(
                    f"generation: beam_search needs transformers ≤ 4.56, found {package.__version__}: pip install "
                    "'transformers<=4.56', or set generation: greedy."
                )

    def fingerprint(self) -> dict[str, Any]:
        """See the base class."""
        return {**super().fingerprint(), **self.clip.fingerprint()}

    def caption(self, scenes: Sequence[Scene]) -> list[str]:
        """See the base class.

        Raises:
            OptionError: If the model has no text decoder.
        """
        model = self.clip.model
        if not hasattr(model, "text_decoder"):
            raise OptionError(f"captioner: the model '{self.clip.name}' is no CoCa: it has no text decoder.")
        decode = require("open_clip", "open_clip_torch", "distill").decode
        texts: list[str] = []
        for batch in self.clip.image_batches([scene.image for scene in scenes]):
            with self.clip.inference():
                if self.generation == "greedy":
                    tokens = _greedy(model, batch, self.max_words)
                else:
                    tokens = model.generate(batch, seq_len=self.max_words, min_seq_len=_SHORTEST)
            texts += [_clean(decode(row)) for row in tokens]
        return texts


def _greedy(model: Any, images: torch.Tensor, longest: int) -> torch.Tensor:
    """Token ids (n, ≤ ``longest``): from the start mark on, the likeliest next token, until every caption has ended."""
    import torch

    seen = model(images)
    tokens = torch.full((len(images), 1), _START, device=images.device, dtype=torch.long)
    ended = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    while tokens.shape[1] < longest and not ended.all():
        logits = model(
            images, tokens, image_latent=seen["image_features"], image_embs=seen["image_embs"], output_labels=False
        )["logits"][:, -1]
        if tokens.shape[1] < _SHORTEST:
            logits[:, _END] = -torch.inf
        following = torch.where(ended, _PAD, logits.argmax(dim=-1))
        ended |= following == _END
        tokens = torch.cat([tokens, following[:, None]], dim=1)
    return tokens


def _clean(text: str) -> str:
    """Take away CoCa's marks and white space."""
    return " ".join(text.split("<end_of_text>")[0].replace("<start_of_text>", "").split())

"""Captions, image features and sentence features by models of open_clip (the paper: CLIP). Never silently random."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unirain_plugin.distill.describers.base import Captioner, Embedder, Scene, TextEncoder
from unirain_plugin.distill.registry import CAPTIONER, EMBEDDER, TEXT_ENCODER, Part, file_stamp
from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.support.packages import require

if TYPE_CHECKING:
    import torch

_LOCAL_DIR = "local-dir:"
_HUB = "hf-hub:"
_WEIGHTS = ("open_clip_pytorch_model.bin", "open_clip_model.safetensors")


class ClipModel:
    """A model of open_clip, loaded on first use.

    Args:
        name: Model name (``ViT-B-32``), ``local-dir:DIR`` (a folder with open_clip_config.json and weights) or
            ``hf-hub:OWNER/NAME``.
        pretrained: Tag of open_clip (downloaded from the hub), a local weights file, or null where the name already
            brings the weights.
        device: ``cpu``, ``cuda``, …
        precision: ``fp32``, ``fp16`` or ``bf16``.
        batch_size: Images or sentences at a time.
        config_dir: Folder with model configurations of your own (``NAME.json``).

    Raises:
        OptionError: If nothing names weights.
    """

    def __init__(
        self,
        name: str,
        pretrained: str | None,
        device: str = "cpu",
        precision: str = "fp32",
        batch_size: int = 64,
        config_dir: str | None = None,
    ) -> None:
        if precision not in ("fp32", "fp16", "bf16"):
            raise OptionError(f"precision: expected fp32, fp16 or bf16, got {precision!r}.")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise OptionError(f"batch_size: expected at least 1, got {batch_size!r}.")
        if pretrained is None and not name.startswith((_LOCAL_DIR, _HUB)):
            raise OptionError(
                f"pretrained: '{name}' would be a random model; give a tag of open_clip or a weights file, "
                f"or a model '{_LOCAL_DIR}DIR' that holds its weights."
            )
        self.name, self.pretrained, self.device, self.precision = name, pretrained, device, precision
        self.batch_size, self.config_dir = batch_size, config_dir
        self._loaded: tuple[Any, Any] | None = None

    def check(self) -> None:
        """Look for the package, the model's name, the weights and the device.

        Raises:
            OptionError: Naming what is missing.
        """
        clip = self._open_clip()
        if self.name.startswith(_LOCAL_DIR):
            folder = Path(self.name.removeprefix(_LOCAL_DIR))
            if not (folder / "open_clip_config.json").is_file():
                raise OptionError(f"model: '{folder}' holds no open_clip_config.json.")
            if self.pretrained is None and not any((folder / name).is_file() for name in _WEIGHTS):
                raise OptionError(f"model: '{folder}' holds no weights; expected {' or '.join(_WEIGHTS)}.")
        elif not self.name.startswith(_HUB) and self.name not in clip.list_models():
            known = clip.list_models()
            raise OptionError(f"model: open_clip knows no '{self.name}'.{did_you_mean(self.name, known)}")
        if self.pretrained and not Path(self.pretrained).is_file():
            tags = clip.list_pretrained_tags_by_model(self.name)
            if self.pretrained not in tags:
                raise OptionError(
                    f"pretrained: '{self.pretrained}' is neither a file nor a tag of '{self.name}'."
                    f"{did_you_mean(self.pretrained, tags)} Tags: {tags or 'none'}."
                )
        _check_device(self.device)

    def fingerprint(self) -> dict[str, Any]:
        """Name, weights and precision; the device only changes rounding and is left out with the batch size."""
        files = []
        if self.pretrained and Path(self.pretrained).is_file():
            files = [file_stamp(self.pretrained)]
        elif self.name.startswith(_LOCAL_DIR):
            folder = Path(self.name.removeprefix(_LOCAL_DIR))
            files = [file_stamp(folder / name) for name in _WEIGHTS if (folder / name).is_file()]
        return {"model": self.name, "pretrained": self.pretrained, "precision": self.precision, "files": files}

    @property
    def model(self) -> Any:
        """The model in evaluation mode on its device."""
        return self._load()[0]

    def image_batches(self, images: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """Preprocess uint8 RGB images as the model's training did, ``batch_size`` at a time."""
        import torch
        from PIL import Image

        transform = self._load()[1]
        for start in range(0, len(images), self.batch_size):
            batch = [transform(Image.fromarray(image)) for image in images[start : start + self.batch_size]]
            yield torch.stack(batch).to(self.device)

    def token_batches(self, texts: Sequence[str]) -> Iterator[torch.Tensor]:
        """Tokenise sentences, ``batch_size`` at a time; what is too long is cut by the tokenizer."""
        tokenizer = self._open_clip().get_tokenizer(self.name)
        for start in range(0, len(texts), self.batch_size):
            yield tokenizer(list(texts[start : start + self.batch_size])).to(self.device)

    def inference(self) -> AbstractContextManager:
        """No gradients, and autocast for half precision (plain half weights fail on fp32 input on a CPU)."""
        import contextlib

        import torch

        stack = contextlib.ExitStack()
        stack.enter_context(torch.inference_mode())
        if self.precision != "fp32":
            dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
            stack.enter_context(torch.autocast(self.device.split(":")[0], dtype))
        return stack

    def _open_clip(self) -> Any:
        clip = require("open_clip", "open_clip_torch", "distill")
        if self.config_dir is not None:
            if not Path(self.config_dir).is_dir():
                raise OptionError(f"config_dir: '{self.config_dir}' is no folder.")
            clip.add_model_config(self.config_dir)
        return clip

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            self.check()
            clip = self._open_clip()
            try:
                model, _, transform = clip.create_model_and_transforms(
                    self.name, pretrained=self.pretrained, device=self.device, require_pretrained=True
                )
            except (RuntimeError, OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
                raise OptionError(
                    f"open_clip cannot load '{self.name}' with the weights '{self.pretrained}': {error}"
                ) from error
            self._loaded = model.eval(), transform
        return self._loaded


def _check_device(device: str) -> None:
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise OptionError(f"device: {device!r} is no device such as cpu, cuda or cuda:1.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"device: '{device}' was asked for, but torch finds no CUDA device here.")


if TYPE_CHECKING:
    import torch

_START, _END, _PAD = 49406, 49407, 0
_SHORTEST = 5  # tokens before the end may come, as in open_clip's own generation


class _ClipPart(Part):
    """What the parts with a model of open_clip share."""

    registry_name: str
    clip: ClipModel

    def check(self) -> None:
        """Look for the package, the model's name, the weights and the device."""
        self.clip.check()

    def fingerprint(self) -> dict[str, Any]:
        """The model's name, weights and precision."""
        return {"type": self.registry_name, "version": self.version, **self.clip.fingerprint()}


@CAPTIONER.register()
class CocaCaptioner(_ClipPart, Captioner):
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
        """Look also for what beam search needs."""
        super().check()
        if self.generation == "beam_search":
            package = require("transformers", "'transformers<=4.56'")
            if not hasattr(package, "BeamSearchScorer"):
                raise OptionError(
                    f"generation: beam_search needs transformers ≤ 4.56, found {package.__version__}: pip install "
                    "'transformers<=4.56', or set generation: greedy."
                )

    def fingerprint(self) -> dict[str, Any]:
        """The model and the kind of generation."""
        return {**Part.fingerprint(self), **self.clip.fingerprint()}

    def caption(self, scenes: Sequence[Scene]) -> list[str]:
        """Caption images, ``batch_size`` at a time.

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


@EMBEDDER.register()
class OpenClipEmbedder(_ClipPart, Embedder):
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

    def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Encode images, ``batch_size`` at a time."""
        rows = []
        for batch in self.clip.image_batches(images):
            with self.clip.inference():
                rows.append(self.clip.model.encode_image(batch).float().cpu().numpy())
        return np.concatenate(rows)


@TEXT_ENCODER.register()
class OpenClipTextEncoder(_ClipPart, TextEncoder):
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

    def fingerprint(self) -> dict[str, Any]:
        """The model and whether vectors are normalised."""
        return {**super().fingerprint(), "normalize": self.normalize}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode sentences, ``batch_size`` at a time."""
        rows = []
        for batch in self.clip.token_batches(texts):
            with self.clip.inference():
                features = self.clip.model.encode_text(batch, normalize=self.normalize)
                rows.append(features.float().cpu().numpy())
        return np.concatenate(rows)

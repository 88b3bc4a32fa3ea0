"""Captions, image and sentence features by open_clip (the paper: CLIP), sentences by sentence-transformers, too."""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from unirain_plugin.distill.describers.base import Captioner, Embedder, Scene, TextEncoder
from unirain_plugin.distill.registry import CAPTIONER, EMBEDDER, TEXT_ENCODER, Part, file_stamp
from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.support.packages import require
from unirain_plugin.support.spec import at_least, between, one_of

if TYPE_CHECKING:
    import torch


_LOCAL_DIR = "local-dir:"
_HUB = "hf-hub:"
_WEIGHTS = ("open_clip_pytorch_model.bin", "open_clip_model.safetensors")
_PRECISION = replace(one_of("fp32", "fp16", "bf16"), kind="fp32, fp16 or bf16")
_GENERATION = replace(one_of("greedy", "beam_search"), kind="greedy or beam_search")


@dataclass(eq=False)
class ClipPart(Part):
    """Base of the parts with a model of open_clip, which is loaded on first use."""

    # a model's name, ``local-dir:DIR`` (a folder with open_clip_config.json and weights) or ``hf-hub:OWNER/NAME``
    model: str = "ViT-B-32"
    # tag of open_clip (downloaded from the hub), a local weights file, or null where the name brings the weights
    pretrained: str | None = "openai"
    device: str = "cpu"  # ``cpu``, ``cuda``, ``cuda:1``, …
    precision: Annotated[str, _PRECISION] = "fp32"  # ``fp32``, ``fp16`` or ``bf16``
    batch_size: Annotated[int, at_least(1)] = 64  # images or sentences at a time
    config_dir: str | None = None  # folder with model configurations of your own (``NAME.json``)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretrained is None and not self.model.startswith((_LOCAL_DIR, _HUB)):
            remedy = f"give a tag of open_clip or a weights file, or a model '{_LOCAL_DIR}DIR' that holds its weights"
            raise OptionError(f"pretrained: '{self.model}' would be a random model; {remedy}.")

    def check(self) -> None:
        """Look for the package, the model's name, the weights and the device; OptionError names what is missing."""
        clip = self._open_clip()
        if self.model.startswith(_LOCAL_DIR):
            folder = Path(self.model.removeprefix(_LOCAL_DIR))
            if not (folder / "open_clip_config.json").is_file():
                raise OptionError(f"model: '{folder}' holds no open_clip_config.json.")
            if self.pretrained is None and not any((folder / name).is_file() for name in _WEIGHTS):
                raise OptionError(f"model: '{folder}' holds no weights; expected {' or '.join(_WEIGHTS)}.")
        elif not self.model.startswith(_HUB) and self.model not in clip.list_models():
            known = clip.list_models()
            raise OptionError(f"model: open_clip knows no '{self.model}'.{did_you_mean(self.model, known)}")
        if self.pretrained and not Path(self.pretrained).is_file():
            tags = clip.list_pretrained_tags_by_model(self.model)
            if self.pretrained not in tags:
                what = f"'{self.pretrained}' is neither a file nor a tag of '{self.model}'"
                raise OptionError(f"pretrained: {what}.{did_you_mean(self.pretrained, tags)} Tags: {tags or 'none'}.")
        import torch

        try:
            kind = torch.device(self.device).type
        except RuntimeError as error:
            raise OptionError(f"device: {self.device!r} is no device such as cpu, cuda or cuda:1.") from error
        if kind == "cuda" and not torch.cuda.is_available():
            raise OptionError(f"device: '{self.device}' was asked for, but torch finds no CUDA device here.")

    def fingerprint(self) -> dict[str, Any]:
        """Name, weights and precision; the device only changes rounding and is left out with the batch size."""
        own = {"type": self.registry_name, "version": self.version, "model": self.model, "pretrained": self.pretrained}
        files = []
        if self.pretrained and Path(self.pretrained).is_file():
            files = [file_stamp(self.pretrained)]
        elif self.model.startswith(_LOCAL_DIR):
            folder = Path(self.model.removeprefix(_LOCAL_DIR))
            files = [file_stamp(folder / name) for name in _WEIGHTS if (folder / name).is_file()]
        return {**own, "precision": self.precision, "files": files}

    def image_batches(self, images: Sequence[np.ndarray]) -> "Iterator[torch.Tensor]":
        """Preprocess uint8 RGB images as the model's training did, ``batch_size`` at a time."""
        import torch
        from PIL import Image

        transform = self.loaded[1]
        for start in range(0, len(images), self.batch_size):
            batch = [transform(Image.fromarray(image)) for image in images[start : start + self.batch_size]]
            yield torch.stack(batch).to(self.device)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """No gradients, and autocast for half precision (plain half weights fail on fp32 input on a CPU)."""
        import torch

        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.precision)
        half = torch.autocast(self.device.split(":")[0], dtype) if dtype else nullcontext()
        with torch.inference_mode(), half:
            yield

    def _open_clip(self) -> Any:
        clip = require("open_clip", "open_clip_torch", "distill")
        if self.config_dir is not None:
            if not Path(self.config_dir).is_dir():
                raise OptionError(f"config_dir: '{self.config_dir}' is no folder.")
            clip.add_model_config(self.config_dir)
        return clip

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        """The model in evaluation mode on its device, and its transform."""
        self.check()
        try:
            model, _, transform = self._open_clip().create_model_and_transforms(
                self.model, pretrained=self.pretrained, device=self.device, require_pretrained=True
            )
        except (RuntimeError, OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            what = f"'{self.model}' with the weights '{self.pretrained}'"
            raise OptionError(f"open_clip cannot load {what}: {error}") from error
        return model.eval(), transform


_START, _END, _PAD = 49406, 49407, 0
_SHORTEST = 5  # tokens before the end may come, as in open_clip's own generation


@CAPTIONER.register()
@dataclass(eq=False)
class CocaCaptioner(ClipPart, Captioner):
    """Writes captions with open_clip's CoCa: ``coca_ViT-B-32`` or ``coca_ViT-L-14``."""

    registry_name = "coca"

    model: str = "coca_ViT-L-14"
    pretrained: str | None = "mscoco_finetuned_laion2b_s13b_b90k"
    batch_size: Annotated[int, at_least(1)] = 8
    # ``greedy`` (always the likeliest word; our own loop, deterministic, needs nothing else) or ``beam_search``
    # (open_clip's, which needs transformers ≤ 4.56)
    generation: Annotated[str, _GENERATION] = "greedy"
    # longest caption in tokens; the remaining keys are those of :class:`ClipPart`
    max_words: Annotated[int, between(_SHORTEST + 1, 76)] = 30

    @property
    def concurrency(self) -> int:
        return self.batch_size

    def check(self) -> None:
        super().check()
        if self.generation == "beam_search":
            package = require("transformers", "'transformers<=4.56'")
            if not hasattr(package, "BeamSearchScorer"):
                remedy = "pip install 'transformers<=4.56', or set generation: greedy"
                found = f"transformers ≤ 4.56, found {package.__version__}"
                raise OptionError(f"generation: beam_search needs {found}: {remedy}.")

    def fingerprint(self) -> dict[str, Any]:
        own = {"type": type(self).__qualname__, "generation": self.generation, "max_words": self.max_words}
        return {**super().fingerprint(), **own}

    def caption(self, scenes: Sequence[Scene]) -> list[str]:
        """Caption images, ``batch_size`` at a time. An OptionError if the model has no text decoder."""
        model = self.loaded[0]
        if not hasattr(model, "text_decoder"):
            raise OptionError(f"captioner: the model '{self.model}' is no CoCa: it has no text decoder.")
        decode = require("open_clip", "open_clip_torch", "distill").decode
        texts: list[str] = []
        for batch in self.image_batches([scene.image for scene in scenes]):
            with self.inference():
                if self.generation == "greedy":
                    tokens = _greedy(model, batch, self.max_words)
                else:
                    tokens = model.generate(batch, seq_len=self.max_words, min_seq_len=_SHORTEST)
            texts += [_clean(decode(row)) for row in tokens]
        return texts


def _greedy(model: Any, images: "torch.Tensor", longest: int) -> "torch.Tensor":
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
    return " ".join(text.split("<end_of_text>")[0].replace("<start_of_text>", "").split())


@EMBEDDER.register()
class OpenClipEmbedder(ClipPart, Embedder):
    """CLIP image features; the weights are named or the run is refused."""

    registry_name = "open_clip"

    def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
        rows = []
        for batch in self.image_batches(images):
            with self.inference():
                rows.append(self.loaded[0].encode_image(batch).float().cpu().numpy())
        return np.concatenate(rows)


@TEXT_ENCODER.register()
@dataclass(eq=False)
class OpenClipTextEncoder(ClipPart, TextEncoder):
    """CLIP text features, as they are (our choice: the paper's L2 distance is stated on φ_T itself)."""

    registry_name = "open_clip"

    batch_size: Annotated[int, at_least(1)] = 256
    normalize: bool = False  # bring the vectors to unit length; the remaining keys are those of :class:`ClipPart`

    def fingerprint(self) -> dict[str, Any]:
        return {**super().fingerprint(), "normalize": self.normalize}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        rows, tokenizer = [], self._open_clip().get_tokenizer(self.model)  # it cuts what is too long
        for start in range(0, len(texts), self.batch_size):
            tokens = tokenizer(list(texts[start : start + self.batch_size])).to(self.device)
            with self.inference():
                features = self.loaded[0].encode_text(tokens, normalize=self.normalize)
            rows.append(features.float().cpu().numpy())
        return np.concatenate(rows)


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
        how = {"batch_size": self.batch_size, "normalize_embeddings": self.normalize, "show_progress_bar": False}
        return np.asarray(self._model.encode(list(texts), **how), np.float32)

    @cached_property
    def _model(self) -> Any:
        package = require("sentence_transformers", "sentence-transformers")
        try:
            return package.SentenceTransformer(self.model, device=self.device)
        except (OSError, ValueError, RuntimeError) as error:
            raise OptionError(f"sentence-transformers cannot load the model '{self.model}': {error}") from error

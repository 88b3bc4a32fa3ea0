"""open_clip models for captioner, embedder and text encoder: local or hub weights, never silently random."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unirain_plugin.distill.parts import file_stamp
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

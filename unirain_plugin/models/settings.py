"""The keys that :class:`UniRainModel` adds to the toolbox's option file, parsed once into frozen dataclasses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Annotated, Any, Literal

from unirain_plugin.errors import did_you_mean
from unirain_plugin.metrics.protocols import PROTOCOLS
from unirain_plugin.support.spec import Problem, above, at_least, one_of, parse_section

AUTO_TILE = 1024
"""Side of the tiles where ``tile`` is left open, pixels (our choice)."""

AUX_WEIGHTS: Mapping[str, float] = MappingProxyType({"load_balance": 1e-2, "z_loss": 1e-3})
"""Weights of a network's auxiliary losses: 1e-2 for balancing as in Switch Transformer (Fedus et al., 2022, §2.2),
1e-3 for the router's z-loss as in ST-MoE (Zoph et al., 2022, §3.3)."""


@dataclass(frozen=True)
class Stage:
    """A part of a training with smaller crops than those of ``datasets: train:``, as in Restormer's option files.

    Attributes:
        iters: Iterations that it lasts.
        gt_size: Side of its crops in pixels, the middle of the data set's crops.
        batch_size: Samples of a batch on each device, the first of the data set's batch.
    """

    iters: Annotated[int, at_least(1)]
    gt_size: Annotated[int, at_least(1)]
    batch_size: Annotated[int, at_least(1)]


@dataclass(frozen=True)
class TrainingSettings:
    """Keys under ``train:``.

    Attributes:
        amp: ``off``, ``bf16`` or ``fp16`` (with a gradient scaler). Only the network runs in low precision; losses
            are computed in float32.
        accumulate: Each iteration's batch is cut into so many micro-batches whose gradients are summed, so memory
            falls while iterations, learning rates and logs keep their meaning and the gradients their value
            (our choice; auxiliary MoE losses are means over the micro-batches).
        grad_clip: Largest 2-norm of all gradients together; None switches clipping off.
        compile: Compile the network with ``torch.compile`` for training; a string names torch's mode.
        channels_last: Keep weights and images in channels-last memory order.
        aux_weights: Weight of each auxiliary loss that the network returns, see :data:`AUX_WEIGHTS`.
        max_nonfinite: Training stops after so many skipped (non-finite) iterations in a row.
        progressive: Stages that come first, one after the other; then whole batches of whole crops.
    """

    amp: Literal["off", "bf16", "fp16"] = "off"
    accumulate: Annotated[int, at_least(1)] = 1
    grad_clip: Annotated[float, above(0)] | None = None
    compile: bool | str = False
    channels_last: bool = False
    aux_weights: Mapping[str, Annotated[float, at_least(0)]] = field(default_factory=lambda: AUX_WEIGHTS)
    max_nonfinite: Annotated[int, at_least(1)] = 10
    progressive: tuple[Stage, ...] = ()

    def stage(self, current_iter: int) -> Stage | None:
        """The stage that an iteration, counted from 1, belongs to; None after the last."""
        end = 0
        for stage in self.progressive:
            end += stage.iters
            if current_iter <= end:
                return stage
        return None

    def check_compile(self) -> Iterator[Problem]:
        """Torch knows the mode."""
        if isinstance(self.compile, str):
            from torch import _inductor  # takes seconds, so only where a mode is named

            modes = sorted({"default", *_inductor.list_mode_options()})
            if self.compile not in modes:
                text = f"found {self.compile!r}; expected true, false or one of {', '.join(modes)}."
                yield "compile", text + did_you_mean(self.compile, modes)

    def check_aux_weights(self) -> Iterator[Problem]:
        """Nothing is misspelt; other names are compared with those of the network, in the first iteration."""
        for key in self.aux_weights:
            if key not in AUX_WEIGHTS and (hint := did_you_mean(key, AUX_WEIGHTS)):
                yield ("aux_weights", key), f"unknown auxiliary loss.{hint}"


@dataclass(frozen=True)
class BestSettings:
    """``val: best:``, which validation figure decides on ``net_g_best.pth``.

    Attributes:
        metric: A name under ``val: metrics:``, or one of its parts: ``psnr/worst``, ``psnr/drs``.
        higher: Whether more is better; None follows the metric's own ``better``.
        dataset: Name of the validation set; None means the first one that is validated.
    """

    metric: str
    higher: bool | None = None
    dataset: str | None = None


@dataclass(frozen=True)
class ValidationSettings:
    """Keys under ``val:``.

    Attributes:
        tile: Side of the square tiles in which large images are restored, in pixels of the input; 0 never tiles;
            None (the default) uses tiles of 1024 for images above 4 megapixels (our choice: a 4K frame then needs
            less than a quarter of the memory, while full-HD images are restored whole).
        tile_overlap: Width in pixels of the zone that neighbouring tiles share and blend.
        best: Which figure decides on the best checkpoint; None keeps none.
        protocol: How PSNR and SSIM are taken where ``metrics`` does not say so; None: as the toolbox does.
    """

    tile: Annotated[int, at_least(0)] | None = None
    tile_overlap: Annotated[int, at_least(0)] = 64
    best: BestSettings | None = None
    protocol: Annotated[str, one_of(*PROTOCOLS)] | None = None

    def check_overlap(self) -> Iterator[Problem]:
        """Tiles cannot share more than their halves."""
        tile = AUTO_TILE if self.tile is None else self.tile
        if tile and self.tile_overlap * 2 > tile:
            default = " (the default)" if self.tile_overlap == 64 else ""
            yield "tile_overlap", f"found {self.tile_overlap}{default}; expected at most half of tile ({tile})."

    def tile_for(self, height: int, width: int) -> int:
        """The tile size for an image of this size, or 0 for "restore it whole"."""
        if self.tile is None:
            return AUTO_TILE if height * width > 4_194_304 else 0
        return self.tile if max(height, width) > self.tile else 0


@dataclass(frozen=True)
class LoggerSettings:
    """Keys under ``logger:``.

    Attributes:
        progress: Whether to show a live bar; ``auto``: on a terminal.
        routing_freq: Iterations between two routing images; None: each validation.
    """

    progress: Literal["auto"] | bool = "auto"
    routing_freq: Annotated[int, at_least(1)] | None = None


_SECTIONS: Mapping[str, type] = {"train": TrainingSettings, "val": ValidationSettings, "logger": LoggerSettings}


@dataclass(frozen=True)
class Settings:
    """Our keys in all sections of an option file."""

    train: TrainingSettings = field(default_factory=TrainingSettings)
    val: ValidationSettings = field(default_factory=ValidationSettings)
    logger: LoggerSettings = field(default_factory=LoggerSettings)

    @classmethod
    def parse(cls, opt: Mapping[str, Any]) -> Settings:
        """Parse the sections ``train``, ``val`` and ``logger``; keys of the toolbox are passed over.

        A key without a value has its default.

        Raises:
            OptionError: Naming every key whose value cannot be used.
        """
        given: dict[str, dict[str, Any]] = {}
        for name, kind in _SECTIONS.items():
            here, own = opt.get(name) or {}, option_names(kind)
            given[name] = {key: value for key, value in here.items() if key in own and value is not None}
        train, val = given["train"], given["val"]
        if train.get("amp") is False:
            train["amp"] = "off"  # YAML 1.1 reads a bare `off` as false
        if isinstance(train.get("aux_weights"), Mapping):
            train["aux_weights"] = {**AUX_WEIGHTS, **train["aux_weights"]}
        if val.get("tile") in ("auto", False):
            val["tile"] = None if val["tile"] == "auto" else 0
        if isinstance(val.get("best"), str):
            val["best"] = {"metric": val["best"]}
        return parse_section(cls, given, "")


def option_names(settings: type) -> frozenset[str]:
    """The keys a settings class reads, for the option checker."""
    return frozenset(f.name for f in fields(settings))

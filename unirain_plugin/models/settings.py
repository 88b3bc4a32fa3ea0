"""The keys that :class:`UniRainModel` adds to the toolbox's option file, parsed once into frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from unirain_plugin.errors import OptionError, did_you_mean

PRECISIONS = ("off", "bf16", "fp16")

AUTO_TILE = 1024
"""Side of the tiles where ``tile`` is left open, pixels (our choice)."""

AUX_WEIGHTS: Mapping[str, float] = MappingProxyType({"load_balance": 1e-2, "z_loss": 1e-3})
"""Weights of a network's auxiliary losses: 1e-2 for balancing as in Switch Transformer (Fedus et al., 2022, §2.2),
1e-3 for the router's z-loss as in ST-MoE (Zoph et al., 2022, §3.3)."""


def _count(section: str, key: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{section}: {key}: expected a whole number of at least {least}, found {value!r}.")
    return value


def _number(section: str, key: str, value: Any, least: float, strict: bool = False) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (value > least if strict else value >= least):
        raise OptionError(f"{section}: {key}: expected a number {'>' if strict else '>='} {least}, found {value!r}.")
    return float(value)


def _switch(section: str, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"{section}: {key}: expected true or false, found {value!r}.")
    return value


def _chosen(section: Mapping[str, Any], owner: type) -> dict[str, Any]:
    """The keys of ``section`` that ``owner`` has as fields and that are not left empty."""
    names = {f.name for f in fields(owner)}
    return {key: value for key, value in section.items() if key in names and value is not None}


@dataclass(frozen=True)
class Stage:
    """A part of a training with smaller crops than those of ``datasets: train:``, as in Restormer's option files.

    Attributes:
        iters: Iterations that it lasts.
        gt_size: Side of its crops in pixels, the middle of the data set's crops.
        batch_size: Samples of a batch on each device, the first of the data set's batch.
    """

    iters: int
    gt_size: int
    batch_size: int

    @classmethod
    def parse(cls, value: Any) -> tuple[Stage, ...]:
        """Parse ``train: progressive:``, a list of mappings.

        Raises:
            OptionError: If something is missing, unknown or out of range.
        """
        names = [f.name for f in fields(cls)]
        if not isinstance(value, list) or not all(isinstance(v, Mapping) and set(v) == set(names) for v in value):
            raise OptionError(f"train: progressive: expected a list of {{{', '.join(names)}}}, found {value!r}.")
        return tuple(cls(**{name: _count("train: progressive", name, v[name], 1) for name in names}) for v in value)


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

    amp: str = "off"
    accumulate: int = 1
    grad_clip: float | None = None
    compile: bool | str = False
    channels_last: bool = False
    aux_weights: Mapping[str, float] = field(default_factory=lambda: AUX_WEIGHTS)
    max_nonfinite: int = 10
    progressive: tuple[Stage, ...] = ()

    def stage(self, current_iter: int) -> Stage | None:
        """The stage that an iteration, counted from 1, belongs to; None after the last."""
        end = 0
        for stage in self.progressive:
            end += stage.iters
            if current_iter <= end:
                return stage
        return None

    @classmethod
    def from_options(cls, section: Mapping[str, Any]) -> TrainingSettings:
        """Parse ``train:``; keys of the toolbox are passed over.

        Raises:
            OptionError: If a value is out of range; the message names the key.
        """
        given = _chosen(section, cls)
        if "amp" in given:
            amp = "off" if given["amp"] is False else given["amp"]  # YAML 1.1 reads a bare `off` as false
            if amp not in PRECISIONS:
                hint = did_you_mean(amp, PRECISIONS)
                raise OptionError(f"train: amp: expected one of {', '.join(PRECISIONS)}, found {amp!r}.{hint}")
            given["amp"] = amp
        for key in ("accumulate", "max_nonfinite"):
            if key in given:
                given[key] = _count("train", key, given[key], 1)
        if "grad_clip" in given:
            given["grad_clip"] = _number("train", "grad_clip", given["grad_clip"], 0.0, strict=True)
        if "compile" in given:
            given["compile"] = cls._parse_compile(given["compile"])
        if "channels_last" in given:
            given["channels_last"] = _switch("train", "channels_last", given["channels_last"])
        if "aux_weights" in given:
            given["aux_weights"] = cls._parse_aux_weights(given["aux_weights"])
        if "progressive" in given:
            given["progressive"] = Stage.parse(given["progressive"])
        return cls(**given)

    @staticmethod
    def _parse_compile(value: Any) -> bool | str:
        if not isinstance(value, str):
            return _switch("train", "compile", value)
        from torch import _inductor  # takes seconds, so only where a mode is named

        modes = sorted({"default", *_inductor.list_mode_options()})
        if value not in modes:
            hint = did_you_mean(value, modes)
            raise OptionError(
                f"train: compile: expected true, false or one of {', '.join(modes)}, found {value!r}.{hint}"
            )
        return value

    @staticmethod
    def _parse_aux_weights(value: Any) -> Mapping[str, float]:
        if not isinstance(value, Mapping):
            raise OptionError(
                f"train: aux_weights: expected a mapping such as {{load_balance: 0.01}}, found {value!r}."
            )
        for key in value:  # other names are compared with those of the network, in the first iteration
            if key not in AUX_WEIGHTS and (hint := did_you_mean(key, AUX_WEIGHTS)):
                raise OptionError(f"train: aux_weights: {key}: unknown auxiliary loss.{hint}")
        weights = {key: _number("train: aux_weights", key, weight, 0.0) for key, weight in value.items()}
        return MappingProxyType({**AUX_WEIGHTS, **weights})


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

    @classmethod
    def from_options(cls, section: Any) -> BestSettings:
        """Parse ``val: best:`` (a mapping, or just the metric's name)."""
        if isinstance(section, str):
            return cls(section)
        if not isinstance(section, Mapping) or not isinstance(section.get("metric"), str):
            raise OptionError(f"val: best: expected {{metric: NAME}}, found {section!r}.")
        names = [f.name for f in fields(cls)]
        for key in section:
            if key not in names:
                raise OptionError(f"val: best: unknown key '{key}'.{did_you_mean(key, names)}")
        if section.get("higher") is not None:
            _switch("val: best", "higher", section["higher"])
        return cls(**section)


@dataclass(frozen=True)
class ValidationSettings:
    """Keys under ``val:``.

    Attributes:
        tile: Side of the square tiles in which large images are restored, in pixels of the input; 0 never tiles;
            None (the default) uses tiles of 1024 for images above 4 megapixels (our choice: a 4K frame then needs
            less than a quarter of the memory, while full-HD images are restored whole).
        tile_overlap: Width in pixels of the zone that neighbouring tiles share and blend.
        best: Which figure decides on the best checkpoint; None keeps none.
    """

    tile: int | None = None
    tile_overlap: int = 64
    best: BestSettings | None = None

    @classmethod
    def from_options(cls, section: Mapping[str, Any] | None) -> ValidationSettings:
        """Parse ``val:``; keys of the toolbox are passed over.

        Raises:
            OptionError: If a value is out of range; the message names the key.
        """
        given = _chosen(section or {}, cls)
        if given.get("tile") in ("auto", False):
            given["tile"] = None if given["tile"] == "auto" else 0
        for key in ("tile", "tile_overlap"):
            if given.get(key) is not None:
                given[key] = _count("val", key, given[key], 0)
        tile = AUTO_TILE if given.get("tile") is None else given["tile"]
        overlap = given.get("tile_overlap", cls.tile_overlap)
        if tile and overlap * 2 > tile:
            raise OptionError(
                f"val: tile_overlap: expected at most half of tile ({tile}), found {overlap}"
                f"{'' if 'tile_overlap' in given else ' (the default)'}."
            )
        if "best" in given:
            given["best"] = BestSettings.from_options(given["best"])
        return cls(**given)

    def tile_for(self, height: int, width: int) -> int:
        """The tile size for an image of this size, or 0 for "restore it whole"."""
        if self.tile is None:
            return AUTO_TILE if height * width > 4_194_304 else 0
        return self.tile if max(height, width) > self.tile else 0


def option_names(settings: type) -> frozenset[str]:
    """The keys a settings class reads, for the option checker."""
    return frozenset(f.name for f in fields(settings))

"""The keys that :class:`UniRainModel` adds to the toolbox's option file, and its optimisers and schedules by name."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch

from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.metrics.protocols import PROTOCOLS
from unirain_plugin.models.figures import BestFigure, BestSettings, resolve_metrics
from unirain_plugin.models.muon import Muon
from unirain_plugin.options.check_run import schedule_faults
from unirain_plugin.support.spec import Problem, above, at_least, one_of, parse_section

AUTO_TILE = 1024
"""Side of the tiles where ``tile`` is left open, pixels (our choice)."""

AUX_WEIGHTS: Mapping[str, float] = MappingProxyType({"load_balance": 1e-2, "z_loss": 1e-3})
"""Weights of a network's auxiliary losses: 1e-2 for balancing as in Switch Transformer (Fedus et al., 2022, §2.2),
1e-3 for the router's z-loss as in ST-MoE (Zoph et al., 2022, §3.3)."""


@dataclass(frozen=True)
class Stage:
    """A part of a training with smaller crops than those of ``datasets: train:``, as in Restormer's option files."""

    iters: Annotated[int, at_least(1)]  # iterations that it lasts
    gt_size: Annotated[int, at_least(1)]  # side of its crops in pixels, somewhere in the data set's crops
    batch_size: Annotated[int, at_least(1)]  # samples of a batch on each device, the first of the data set's batch


@dataclass(frozen=True)
class TrainingSettings:
    """Keys under ``train:``."""

    # ``off``, ``bf16`` or ``fp16`` (with a gradient scaler). Only the network runs in low precision; losses are
    # computed in float32.
    amp: Literal["off", "bf16", "fp16"] = "off"
    # each iteration's batch is cut into so many micro-batches whose gradients are summed, so memory falls while
    # iterations, learning rates and logs keep their meaning and the gradients their value (our choice; auxiliary
    # MoE losses are means over the micro-batches)
    accumulate: Annotated[int, at_least(1)] = 1
    # largest 2-norm of all gradients together; None switches clipping off
    grad_clip: Annotated[float, above(0)] | None = None
    compile: bool | str = False  # compile the network with ``torch.compile`` for training; a string names torch's mode
    channels_last: bool = False  # keep weights and images in channels-last memory order
    # weight of each auxiliary loss that the network returns, see :data:`AUX_WEIGHTS`
    aux_weights: Mapping[str, Annotated[float, at_least(0)]] = field(default_factory=lambda: AUX_WEIGHTS)
    # training stops after so many skipped (non-finite) iterations in a row
    max_nonfinite: Annotated[int, at_least(1)] = 10
    # stages that come first, one after the other; then whole batches of whole crops
    progressive: tuple[Stage, ...] = ()
    # what a resumed run takes from where, see :mod:`unirain_plugin.models.checkpointing`
    resume_options: Literal["checkpoint", "file"] | None = None

    def stage(self, current_iter: int) -> Stage | None:
        """The stage that an iteration, counted from 1, belongs to; None after the last."""
        end = 0
        for stage in self.progressive:
            end += stage.iters
            if current_iter <= end:
                return stage
        return None

    def check_compile(self) -> Iterator[Problem]:
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
class ValidationSettings:
    """Keys under ``val:``."""

    # side of the square tiles in which large images are restored, in pixels of the input; 0 never tiles; None
    # (the default) uses tiles of 1024 for images above 4 megapixels (our choice: a 4K frame then needs less than
    # a quarter of the memory, while full-HD images are restored whole)
    tile: Annotated[int, at_least(0)] | None = None
    # width in pixels of the zone that neighbouring tiles share and blend
    tile_overlap: Annotated[int, at_least(0)] = 64
    best: BestSettings | None = None  # which figure decides on the best checkpoint; None keeps none
    # how PSNR and SSIM are taken where ``metrics`` does not say so; None: as the toolbox does
    protocol: Annotated[str, one_of(*PROTOCOLS)] | None = None

    def check_overlap(self) -> Iterator[Problem]:
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
    """Keys under ``logger:``."""

    progress: Literal["auto"] | bool = "auto"  # whether to show a live bar; ``auto``: on a terminal
    # iterations between two routing images; None: each validation
    routing_freq: Annotated[int, at_least(1)] | None = None
    keep_checkpoints: Annotated[int, at_least(1)] | None = None  # the last so many are kept; None: all


_SECTIONS = {"train": TrainingSettings, "val": ValidationSettings, "logger": LoggerSettings}
KEYS = {section: frozenset(field.name for field in fields(kind)) for section, kind in _SECTIONS.items()}
"""Our keys by section, also for the option checker."""


OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    name: getattr(torch.optim, name)
    for name in ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "SGD", "ASGD", "RMSprop", "Rprop")
} | {"Muon": Muon}
"""What ``train: optim_g: type`` may name: the toolbox's (its master branch), torch's further Adam variants and Muon."""

SCHEDULERS = ("MultiStepLR", "MultiStepRestartLR", "CosineAnnealingRestartLR")
"""What ``train: scheduler: type`` may name: the toolbox's schedulers."""


def build_optimizer(kind: str, params: Any, lr: float, **kwargs: Any) -> torch.optim.Optimizer:
    """Build an optimiser by a name in :data:`OPTIMIZERS`; the OptionError names what torch or we refuse."""
    if kind not in OPTIMIZERS:
        text = f"unknown optimiser '{kind}'.{did_you_mean(kind, OPTIMIZERS)} One of {', '.join(OPTIMIZERS)}."
        raise OptionError(f"train: optim_g: type: {text}")
    known = set(inspect.signature(OPTIMIZERS[kind]).parameters) - {"params"}
    for key in kwargs:
        if key not in known:
            raise OptionError(f"train: optim_g: {kind} has no option '{key}'.{did_you_mean(key, known)}")
    try:
        return OPTIMIZERS[kind](params, lr=lr, **kwargs)
    except (ValueError, TypeError) as error:
        raise OptionError(f"train: optim_g: {kind} refuses its options: {error}.") from error


def check_scheduler(train: Mapping[str, Any]) -> None:
    """Refuse (OptionError) schedules of the section ``train:`` that would fail in the middle of training."""
    scheduler = train["scheduler"]
    kind = scheduler.get("type")
    if kind not in SCHEDULERS:
        hint = did_you_mean(kind, SCHEDULERS)
        raise OptionError(f"train: scheduler: type: unknown scheduler '{kind}'.{hint} One of {', '.join(SCHEDULERS)}.")
    for key, text in schedule_faults(scheduler, int(train["total_iter"])):
        raise OptionError(f"train: scheduler: {key}: {text}")


@dataclass(frozen=True)
class Settings:
    """Our keys in all sections of an option file."""

    train: TrainingSettings = field(default_factory=TrainingSettings)
    val: ValidationSettings = field(default_factory=ValidationSettings)
    logger: LoggerSettings = field(default_factory=LoggerSettings)
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # ``val: metrics:`` in the toolbox's form

    @classmethod
    def parse(cls, opt: Mapping[str, Any]) -> "Settings":
        """Parse ``train``, ``val`` and ``logger`` without the toolbox's keys; the OptionError names every wrong one."""
        sections = {name: opt.get(name) or {} for name in KEYS}
        given = {
            name: {key: value for key, value in here.items() if key in KEYS[name] and value is not None}
            for name, here in sections.items()
        }
        train, val = given["train"], given["val"]
        if train.get("amp") is False:
            train["amp"] = "off"  # YAML 1.1 reads a bare `off` as false
        if isinstance(train.get("aux_weights"), Mapping):
            train["aux_weights"] = {**AUX_WEIGHTS, **train["aux_weights"]}
        if val.get("tile") in ("auto", False):
            val["tile"] = None if val["tile"] == "auto" else 0
        if isinstance(val.get("best"), str):
            val["best"] = {"metric": val["best"]}
        settings = parse_section(cls, given, "")
        metrics = resolve_metrics(sections["val"].get("metrics"), settings.val.protocol)
        return replace(settings, metrics=metrics or {})

    @classmethod
    def of_run(cls, opt: Mapping[str, Any], is_train: bool) -> "Settings":
        """Parse an option file, and check what its sections say together, with an OptionError for what cannot be."""
        if not is_train:
            return cls.parse({**opt, "train": {}})
        settings = cls.parse(opt)
        settings.new_best_figure()
        if "scheduler" in opt["train"]:
            check_scheduler(opt["train"])
        settings._check_batches((opt.get("datasets") or {}).get("train") or {})
        if (opt["train"].get("pixel_opt") or {}).get("source") == "val" and not opt.get("val"):
            raise OptionError("train: pixel_opt: source: val needs a validation set and a section val:.")
        return settings

    def _check_batches(self, data: Mapping[str, Any]) -> None:
        for key, ours in (("gt_size", "gt_size"), ("batch_size_per_gpu", "batch_size")):
            largest = max((getattr(stage, ours) for stage in self.train.progressive), default=0)
            if isinstance(data.get(key), int) and largest > data[key]:
                limit = f"{data[key]} (datasets: train: {key})"
                raise OptionError(f"train: progressive: {ours}: found {largest}; expected at most {limit}.")
        batch, parts = data.get("batch_size_per_gpu"), self.train.accumulate
        if isinstance(batch, int) and parts > batch:
            text = f"{parts} micro-batches cannot be cut from a batch of {batch} (datasets: train: batch_size_per_gpu)."
            raise OptionError(f"train: accumulate: {text}")

    @property
    def better(self) -> dict[str, str]:
        return {name: options["better"] for name, options in self.metrics.items()}

    def new_best_figure(self) -> BestFigure | None:
        return BestFigure(self.val.best, self.better) if self.val.best else None

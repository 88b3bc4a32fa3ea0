"""What the toolbox's own keys may hold: kinds and ranges, which keys a run cannot start without, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from unirain_plugin.options.problems import KeyPath, found, nearest
from unirain_plugin.options.yaml_loader import number_meant


@dataclass(frozen=True)
class Rule:
    """One kind of value.

    Attributes:
        kind: ``integer``, ``number``, ``flag``, ``text``, ``section``, ``numbers`` (a list) or ``any``.
        low: Smallest value allowed.
        high: Largest value allowed.
        above: Whether ``low`` itself is excluded.
        below: Whether ``high`` itself is excluded.
        empty: Whether null is allowed.
        choices: The words allowed; for other kinds the words allowed besides (``num_gpu: auto``).
        example: A sample value for the message about a missing key.
        length: How many numbers a list must hold; None for any.
    """

    kind: str
    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False
    empty: bool = False
    choices: tuple[str, ...] = ()
    example: str = ""
    length: int | None = None

    def expected(self) -> str:
        """What is allowed, in words."""
        names = {"flag": "true or false", "integer": "an integer", "number": "a number", "text": "a text"}
        names |= {"section": "a section of 'key: value' lines", "numbers": "a list of numbers"}
        if self.kind == "text" and self.choices:
            words = "one of " + ", ".join(self.choices)
        else:
            words = names.get(self.kind, "a value") if self.length is None else f"a list of {self.length} numbers"
            if self.low is not None:
                words += f" {'>' if self.above else '≥'} {self.low:g}"
            if self.high is not None:
                words += f" {'and ' if self.low is not None else ''}{'<' if self.below else '≤'} {self.high:g}"
            words += "".join(f" or '{choice}'" for choice in self.choices)
        words += " or ~ (none)" if self.empty else ""
        return words + (f", e.g. {self.example}" if self.example else "")

    def complaint(self, value: object) -> str | None:
        """Why ``value`` breaks the rule, as the text of a message, or None if it does not."""
        if (value is None and self.empty) or self.kind == "any" or self._fits(value):
            return None
        hint = ""
        if isinstance(value, str) and self.kind in ("integer", "number"):
            meant = number_meant(value) or (value if value.lstrip("+-").replace(".", "", 1).isdigit() else None)
            hint = f" Write {meant}, without quotes." if meant else ""
        match = nearest(value, self.choices) if isinstance(value, str) else None
        hint = f" Did you mean '{match}'?" if match else hint
        return f"found {found(value)}; expected {self.expected()}.{hint}"

    def _fits(self, value: object) -> bool:
        if isinstance(value, str):
            return value in self.choices if self.choices else self.kind == "text" and bool(value.strip())
        if self.kind == "flag":
            return isinstance(value, bool)
        if self.kind == "section":
            return isinstance(value, Mapping)
        if self.kind == "numbers":
            fits = isinstance(value, list) and all(_is_number(item) and self._in_range(item) for item in value)
            return fits and self.length in (None, len(value))
        return self.kind in ("integer", "number") and _is_number(value) and self._in_range(value)

    def _in_range(self, value: float) -> bool:
        if not math.isfinite(value) or (self.kind == "integer" and value != int(value)):
            return False  # 5.0e+3 passes as an integer: the toolbox's own files write frequencies so
        if self.low is not None and (value < self.low or (self.above and value == self.low)):
            return False
        return self.high is None or value < self.high or (value == self.high and not self.below)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _integer(low: int, **more: object) -> Rule:
    return Rule("integer", low=low, **more)


_FLAG = Rule("flag")
_OPTIONAL_FLAG = Rule("flag", empty=True)
_TEXT = Rule("text")
_SECTION = Rule("section")
_PATH = Rule("text", empty=True)
_POSITIVE = Rule("number", low=0, above=True)
_NOT_NEGATIVE = Rule("number", low=0)

RULES: dict[str, Rule] = {
    "name": Rule("text", example="train_UniRain"),
    "model_type": Rule("text", example="UniRainModel"),
    "scale": _integer(1, example="1"),
    "num_gpu": _integer(0, choices=("auto",)),
    "manual_seed": _integer(0, high=2**32 - 1, empty=True),
    "find_unused_parameters": _OPTIONAL_FLAG,
    "dist_params": Rule("section", empty=True),
    "datasets": _SECTION,
    "datasets.*": _SECTION,
    "datasets.*.name": _TEXT,
    "datasets.*.type": _TEXT,
    "datasets.*.io_backend": _SECTION,
    "datasets.*.io_backend.type": Rule("text", choices=("disk", "lmdb", "memcached")),
    "datasets.*.gt_size": _integer(1, example="128"),
    "datasets.*.use_hflip": _FLAG,
    "datasets.*.use_rot": _FLAG,
    "datasets.*.filename_tmpl": _TEXT,
    "datasets.*.mean": Rule("numbers", empty=True),
    "datasets.*.std": Rule("numbers", empty=True),
    "datasets.*.batch_size_per_gpu": _integer(1, example="8"),
    "datasets.*.num_worker_per_gpu": _integer(0, example="4"),
    "datasets.*.dataset_enlarge_ratio": _POSITIVE,
    "datasets.*.prefetch_mode": Rule("text", choices=("cpu", "cuda"), empty=True),
    "datasets.*.num_prefetch_queue": _integer(1),
    "datasets.*.pin_memory": _OPTIONAL_FLAG,
    "datasets.*.persistent_workers": _OPTIONAL_FLAG,
    "network_*": _SECTION,
    "network_*.type": _TEXT,
    "path": _SECTION,
    "path.pretrain_network_*": _PATH,
    "path.resume_state": _PATH,
    "path.strict_load_*": _OPTIONAL_FLAG,
    "path.param_key_*": _PATH,
    "train": _SECTION,
    "train.total_iter": _integer(1, example="300000"),
    "train.warmup_iter": _integer(-1),
    "train.ema_decay": Rule("number", low=0, high=1, below=True, example="0.999"),
    "train.optim_*": Rule("section", example="{type: Adam, lr: 2.0e-4}"),
    "train.optim_*.type": Rule("text", example="Adam"),
    "train.optim_*.lr": Rule("number", low=0, above=True, example="2.0e-4"),
    "train.optim_*.weight_decay": _NOT_NEGATIVE,
    "train.optim_*.eps": _POSITIVE,
    "train.optim_*.betas": Rule("numbers", low=0, high=1, below=True, length=2, example="[0.9, 0.999]"),
    "train.scheduler": Rule("section", example="{type: MultiStepLR, milestones: [200000], gamma: 0.5}"),
    "train.scheduler.type": Rule("text", example="MultiStepLR"),
    "train.scheduler.periods": Rule("numbers", low=0, above=True),
    "train.scheduler.restart_weights": Rule("numbers"),
    "train.scheduler.restarts": Rule("numbers"),
    "train.scheduler.milestones": Rule("numbers"),
    "train.scheduler.gamma": _POSITIVE,
    "train.scheduler.eta_min": _NOT_NEGATIVE,
    "train.*_opt": Rule("section", empty=True),
    "train.*_opt.type": _TEXT,
    "train.*_opt.loss_weight": Rule("number"),
    "train.*_opt.reduction": Rule("text", choices=("none", "mean", "sum")),
    "val": Rule("section", empty=True),
    "val.val_freq": _integer(1, example="5000"),
    "val.save_img": Rule("flag", example="false"),
    "val.pbar": _OPTIONAL_FLAG,
    "val.suffix": Rule("any"),
    "val.metrics": Rule("section", empty=True),
    "val.metrics.*": Rule("section", example="{type: calculate_psnr, crop_border: 0}"),
    "val.metrics.*.type": Rule("text", example="calculate_psnr"),
    "val.metrics.*.better": Rule("text", choices=("higher", "lower")),
    "val.metrics.*.crop_border": _integer(0, example="0"),
    "val.metrics.*.test_y_channel": _OPTIONAL_FLAG,
    "logger": _SECTION,
    "logger.print_freq": _integer(1, example="100"),
    "logger.save_checkpoint_freq": _integer(1, example="5000"),
    "logger.use_tb_logger": Rule("flag", example="true"),
    "logger.keep_checkpoints": _integer(1, empty=True),
    "logger.wandb": Rule("section", empty=True),
}
"""Dotted pattern → rule; the first pattern that fits a key path counts."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


REQUIRED: dict[str, tuple[str, ...]] = {
    "always": ("name", "model_type", "num_gpu", "datasets", "path"),
    "train": (
        "train",
        "train.total_iter",
        "train.optim_g.lr",
        "logger",
        "logger.print_freq",
        "logger.save_checkpoint_freq",
        "logger.use_tb_logger",
        "datasets.train",
        "datasets.train.batch_size_per_gpu",
        "datasets.train.num_worker_per_gpu",
    ),
    "train with val": ("val.val_freq", "val.save_img"),
    "test": ("val", "val.save_img"),
}
"""Keys that the toolbox's runners read in every run, besides those found in the source of data set and model."""

STOCK_KEYS: dict[str, frozenset[str]] = {
    "": _names(
        "name model_type scale num_gpu manual_seed dist_params find_unused_parameters datasets path train val logger"
        " auto_resume is_train dist rank world_size root_path"
    ),
    "path": _names("resume_state ignore_resume_networks strict_load param_key"),
    "train": _names("total_iter warmup_iter ema_decay scheduler optim_g pixel_opt perceptual_opt"),
    "val": _names("val_freq save_img suffix pbar metrics"),
    "logger": _names("print_freq save_checkpoint_freq use_tb_logger wandb keep_checkpoints"),
    "logger.wandb": _names("project resume_id"),
    "dist_params": _names("backend port"),
    "datasets.*": _names(
        "name type phase scale io_backend batch_size_per_gpu num_worker_per_gpu dataset_enlarge_ratio prefetch_mode"
        " num_prefetch_queue pin_memory persistent_workers use_shuffle"
    ),
}
"""The keys that the runners (not a model or data set) read, and those of the toolbox's sample files, by section."""

SET_BY_TOOLBOX = _names(
    "auto_resume is_train dist rank world_size root_path path.experiments_root path.models path.training_states"
    " path.log path.visualization path.results_root"
)
"""Keys that the toolbox overwrites, so that giving them is of no use."""


def rule_for(path: KeyPath) -> Rule | None:
    """The rule for a key path, or None if any value will do."""
    for pattern, rule in RULES.items():
        parts = pattern.split(".")
        if len(parts) == len(path) and all(fnmatchcase(str(key), part) for key, part in zip(path, parts, strict=True)):
            return rule
    return None

"""The option file of a comparison as frozen dataclasses; unknown or misspelt keys are errors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unirain_plugin.compare.set_options import SetOptions, check_name
from unirain_plugin.compare.summary import GT, INPUT
from unirain_plugin.data.image_limit import check_megapixels
from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.options.yaml_loader import read_option_file
from unirain_plugin.support.spec import parse_section

DEFAULT_WEIGHTS = "default"
"""``weights: default`` names the network that the package ships."""

_PLACEHOLDERS = {"test_set", "rain_type", "image", "stem"}


@dataclass(frozen=True)
class ModelOptions:
    """One model: a network, or a folder of finished pictures.

    Attributes:
        name: Its name in tables, figures and folders.
        weights: A file of weights, or ``default`` for those the package ships. Files that we wrote name their network.
        network: The network of the weights: an option file with ``network_g``, or that section itself (``type``: any
            network of BasicSR's registry, and its arguments).
        untrained: Take ``network`` with random weights: it gets its cost columns and no scores.
        param_key: Part of a .pth file; null for ``params_ema`` where it exists, else ``params``.
        strict_load: Whether every weight must fit; false takes those that do and says how many.
        pad_multiple: The picture's sides are padded (mirrored) to a multiple of this for the network and the result is
            cut back; null for the network's ``window_size`` where it has that argument (SwinIR), else 1.
        tile: For this model, instead of the file's ``tile``; likewise ``overlap``, ``precision`` and ``sizes``.
        overlap: See ``tile``.
        precision: See ``tile``.
        sizes: See ``tile``.
        results: Folder of finished pictures, searched with its subfolders and matched by stem.
        suffix: Text that the finished pictures' stems have behind the input's stem, such as ``_SwinIR``.
        pattern: Where each finished picture is below ``results`` instead: ``{test_set}``, ``{rain_type}``, ``{image}``
            (path without suffix) and ``{stem}`` are filled in, for example ``{rain_type}/{stem}_x1.png``.
    """

    name: str
    weights: str | None = None
    network: dict[str, Any] | str | None = None
    untrained: bool = False
    param_key: str | None = None
    strict_load: bool = True
    pad_multiple: int | None = None
    tile: int | None = None
    overlap: int | None = None
    precision: str | None = None
    sizes: list[int] | None = None
    results: Path | None = None
    suffix: str = ""
    pattern: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.name in (INPUT, GT):
            raise ValueError(f"name: '{self.name}' stands for the {_RESERVED[self.name]}; choose another.")
        if self.results is not None:
            if self.weights is not None or self.network is not None or self.untrained:
                raise ValueError("a folder of finished `results` takes neither `weights`, `network` nor `untrained`.")
        elif self.network is None and self.weights is None:
            raise ValueError("expected `weights`, `network` (with weights, or untrained: true) or `results`.")
        elif self.untrained == (self.weights is not None):
            raise ValueError(
                "`untrained: true` is for a network without weights; leave one of the two out."
                if self.untrained
                else "`network` without `weights` would be scored with random weights; name its weights, or say "
                "`untrained: true` to get its cost only."
            )
        if isinstance(self.network, Mapping) and "type" not in self.network:
            raise ValueError("network: expected a `type`, the name of a registered network such as UniRain or SwinIR.")
        if self.pad_multiple is not None and self.pad_multiple < 1:
            raise ValueError(f"pad_multiple: expected at least 1, got {self.pad_multiple}.")
        try:
            (self.pattern or "").format(**dict.fromkeys(_PLACEHOLDERS, "x"))
        except ValueError as error:
            raise ValueError(f"pattern: {self.pattern!r} cannot be filled in: {error}.") from None
        except LookupError:
            pass  # told below
        unknown = set(re.findall(r"{(\w*)}", self.pattern or "")) - _PLACEHOLDERS
        if unknown:
            raise ValueError(
                f"pattern: unknown {{{unknown.pop()}}}; known: {', '.join(f'{{{p}}}' for p in sorted(_PLACEHOLDERS))}."
            )


@dataclass(frozen=True)
class CostOptions:
    """What a network costs.

    Attributes:
        enabled: Whether parameters, multiply-adds, latency and memory are found out.
        size: Side of the square picture of the latency and memory measurement.
        rounds: Counted turns, of which the median is taken; the networks take turns.
        multiply_adds_size: Side of the square picture whose multiply-adds are counted (256: as the paper).
        threads: CPU threads of each network; null leaves torch's choice.
    """

    enabled: bool = True
    size: int = 128
    rounds: int = 3
    multiply_adds_size: int = 256
    threads: int | None = None

    def __post_init__(self) -> None:
        if (
            min(self.size, self.multiply_adds_size) < 16
            or self.rounds < 1
            or (self.threads is not None and self.threads < 1)
        ):
            raise ValueError("expected size and multiply_adds_size ≥ 16, rounds ≥ 1 and threads ≥ 1.")


@dataclass(frozen=True)
class BootstrapOptions:
    """Confidence intervals of the difference to the reference model, pictures resampled within each rain type.

    Attributes:
        samples: Resamplings; 0 leaves the intervals out.
        confidence: Their level.
        seed: Of the resampling.
    """

    samples: int = 10_000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 0 or not 0.5 <= self.confidence < 1:
            raise ValueError(
                f"expected samples ≥ 0 and 0.5 ≤ confidence < 1, got {self.samples} and {self.confidence}."
            )


@dataclass(frozen=True)
class FigureOptions:
    """The grid of pictures with zoomed crops.

    Attributes:
        enabled: Whether it and the HTML page are made.
        images: ``test set/image`` of each row; empty for the picture of each rain type at which the last scored model
            gains most over the input.
        crop: Side of the zoomed window in pixels.
        error_scale: Absolute error (of a range of 1) that gets the brightest colour of an error map.
    """

    enabled: bool = True
    images: list[str] = field(default_factory=list)
    crop: int = 64
    error_scale: float = 0.2

    def __post_init__(self) -> None:
        if self.crop < 8 or not 0 < self.error_scale <= 1:
            raise ValueError(f"expected crop ≥ 8 and 0 < error_scale ≤ 1, got {self.crop} and {self.error_scale}.")


@dataclass(frozen=True)
class CompareOptions:
    """A whole option file.

    Attributes:
        name: Name of the comparison; the default output folder is ``results/compare/<name>``.
        models: What is compared, in the order of the tables.
        test_sets: On what, in the order of the tables.
        metrics: ``psnr``, ``ssim``, ``psnr_y``, ``ssim_y``, ``niqe``, or any metric of pyiqa where it is installed.
        include_input: Whether the rainy input is the tables' first row.
        reference: The model that differences are taken to; null for the first row.
        tile: Edge of what a network computes at a time, 0 for the whole picture.
        overlap: Pixels that tiles share (networks other than UniRain).
        precision: ``fp32``, ``bf16`` or ``fp16``.
        sizes: Longer edges at which larger pictures are restored as well, ``[]`` for the network's own result; null for
            what the weights' file names.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        cost: What a network costs.
        bootstrap: Confidence intervals.
        figure: The grid of pictures.
        output: Folder for everything that is written.
        max_megapixels: Pictures that declare more are refused before they are decoded; null for what memory takes.
    """

    name: str
    models: list[ModelOptions]
    test_sets: list[SetOptions]
    metrics: list[str] = field(default_factory=lambda: ["psnr", "ssim"])
    include_input: bool = True
    reference: str | None = None
    tile: int = 512
    overlap: int = 32
    precision: str = "fp32"
    sizes: list[int] | None = None
    device: str = "auto"
    cost: CostOptions = field(default_factory=CostOptions)
    bootstrap: BootstrapOptions = field(default_factory=BootstrapOptions)
    figure: FigureOptions = field(default_factory=FigureOptions)
    output: Path | None = None
    max_megapixels: float | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.max_megapixels is not None:
            check_megapixels("max_megapixels", self.max_megapixels)
        for key in ("models", "test_sets", "metrics"):
            if not getattr(self, key):
                raise ValueError(f"{key}: the list is empty; expected at least one entry.")
        _check_unique("models", [model.name for model in self.models])
        _check_unique("test_sets", [test_set.name for test_set in self.test_sets])
        _check_unique("metrics", self.metrics)
        if self.reference is not None and self.reference not in self.rows:
            hint = did_you_mean(self.reference, self.rows)
            raise ValueError(f"reference: there is no model '{self.reference}'; found {', '.join(self.rows)}.{hint}")

    @property
    def rows(self) -> list[str]:
        """The names of all rows of the tables."""
        return [INPUT] * self.include_input + [model.name for model in self.models]

    @property
    def output_folder(self) -> Path:
        """Where everything goes."""
        return self.output or Path("results", "compare", self.name)


_RESERVED = {INPUT: "rainy input", GT: "clean picture"}


def load_options(path: str | Path) -> CompareOptions:
    """Read and check an option file.

    Raises:
        OptionError: Naming every key that is unknown, missing or of the wrong type, with the nearest valid spelling.
    """
    return parse_options(read_option_file(path).opt, str(path))


def parse_options(mapping: Mapping[str, Any], where: str) -> CompareOptions:
    """Check a whole option mapping, the networks' settings of restoring included.

    Raises:
        OptionError: As :func:`load_options`.
    """
    options = parse_section(CompareOptions, mapping, where)
    from unirain_plugin.metrics.scoring import check_names  # the tables of known metrics

    check_names(options.metrics, where)
    return options


def _check_unique(key: str, names: Sequence[str]) -> None:
    folded = [name.casefold() for name in names]
    for name in names:
        if folded.count(name.casefold()) > 1:
            raise OptionError(f"{key}: '{name}' is there twice (upper and lower case count as one); rename one.")

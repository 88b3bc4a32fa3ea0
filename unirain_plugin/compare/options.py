"""The option file of a comparison as frozen dataclasses; unknown or misspelt keys are errors."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from unirain_plugin.errors import did_you_mean
from unirain_plugin.metrics.protocols import DEFAULT, MEASURES, PROTOCOLS
from unirain_plugin.options.yaml_loader import read_option_file
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.support.packages import import_own
from unirain_plugin.support.spec import (
    FolderName,
    Lines,
    Problem,
    Rule,
    above,
    at_least,
    at_most,
    below,
    filled,
    one_of,
    parse_section,
)
from unirain_plugin.toolbox import prepare_import

INPUT, GT = "input", "gt"
"""Names of the untouched rainy image and of the clean one; no model may have them, except the baseline ``input``."""
DEFAULT_WEIGHTS = "default"  # ``weights: default`` names the network that the package ships

_PLACEHOLDERS = {"test_set", "rain_type", "image", "stem"}
_RESERVED = {INPUT: "rainy input", GT: "clean image"}

_Count = Annotated[int, at_least(1)]
_Side = Annotated[int, at_least(16)]
_Protocol = Annotated[str, one_of(*PROTOCOLS)]
_Name = Annotated[  # its folders are also seen as a page, on any system
    FolderName,
    Rule('without \\ < > : " | ? * or a leading dot', lambda name: not re.search(r'[\\<>:"|?*\n]|^\.', name)),
]


@dataclass(frozen=True)
class ModelOptions:
    """One model: a network, or a folder of finished images. ``docs/comparing.md`` tells more of every key."""

    name: _Name  # in tables, figures and folders
    weights: str | None = None  # a file, or ``default`` for those the package ships
    # of the weights: an option file with ``network_g``, or that section itself; files that we wrote name theirs
    network: dict[str, Any] | str | None = None
    untrained: bool = False  # take ``network`` with random weights: its cost columns and no scores
    param_key: str | None = None  # part of a .pth file; null for ``params_ema`` where it exists, else ``params``
    strict_load: bool = True  # whether every weight must fit; false takes those that do and says how many
    # the sides are padded (mirrored) to a multiple of this; null for the network's ``window_size``, where it has one
    pad_multiple: _Count | None = None
    tile: int | None = None  # this and the next four: in place of the whole file's
    overlap: int | None = None
    precision: str | None = None
    sizes: list[int] | None = None
    context: int | None = None
    results: Path | None = None  # folder of finished images, searched with its subfolders and matched by stem
    suffix: str = ""  # what their stems have behind the input's stem, such as ``_SwinIR``
    # where each is below ``results`` instead, by ``_PLACEHOLDERS``: ``{rain_type}/{stem}_x1.png``, say
    pattern: str | None = None

    def check_name(self) -> Iterator[Problem]:
        """Two names stand for columns of every comparison."""
        if self.name in _RESERVED:
            yield "name", f"'{self.name}' stands for the {_RESERVED[self.name]}; choose another."

    def check_origin(self) -> Iterator[Problem]:
        if self.results is not None:
            if self.weights is not None or self.network is not None or self.untrained:
                yield (), "a folder of finished `results` takes neither `weights`, `network` nor `untrained`."
        elif self.network is None and self.weights is None:
            yield (), "expected `weights`, `network` (with weights, or untrained: true) or `results`."
        elif self.untrained and self.weights is not None:
            yield (), "`untrained: true` is for a network without weights; leave one of the two out."
        elif not self.untrained and self.weights is None:
            text = "`network` without `weights` would be scored with random weights; name its weights, or say "
            yield (), f"{text}`untrained: true` to get its cost only."

    def check_use(self) -> Iterator[Problem]:
        """Every key that is given has an effect."""
        of_network = "param_key", "strict_load", "pad_multiple", "tile", "overlap", "precision", "sizes", "context"
        for key in of_network if self.results is not None else ("suffix", "pattern"):
            if getattr(self, key) != getattr(ModelOptions, key):
                yield key, f"`{key}` goes with {'`results`' if self.results is None else 'a network, not `results`'}."

    def check_network(self) -> Iterator[Problem]:
        if isinstance(self.network, Mapping) and "type" not in self.network:
            yield "network", "expected a `type`, the name of a registered network such as UniRain or SwinIR."

    def check_pattern(self) -> Iterator[Problem]:
        pattern = self.pattern or ""
        unknown = sorted(set(re.findall(r"{(\w*)}", pattern)) - _PLACEHOLDERS)
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in sorted(_PLACEHOLDERS))
            yield "pattern", f"unknown {{{unknown[0]}}}; known: {known}."
            return
        try:
            pattern.format(**dict.fromkeys(_PLACEHOLDERS, "x"))
        except (ValueError, LookupError, AttributeError) as error:
            yield "pattern", f"{pattern!r} cannot be filled in: {error}."


@dataclass(frozen=True)
class CostOptions:
    """What a network costs: parameters, multiply-adds, latency and memory."""

    enabled: bool = True
    size: _Side = 128  # side of the square image of the latency and memory measurement
    rounds: _Count = 3  # counted turns, of which the median is taken; the networks take turns
    multiply_adds_size: _Side = 256  # side of the square image whose multiply-adds are counted (256: as the paper)
    threads: _Count | None = None  # CPU threads of each network; null leaves torch's choice


@dataclass(frozen=True)
class BootstrapOptions:
    """Confidence intervals of the difference to the reference model, images resampled within each rain type."""

    samples: Annotated[int, at_least(0)] = 10_000  # 0 leaves the intervals out
    confidence: Annotated[float, at_least(0.5), below(1)] = 0.95
    seed: int = 0


@dataclass(frozen=True)
class FigureOptions:
    """The grid of images with zoomed crops, and the HTML page."""

    enabled: bool = True
    images: list[str] = field(default_factory=list)  # see :func:`~unirain_plugin.compare.figure.choose_images`
    crop: Annotated[int, at_least(8)] = 64  # side of the zoomed window in pixels
    # absolute error, of a range of 1, that gets the brightest colour of an error map
    error_scale: Annotated[float, above(0), at_most(1)] = 0.2


@dataclass(frozen=True)
class SynthesizeOptions:
    """A test set rendered with ``synthesize-rain`` into the output folder; the same settings give the same images."""

    input: Path | None = None  # folder of clean photographs; null for those that scikit-image installs
    split: Literal["held-out", "train", "all"] = "held-out"  # of those
    rain_types: list[str] = field(default_factory=lambda: list(RAIN_TYPES))
    per_image: _Count = 1  # pairs for each photograph and type
    size: int | list[int] | None = 256  # side, or [height, width]; null for whole photographs
    seed: int = 0


@dataclass(frozen=True)
class SetOptions:
    """One test set: exactly one of ``lq``, ``dataroot``, ``manifest`` and ``synthesize``."""

    name: _Name
    lq: Path | None = None  # folder of rainy images, or an LMDB of them
    gt: Path | None = None  # folder (LMDB) of the clean images with the same names; null where there are none
    rain_type: str | None = None  # of the images in ``lq``, if they have one
    # folder ``{type}/{input,target}`` (RainRAG's layout), or of LMDBs ``{type}/{lq,gt}.lmdb``; with ``manifest``: the
    # folder that its paths are relative to
    dataroot: Path | None = None
    rain_types: list[str] | None = None  # of ``dataroot`` or ``manifest``; null for all
    manifest: Path | Annotated[list[Path], filled] | None = None
    rejected: bool = False  # take also the pairs that distillation has rejected
    synthesize: SynthesizeOptions | None = None
    limit: _Count | None = None  # at most so many images of each rain type, the first ones

    def check_source(self) -> Iterator[Problem]:
        root = self.dataroot if self.manifest is None else None
        if sum(source is not None for source in (self.lq, root, self.manifest, self.synthesize)) != 1:
            yield (), "give exactly one of `lq`, `dataroot`, `manifest` and `synthesize`."
            return
        for key, owner in (("gt", "lq"), ("rain_type", "lq"), ("rejected", "manifest")):
            if getattr(self, key) and getattr(self, owner) is None:
                yield key, f"`{key}` goes with `{owner}`."
        if self.rain_types is not None and root is None and self.manifest is None:
            yield "rain_types", "`rain_types` goes with `dataroot` or `manifest`."


@dataclass(frozen=True)
class CompareOptions:
    """A whole option file; models and test sets are in the order of the tables."""

    name: _Name
    models: Annotated[list[ModelOptions], filled]
    test_sets: Annotated[list[SetOptions], filled]
    metrics: Annotated[list[str], filled] = field(default_factory=lambda: ["psnr", "ssim"])
    # how ``psnr`` and ``ssim`` are taken; under the others of a list they are taken as well
    protocol: _Protocol | Annotated[list[_Protocol], filled] = DEFAULT
    imports: list[str] = field(default_factory=list)  # modules of your own that register networks
    include_input: bool = True  # whether the rainy input is the tables' first row
    reference: str | None = None  # the model that differences are taken to; null for the first row
    tile: int = 512  # this and the next four: see :class:`~unirain_plugin.inference.restoring.RestoreOptions`
    overlap: int = 32
    precision: str = "fp32"
    sizes: list[int] | None = None
    context: int | None = None
    device: str = "auto"
    cost: CostOptions = field(default_factory=CostOptions)
    bootstrap: BootstrapOptions = field(default_factory=BootstrapOptions)
    figure: FigureOptions = field(default_factory=FigureOptions)
    output: Path | None = None
    max_megapixels: Annotated[float, above(0)] | None = None  # null for what memory takes

    def check_names(self) -> Iterator[Problem]:
        yield from _repeated("models", [model.name for model in self.models])
        yield from _repeated("test_sets", [test_set.name for test_set in self.test_sets])
        yield from _repeated("metrics", self.metrics)

    def check_protocol(self) -> Iterator[Problem]:
        """A protocol has something to say."""
        if self.protocols != [DEFAULT] and not set(MEASURES) & set(self.metrics):
            yield "protocol", f"nothing follows it: `metrics` holds neither {' nor '.join(MEASURES)}."

    def check_reference(self) -> Iterator[Problem]:
        if self.reference is not None and self.reference not in self.rows:
            text = f"there is no model '{self.reference}'; found {', '.join(self.rows)}."
            yield "reference", text + did_you_mean(self.reference, self.rows)

    @property
    def protocols(self) -> list[str]:
        """The protocols, that of ``psnr`` and ``ssim`` first."""
        return [self.protocol] if isinstance(self.protocol, str) else list(dict.fromkeys(self.protocol))

    @property
    def metric_names(self) -> list[str]:
        """The metrics, those under further protocols as ``psnr@NAME``."""
        further = [f"{name}@{p}" for p in self.protocols[1:] for name in MEASURES if name in self.metrics]
        return list(dict.fromkeys([*self.metrics, *further]))

    @property
    def rows(self) -> list[str]:
        return [INPUT] * self.include_input + [model.name for model in self.models]

    @property
    def output_folder(self) -> Path:
        return (self.output or Path("results", "compare", self.name)).expanduser()


def load_options(path: str | Path) -> CompareOptions:
    """Read and check an option file; OptionError also for a file that is missing or no YAML."""
    document = read_option_file(path)
    import_own((), Path(path).parent)  # modules named under `imports` may lie beside the file
    return parse_options(document.opt, document.file, document.lines)


def parse_options(mapping: Mapping[str, Any], where: str, lines: Lines | None = None) -> CompareOptions:
    """Check a whole option mapping from ``where``, the metrics' names included; OptionError names every wrong key."""
    options = parse_section(CompareOptions, mapping, where, lines=lines)
    prepare_import()
    import_own(options.imports)
    from unirain_plugin.metrics.scoring import check_names  # the tables of known metrics
    from unirain_plugin.rain.scene import check_renderers

    check_names(options.metrics, where)
    for number, test_set in enumerate(options.test_sets):
        if test_set.synthesize is not None:
            check_renderers(test_set.synthesize.rain_types, f"{where}: test_sets[{number}].synthesize.rain_types")
    return options


def _repeated(key: str, names: Sequence[str]) -> Iterator[Problem]:
    folded = [name.casefold() for name in names]
    twice = next((name for name in names if folded.count(name.casefold()) > 1), None)
    if twice is not None:
        yield key, f"'{twice}' is there twice (upper and lower case count as one); rename one."

"""The option file of a reproduction as frozen dataclasses, and the runs that follow: each once, whatever it answers."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from unirain_plugin.archs.presets import ABLATIONS
from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.losses.reweighting import MODES
from unirain_plugin.options.yaml_loader import read_option_file
from unirain_plugin.rain.scene import check_renderers
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.study.planted import DUPLICATE, FURTHER_KINDS, KINDS, RAIN_KINDS
from unirain_plugin.study.real import set_names
from unirain_plugin.support import spec
from unirain_plugin.support.packages import import_own
from unirain_plugin.support.resources import option_file
from unirain_plugin.support.spec import (
    FolderName,
    KeyPath,
    Lines,
    Problem,
    above,
    at_least,
    below,
    filled,
    parse_section,
    plain,
)

OWN_NETWORK = "UniRain"
SUBSETS = ("distilled", "everything", "random", "oracle", "defaults")
"""What is trained on: what distillation kept; all pairs, planted bad ones included; as many pairs as distillation kept,
drawn from all; the pairs that were not spoilt, which only the planter knows; as many pairs as distillation kept, drawn
by the renderer's defaults."""
BASELINE = {"experts": "soft-hard", "loss": "paper", "data": "distilled", "networks": OWN_NETWORK}
"""Question → the paper's answer, which stands wherever the file does not ask."""
FREE_KEYS = ("name", "workers", "seeds", "questions", "photographs", "references", "test_sets", "imports")
"""Keys that may change when a reproduction is gone on with: they change no run, only which runs there are. (Of the
images the pixels must stay, not the folders.)"""


@dataclass(frozen=True)
class Photographs:
    """Folders of clean photographs; none may be in both."""

    train: Path  # for the training pairs
    val: Path | None = None  # for the held-out pairs; needed unless ``test_sets`` are measured on


@dataclass(frozen=True)
class DataOptions:
    """What is rendered, spoilt and distilled."""

    train_size: Annotated[int, at_least(32, "pixels")]  # side of a training image in pixels
    train_pairs: Annotated[int, at_least(1)]  # pairs for each training photograph and rain type, before any is spoilt
    # side of a held-out image in pixels; test sets are cropped to their middle
    val_size: Annotated[int, at_least(32, "pixels")]
    # pairs for each held-out photograph and rain type; images of each test set, evenly chosen
    val_pairs: Annotated[int, at_least(1)] = 1
    # what is rendered, trained on and (without test sets) measured
    rain_types: Annotated[tuple[str, ...], filled] = RAIN_TYPES
    seed: Annotated[int, at_least(0)] = 0  # of the rain, of what is spoilt, of the random subset; 0 or more
    # rainy images for each training photograph and rain type that stand in for real rain in the distillation, rendered
    # with another seed; of real references, windows cut out of each
    reference_pairs: Annotated[int, at_least(1)] = 1
    # None: rain as ``synthesize-rain`` has it by default. A number: as with ``--vary-rain --rain-scale NUMBER``.
    rain_scale: Annotated[float, at_least(1)] | None = None
    # keys of a distillation's option file that are not its defaults (``voters``, ``retrieval``, …)
    distill: dict[str, Any] | None = None
    # share of the training pairs of each type that is spoilt, above 0 and below 1
    bad_share: Annotated[float, above(0), below(1)] = 0.4
    # how, in turn: kinds of :mod:`unirain_plugin.study.planted`
    bad_kinds: tuple[str, ...] = (
        "misaligned_4px", "wrong_scene", "still_rainy", "blurred", "flat_rain", "exposure_shift", "swapped",
    )  # fmt: skip

    def check_kinds(self) -> Iterator[Problem]:
        known = [kind for kind in (*KINDS, *FURTHER_KINDS, *RAIN_KINDS) if kind != DUPLICATE]
        yield from _unknown("bad_kinds", self.bad_kinds, known)


@dataclass(frozen=True)
class TrainingOptions:
    """How every run is trained."""

    base: str  # an option file of the package (``train/….yml``) or a path
    # sections laid over it. What the grid varies (data folders, seed, network, loss mode) is set by it.
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReproduceOptions:
    """A whole option file."""

    name: FolderName  # the default output folder is ``results/reproduce/<name>``
    data: DataOptions  # what is rendered, spoilt and distilled
    training: TrainingOptions  # how every run is trained
    # question (``experts``, ``loss``, ``data``, ``networks``) → variants. The first of a question is the baseline of
    # all; the questions are worked through in their order.
    questions: dict[str, list[str]]
    # name → the ``network_g`` section of a network of the toolbox, sized to cost what UniRain costs
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    photographs: Photographs | None = None  # two folders; None takes those that scikit-image installs
    # folder of real rainy images that distillation compares with; None renders stand-ins
    references: Path | None = None
    # folder of public test sets, ``NAME/{input,target}``, to measure on; None renders held-out pairs
    test_sets: Path | None = None
    imports: list[str] = field(default_factory=list)  # modules of your own that register networks, losses, voters, …
    seeds: Annotated[tuple[Annotated[int, at_least(0)], ...], filled] = (1, 2, 3)  # one run a variant and seed
    workers: Annotated[int, at_least(1)] = 1  # runs at a time
    threads: Annotated[int, at_least(1)] = 1  # CPU threads of a run
    # largest relative difference between a network's multiply-adds and the baseline's
    tolerance: Annotated[float, above(0), below(1)] = 0.05

    def check_seeds(self) -> Iterator[Problem]:
        if len(set(self.seeds)) < len(self.seeds):
            yield "seeds", f"found {list(self.seeds)}; expected different numbers."

    def check_photographs(self) -> Iterator[Problem]:
        if self.photographs is not None and self.photographs.val is None and self.test_sets is None:
            yield ("photographs", "val"), "is missing: expected a folder of held-out photographs, or `test_sets`."

    def check_networks(self) -> Iterator[Problem]:
        """Networks of the toolbox, beside ours."""
        if OWN_NETWORK in self.networks:
            yield ("networks", OWN_NETWORK), "is the plugin's own; change it under training: changes."
        for name, section in self.networks.items():
            if not isinstance(section.get("type"), str):
                yield ("networks", name, "type"), "is missing; expected a network of the registry."

    def check_questions(self) -> Iterator[Problem]:
        """Questions and their variants are known, and each compares something."""
        yield from _unknown("questions", self.questions, BASELINE)
        known = {"experts": ABLATIONS, "loss": MODES, "data": SUBSETS, "networks": (OWN_NETWORK, *self.networks)}
        for question, variants in self.questions.items():
            yield from _unknown(("questions", question), variants, known.get(question, variants))
            if len(variants) < 2:
                yield ("questions", question), f"found {variants}; expected a baseline and a variant."

    @property
    def baseline(self) -> dict[str, str]:
        """Question → the variant that all others are compared with."""
        return {question: self.questions.get(question, [default])[0] for question, default in BASELINE.items()}

    def fixed(self, training: Mapping[str, Any]) -> dict[str, Any]:
        """What must not change when a reproduction is gone on with; ``training``: base file and changes in one."""
        values = {**asdict(self), "training": training}
        if self.data.rain_types == RAIN_TYPES:
            del values["data"]["rain_types"]  # runs begun before there were others do not name them
        return {key: plain(value) for key, value in values.items() if key not in FREE_KEYS}


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def differences(before: object, now: object) -> list[str]:
    """Key paths whose values differ, each with both values."""
    found = spec.differences(before, now)
    return [f"{':'.join(map(str, path))} ({spec.shortened(str(a))} → {spec.shortened(str(b))})" for path, a, b in found]


def load_options(path: str | Path, folders: Mapping[str, object] | None = None) -> ReproduceOptions:
    """Read and check an option file, with ``folders`` in place of the file's, and import the modules that it names."""
    document = read_option_file(path)
    options = parse_options({**document.opt, **(folders or {})}, document.file, document.lines)
    import_own(options.imports, Path(path).parent)
    check_renderers(options.data.rain_types, f"{document.file}: data.rain_types")
    return options


def parse_options(mapping: Mapping[str, Any], where: str, lines: Lines | None = None) -> ReproduceOptions:
    """Check a whole option mapping from ``where``; an OptionError names every wrong key, by ``lines`` of a file."""
    return parse_section(ReproduceOptions, mapping, where, lines=lines)


def _unknown(path: str | KeyPath, names: Iterable[str], known: Iterable[str]) -> Iterator[Problem]:
    names, known = list(names), list(known)
    for name in names:
        if name not in known:
            yield path, f"{name!r} is unknown.{did_you_mean(name, known)} Known: {', '.join(known)}."
    if len(set(names)) < len(names):
        yield path, f"{', '.join(names)}: something is listed twice."
    if not names:
        yield path, f"is empty; expected some of {', '.join(known)}."


VAL_NAME = "held-out"  # name of the validation set in every run


@dataclass(frozen=True)
class DataFolder:
    """Where the parts of the data are, below ``root``."""

    root: Path

    @property
    def val(self) -> Path:
        """The held-out pairs, in RainRAG's layout."""
        return self.root / "val"

    def subset(self, name: str, seed: int) -> Path:
        """The manifest to train on; the random subset is another one for each seed."""
        return self.root / "subsets" / (f"random_{seed}.jsonl" if name == "random" else f"{name}.jsonl")


@dataclass(frozen=True, slots=True)
class Variant:
    """One point of the grid: kinds of experts (encoder-decoder; of our own network), loss mode, subset, network."""

    experts: str
    loss: str
    data: str
    networks: str

    @property
    def name(self) -> str:
        """A name that is also a folder's."""
        network = f"{OWN_NETWORK}-{self.experts}" if self.networks == OWN_NETWORK else self.networks
        return f"{network}_{self.loss}_{self.data}"


@dataclass(frozen=True, slots=True)
class GridRun:
    """One training: a variant and a seed."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant.name}_s{self.seed}"


def held_out_types(options: ReproduceOptions) -> list[str]:
    """What figures are told apart by: the test sets, or the rain types."""
    return list(options.data.rain_types if options.test_sets is None else set_names(options.test_sets))


def variants_of(options: ReproduceOptions, question: str) -> dict[str, Variant]:
    """The variants of a question by their names in it; the first is the baseline."""
    return {name: Variant(**{**options.baseline, question: name}) for name in options.questions[question]}


def plan_runs(options: ReproduceOptions) -> list[GridRun]:
    """All runs, question after question, within a question seed after seed; none twice."""
    runs = (
        GridRun(variant, seed)
        for question in options.questions
        for seed in options.seeds
        for variant in variants_of(options, question).values()
    )
    return list(dict.fromkeys(runs))


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` laid over ``base``: sections are merged, unless another ``type`` makes them other things."""
    result = deepcopy(dict(base))
    for key, value in changes.items():
        old = result.get(key)
        same_kind = (
            isinstance(old, Mapping) and isinstance(value, Mapping) and value.get("type") in (None, old.get("type"))
        )
        result[key] = merged(old, value) if same_kind else deepcopy(value)
    return result


def base_training(options: ReproduceOptions) -> dict[str, Any]:
    """The training options that all runs share. An OptionError if the base file is missing or has no ``network_g``."""
    base = options.training.base
    path = Path(base) if Path(base).is_file() else option_file(base)
    training = plain(merged(read_option_file(path).opt, options.training.changes))
    for section in ("datasets", "network_g", "train", "val", "logger"):
        if not isinstance(training.get(section), Mapping):
            raise OptionError(f"training: {base} with its changes has no section '{section}'.")
    return training


def network_section(options: ReproduceOptions, training: Mapping[str, Any], variant: Variant) -> dict[str, Any]:
    if variant.networks == OWN_NETWORK:
        return {**training["network_g"], **ABLATIONS[variant.experts]}
    return plain(options.networks[variant.networks])


def run_options(
    options: ReproduceOptions, training: Mapping[str, Any], run: GridRun, data: DataFolder
) -> dict[str, Any]:
    opt = deepcopy(dict(training))
    opt["name"], opt["manual_seed"] = run.name, run.seed
    if options.imports:
        opt["imports"] = list(options.imports)
    opt["network_g"] = network_section(options, training, run.variant)
    disk = {"io_backend": {"type": "disk"}}
    sets = opt["datasets"]
    sets["train"].pop("dataroot", None)
    manifest = str(data.subset(run.variant.data, run.seed))
    types = list(options.data.rain_types)
    sets["train"] |= {**disk, "rain_types": types, "manifest": manifest, "seed": run.seed}
    sets["val"] |= {**disk, "rain_types": held_out_types(options), "name": VAL_NAME, "dataroot": str(data.val)}
    opt["train"]["pixel_opt"] |= {"mode": run.variant.loss, "rain_types": types}
    opt["train"]["scheduler"]["periods"] = [opt["train"]["total_iter"]]
    metric = {"crop_border": 0, "test_y_channel": False}
    opt["val"]["metrics"] = {name: {"type": f"calculate_{name}", **metric} for name in ("psnr", "ssim")}
    return opt

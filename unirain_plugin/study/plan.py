"""From the questions to the runs: each run once, however many questions it answers."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unirain_plugin.archs.presets import ABLATIONS
from unirain_plugin.errors import OptionError
from unirain_plugin.options.yaml_loader import read_option_file
from unirain_plugin.study.options import OWN_NETWORK, ReproduceOptions
from unirain_plugin.study.real import set_names
from unirain_plugin.support.resources import option_file
from unirain_plugin.support.spec import plain

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
    """The ``network_g`` section of a variant."""
    if variant.networks == OWN_NETWORK:
        return {**training["network_g"], **ABLATIONS[variant.experts]}
    return plain(options.networks[variant.networks])


def run_options(
    options: ReproduceOptions, training: Mapping[str, Any], run: GridRun, data: DataFolder
) -> dict[str, Any]:
    """The complete option file of one run."""
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

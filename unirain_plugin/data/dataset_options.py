"""The data set's section of an option file, parsed once and strictly into a frozen dataclass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from unirain_plugin.data.image_header import check_megapixels
from unirain_plugin.data.images import CONVERSIONS
from unirain_plugin.data.sampling import check_sampling
from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.rain_types import rain_type_ids

OWN_KEYS = frozenset(
    {
        "name", "type", "phase", "scale", "dataroot", "manifest", "rain_types", "sampling", "pyramid", "seed",
        "gt_size", "use_hflip", "use_rot", "mean", "std", "io_backend", "convert", "decode_region",
        "max_megapixels",
    }
)  # fmt: skip
LOADER_KEYS = frozenset(
    {
        "batch_size_per_gpu", "num_worker_per_gpu", "dataset_enlarge_ratio", "prefetch_mode",
        "num_prefetch_queue", "pin_memory", "persistent_workers", "use_shuffle",
    }
)  # fmt: skip
"""Keys that the toolbox's loader reads from the same section."""


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """Options of ``DistilledMixedPairedDataset``.

    Attributes:
        name: The data set's name, for logs.
        phase: ``train`` (crops, flips) or ``val`` / ``test`` (whole images).
        dataroot: Folder in RainRAG's layout, or of the LMDBs.
        manifest: JSON-lines file of pairs.
        rain_types: The types to take, in the order given; None takes all that are found.
        sampling: ``balanced``, ``natural``, or explicit weights (see :mod:`unirain_plugin.data.sampling`).
        pyramid: Weights of the tiers ``distilled`` and ``rest``; None takes the distilled pairs only.
        seed: Seed of the augmentation.
        gt_size: Side of the training crop in pixels.
        use_hflip: Flip left and right at random.
        use_rot: Flip top and bottom and swap the axes at random.
        mean: Subtracted from each RGB channel, or None.
        std: Divides each RGB channel, or None.
        io_backend: ``{type: disk | lmdb | mmengine, …}``.
        convert: Kinds of images to accept by OpenCV's conversion, of :data:`CONVERSIONS`.
        decode_region: Decode only the rows that the crop needs, where the format allows it.
        max_megapixels: Images that declare more are refused before they are decoded; None takes what memory takes.
    """

    name: str = "train"
    phase: str = "train"
    dataroot: str | None = None
    manifest: str | None = None
    rain_types: tuple[str, ...] | None = None
    sampling: str | Mapping[str, Any] = "balanced"
    pyramid: Mapping[str, float] | None = None
    seed: int = 0
    gt_size: int | None = None
    use_hflip: bool = False
    use_rot: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    io_backend: Mapping[str, Any] = field(default_factory=lambda: {"type": "disk"})
    convert: tuple[str, ...] = ()
    decode_region: bool = True
    max_megapixels: float | None = None

    @property
    def max_pixels(self) -> int | None:
        """``max_megapixels`` in pixels."""
        return None if self.max_megapixels is None else int(self.max_megapixels * 1e6)

    @property
    def is_train(self) -> bool:
        """Whether crops and flips are drawn."""
        return self.phase == "train"


def parse_dataset_options(opt: Mapping[str, Any]) -> DatasetOptions:
    """Check the toolbox's option dict of one data set; it is not changed.

    Raises:
        OptionError: Naming the data set, the key, what was found and what was expected.
    """
    where = f"datasets: {opt.get('name', '?')}"
    known = OWN_KEYS | LOADER_KEYS
    for key in opt:
        if key not in known:
            raise OptionError(f"{where}: unknown key '{key}'.{did_you_mean(key, known)}")
    given = {key: opt[key] for key in OWN_KEYS - {"type", "scale"} if opt.get(key) is not None}
    for key, check in _CHECKS.items():
        if key in given:
            given[key] = check(f"{where}: {key}", given[key])
    options = DatasetOptions(**given)
    _check_together(where, options, opt)
    return options


def _check_together(where: str, options: DatasetOptions, opt: Mapping[str, Any]) -> None:
    if opt.get("scale", 1) not in (1, None):
        raise OptionError(f"{where}: scale: expected 1 (deraining keeps the size), found {opt['scale']!r}.")
    if not options.is_train and options.pyramid is not None:
        raise OptionError(f"{where}: pyramid: is for training only; outside of it every pair is taken once.")
    if options.is_train and options.gt_size is None:
        raise OptionError(f"{where}: gt_size is missing; expected the side of the training crop, such as 128.")
    try:
        check_sampling(options.sampling, options.pyramid)
        if options.rain_types is not None:
            rain_type_ids(options.rain_types)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from None
    backend = options.io_backend["type"]
    if options.dataroot is None and options.manifest is None:
        raise OptionError(f"{where}: neither dataroot (a folder of rain types) nor manifest (a .jsonl file) is given.")
    if options.dataroot is not None and options.manifest is not None and backend == "disk":
        raise OptionError(f"{where}: dataroot and manifest are both given; on disk the manifest's paths are relative "
                          "to its own folder, so give one of them.")  # fmt: skip
    remote = backend == "mmengine" and options.io_backend.get("backend") != "local"
    if options.manifest is None and remote:
        raise OptionError(f"{where}: manifest is missing: behind mmengine's backend "
                          f"{options.io_backend.get('backend')!r} folders are not listed.")  # fmt: skip
    if options.dataroot is None and backend == "lmdb":
        raise OptionError(f"{where}: dataroot is missing: with io_backend lmdb it is the folder of "
                          "{type}/lq.lmdb and {type}/gt.lmdb.")  # fmt: skip


def _text(where: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise OptionError(f"{where}: expected text, found {value!r}.")
    return value


def _phase(where: str, value: object) -> str:
    if value not in ("train", "val", "test"):
        raise OptionError(f"{where}: expected train, val or test, found {value!r}.")
    return str(value)


def _flag(where: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"{where}: expected true or false, found {value!r}.")
    return value


def _natural(where: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise OptionError(f"{where}: expected a whole number of 0 or more, found {value!r}.")
    return value


def _size(where: str, value: object) -> int:
    if _natural(where, value) < 1:
        raise OptionError(f"{where}: expected 1 or more pixels, found {value!r}.")
    return value


def _names(where: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
        raise OptionError(f"{where}: expected a list of names such as [drs, drd], found {value!r}.")
    return tuple(value)


def _conversions(where: str, value: object) -> tuple[str, ...]:
    for name in _names(where, value):
        if name not in CONVERSIONS:
            hint = did_you_mean(name, CONVERSIONS)
            raise OptionError(f"{where}: '{name}' is none of {', '.join(CONVERSIONS)}.{hint}")
    return tuple(value)


def _channels(where: str, value: object) -> tuple[float, ...]:
    ok = isinstance(value, (list, tuple)) and len(value) == 3
    if not ok or not all(isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v) for v in value):
        raise OptionError(f"{where}: expected three numbers (R, G, B), found {value!r}.")
    if where.endswith("std") and any(v == 0 for v in value):
        raise OptionError(f"{where}: expected numbers other than 0, found {value!r}.")
    return tuple(float(v) for v in value)


def _backend(where: str, value: object) -> dict[str, Any]:
    names = ("disk", "lmdb", "mmengine")
    if not isinstance(value, Mapping) or value.get("type") not in names:
        kind = value.get("type") if isinstance(value, Mapping) else value
        raise OptionError(f"{where}: type: expected {', '.join(names)}, found {kind!r}.{did_you_mean(kind, names)}")
    if value["type"] != "mmengine" and len(value) > 1:
        others = ", ".join(sorted(str(key) for key in value if key != "type"))
        raise OptionError(f"{where}: unknown key(s) {others}; {value['type']} takes none beside type.")
    return dict(value)


_CHECKS = {
    "name": _text, "phase": _phase, "dataroot": _text, "manifest": _text, "rain_types": _names, "seed": _natural,
    "gt_size": _size, "use_hflip": _flag, "use_rot": _flag, "mean": _channels, "std": _channels,
    "io_backend": _backend, "convert": _conversions, "decode_region": _flag,
    "max_megapixels": check_megapixels,
}  # fmt: skip

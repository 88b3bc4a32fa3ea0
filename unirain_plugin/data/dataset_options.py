"""The data set's section of an option file, parsed once and strictly into a frozen dataclass."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from unirain_plugin.data.images import CONVERSIONS
from unirain_plugin.data.sampling import check_sampling
from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.rain_types import rain_type_ids
from unirain_plugin.support.spec import Problem, Rule, above, at_least, filled, one_of, parse_section

LOADER_KEYS = frozenset(
    {
        "batch_size_per_gpu", "num_worker_per_gpu", "dataset_enlarge_ratio", "prefetch_mode",
        "num_prefetch_queue", "pin_memory", "persistent_workers", "use_shuffle",
    }
)  # fmt: skip
"""Keys that the toolbox's loader reads from the same section."""

_Text = Annotated[str, filled]
_Deviation = Annotated[float, Rule("other than 0", lambda value: value != 0)]
_CHANNELS = Rule(kind="three numbers (R, G, B)")
_BACKENDS = ("disk", "lmdb", "mmengine")


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """Options of ``DistilledMixedPairedDataset``; the table in ``docs/data.md`` says what each means."""

    name: _Text = "train"
    phase: Literal["train", "val", "test"] = "train"
    scale: Annotated[float, Rule(kind="1 (deraining keeps the size)", holds=lambda value: value == 1)] = 1
    dataroot: _Text | None = None
    manifest: _Text | Annotated[list[_Text], filled] | None = None
    missing_manifests: Literal["stop", "skip"] = "stop"
    rain_types: Annotated[tuple[str, ...], Rule(kind="a list of names such as [drs, drd]")] | None = None
    sampling: Any = "balanced"
    pyramid: Any = None
    seed: Annotated[int, at_least(0)] = 0
    gt_size: Annotated[int, at_least(1)] | None = None
    use_hflip: bool = False
    use_rot: bool = False
    mean: Annotated[tuple[float, float, float], _CHANNELS] | None = None
    std: Annotated[tuple[_Deviation, _Deviation, _Deviation], _CHANNELS] | None = None
    io_backend: Mapping[str, Any] = field(default_factory=lambda: {"type": "disk"})
    convert: tuple[Annotated[str, one_of(*CONVERSIONS)], ...] = ()
    decode_region: bool = True
    max_megapixels: Annotated[float, above(0)] | None = None

    @property
    def max_pixels(self) -> int | None:
        return None if self.max_megapixels is None else int(self.max_megapixels * 1e6)

    @property
    def is_train(self) -> bool:
        return self.phase == "train"

    def check_phase(self) -> Iterator[Problem]:
        if self.is_train and self.gt_size is None:
            yield "gt_size", "is missing; expected the side of the training crop, such as 128."
        if not self.is_train and self.pyramid is not None:
            yield "pyramid", "is for training only; outside of it every pair is taken once."

    def check_mixture(self) -> Iterator[Problem]:
        yield from _problems(lambda: check_sampling(self.sampling, self.pyramid))

    def check_rain_types(self) -> Iterator[Problem]:
        if self.rain_types is not None:
            yield from _problems(lambda: rain_type_ids(self.rain_types))

    def check_backend(self) -> Iterator[Problem]:
        kind, more = self.io_backend.get("type"), sorted(str(key) for key in self.io_backend if key != "type")
        if kind not in _BACKENDS:
            text = f"expected {', '.join(_BACKENDS)}, found {kind!r}.{did_you_mean(kind, _BACKENDS)}"
            yield ("io_backend", "type"), text
        elif more and kind != "mmengine":
            yield "io_backend", f"unknown key(s) {', '.join(more)}; {kind} takes none beside type."

    def check_source(self) -> Iterator[Problem]:
        kind, backend = self.io_backend.get("type"), self.io_backend.get("backend")
        if self.dataroot is None and self.manifest is None:
            yield (), "neither dataroot (a folder of rain types) nor manifest (a .jsonl file) is given."
        elif self.dataroot is not None and self.manifest is not None and kind == "disk":
            text = "dataroot and manifest are both given; on disk the manifest's paths are relative to its own folder"
            yield (), f"{text}, so give one of them."
        elif self.manifest is None and kind == "mmengine" and backend != "local":
            yield "manifest", f"is missing: behind mmengine's backend {backend!r} folders are not listed."
        elif self.dataroot is None and kind == "lmdb":
            text = "is missing: with io_backend lmdb it is the folder of {type}/lq.lmdb and {type}/gt.lmdb."
            yield "dataroot", text


OWN_KEYS = frozenset(field.name for field in fields(DatasetOptions)) | {"type"}
"""Keys of a section that are not the loader's."""


def parse_dataset_options(opt: Mapping[str, Any]) -> DatasetOptions:
    """Check the toolbox's option dict of one data set; keys without a value have their default; else OptionError."""
    where = f"datasets ({opt.get('name', '?')})"
    return parse_section(DatasetOptions, opt, where, passed_over=LOADER_KEYS | {"type"}, empty_is_default=True)


def _problems(check: Callable[[], object]) -> Iterator[Problem]:
    """The error of a check as a problem at the key that its message begins with."""
    try:
        check()
    except OptionError as error:
        *path, text = str(error).split(": ", 1)
        yield tuple(path), text

"""The option file of a distillation run as frozen dataclasses; unknown or misspelt keys are errors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from unirain_plugin.data.images import CONVERSIONS
from unirain_plugin.distill.cascade import MIN_SIZE
from unirain_plugin.distill.registry import ONE_EACH, VOTER, Registry, build_part, load_parts
from unirain_plugin.errors import OptionError
from unirain_plugin.options.yaml_loader import read_option_file
from unirain_plugin.support.packages import import_own
from unirain_plugin.support.spec import FolderName, Lines, Problem, at_least, between, filled, one_of, parse_section


@dataclass(frozen=True)
class ReferenceOptions:
    """Where the real rainy images are."""

    # A folder (searched recursively) or a list file: one path a line, or JSON lines with ``image`` and, where
    # known, ``rain_type`` and ``id``; or several of them. Paths in a list are relative to the list's folder.
    images: Path | Annotated[list[Path], filled]
    # read an image's rain type from a folder of that name above it (``nrs/…``), one of the package's types or of these
    # names. It only measures retrieval; no decision uses it.
    rain_types_from_folders: bool | list[str] = True


@dataclass(frozen=True)
class CandidateOptions:
    """The labelled pairs to choose from: one of the two."""

    # manifest of pairs (JSON lines with ``lq``, ``gt``, ``rain_type``), or several, with paths relative to each
    manifest: Path | Annotated[list[Path], filled] | None = None
    dataroot: Path | None = None  # folder in RainRAG's layout
    source: str = ""  # name of the data set, for pairs that do not state theirs
    # kinds of images to accept with a conversion, as the data set's key of that name in training
    convert: list[Annotated[str, one_of(*CONVERSIONS)]] = field(default_factory=list)

    def check_source(self) -> Iterator[Problem]:
        if (self.manifest is None) == (self.dataroot is None):
            yield (), "give exactly one of `manifest` and `dataroot`."


@dataclass(frozen=True)
class RetrievalOptions:
    """The cascade (paper §2). The paper does not state K1, K2, K3 nor the size of the structural level: our choices."""

    # references that the semantic level keeps. 100: some hundred images of the same kind of scene to choose from.
    k1: int = 100
    k2: int = 20  # references that the visual level keeps. 20: what the structural level can compare in a millisecond.
    k3: int = 3  # references that are retrieved. 3: what a vision-language model can look at beside the query.
    # side of the square luma thumbnails whose SSIM is taken. 128: streaks of a 512² image are still 3 pixels
    # wide, a thumbnail takes 16 KiB, and a pair some 50 microseconds.
    working_size: Annotated[int, at_least(MIN_SIZE, "(SSIM's window)")] = 128
    index: str = "Flat"  # ``Flat`` (exact) or any FAISS ``index_factory`` string
    nprobe: Annotated[int, at_least(1)] | None = None  # lists searched in an IVF index; null leaves FAISS's default
    # A finished FAISS index over the references' text vectors in their listed order, to be used instead
    index_file: Path | None = None

    def check_cascade(self) -> Iterator[Problem]:
        if not self.k1 >= self.k2 >= self.k3 >= 1:
            yield (), f"the cascade narrows: expected k1 ≥ k2 ≥ k3 ≥ 1, got {self.k1}, {self.k2}, {self.k3}."

    def check_nprobe(self) -> Iterator[Problem]:
        if self.nprobe is not None and self.index_file is None and "IVF" not in self.index:
            yield "nprobe", f"is of IVF indexes, got index {self.index!r}."


@dataclass(frozen=True)
class EngineOptions:
    """Who does the work; the result is the same bytes for every choice."""

    # ``local`` (processes on this machine) or ``ray`` (Ray Data actors; the work folder must be shared)
    type: Literal["local", "ray"] = "local"
    workers: Annotated[int, at_least(0)] = 2  # processes or actors; 0 (local only): in the main process
    # threads in each worker that read and decode images ahead of an embedder on a GPU; 0: none
    prefetch: Annotated[int, at_least(0)] = 0
    address: str | None = None  # of a Ray cluster, ``auto`` for the running one; null starts one on this machine
    num_gpus: Annotated[float, at_least(0)] = 0.0  # GPUs (or a share of one) for each Ray actor

    def check_workers(self) -> Iterator[Problem]:
        if self.type == "ray" and self.workers < 1:
            yield "workers", "found 0; expected an integer ≥ 1 with type ray."


@dataclass(frozen=True)
class ReportOptions:
    """The HTML report."""

    enabled: bool = True  # write it (needs jinja2)
    examples: Annotated[int, at_least(0)] = 6  # kept and rejected examples shown for each rain type
    image_size: Annotated[int, between(16, 2048)] = 256  # longer side of the images in it, pixels


@dataclass(frozen=True)
class DistillOptions:
    """A whole option file."""

    # name of the run; the default output folder is ``results/distill/<name>``
    name: FolderName
    references: ReferenceOptions  # real rainy images
    candidates: CandidateOptions  # pairs to choose from
    # part of that registry: ``type`` and its own keys; likewise the three below
    captioner: dict[str, Any] = field(default_factory=lambda: {"type": "attributes"})
    embedder: dict[str, Any] = field(default_factory=lambda: {"type": "statistics"})  # image → vector
    text_encoder: dict[str, Any] = field(default_factory=lambda: {"type": "attributes"})  # sentence → vector
    # three as in the paper, or any number
    voters: Annotated[list[dict[str, Any]], filled] = field(
        default_factory=lambda: [{"type": "realism"}, {"type": "pair_consistency"}, {"type": "gt_quality"}]
    )
    retrieval: RetrievalOptions = field(default_factory=RetrievalOptions)  # the cascade
    engine: EngineOptions = field(default_factory=EngineOptions)  # who does the work
    report: ReportOptions = field(default_factory=ReportOptions)  # the HTML report
    imports: list[str] = field(default_factory=list)  # modules of your own that register parts
    output: Path | None = None  # folder for the results
    work: Path | None = None  # folder for the shards; default ``<output>/work``
    shard_size: Annotated[int, at_least(1)] = 256  # images in a shard: what is lost by a kill, at most, in each worker
    # ``stop`` at an image that cannot be read, or ``reject`` the pair (leave out the reference) and record the reason
    unreadable: Literal["stop", "reject"] = "stop"
    duplicates: Literal["reject", "keep"] = "reject"  # ``reject`` repeated pairs before voting, or ``keep`` them
    early_exit: bool = True  # do not ask costly voters once the majority stands

    @property
    def output_folder(self) -> Path:
        return self.output or Path("results", "distill", self.name)

    @property
    def work_folder(self) -> Path:
        return self.work or self.output_folder / "work"

    def parts(self) -> list[tuple[Registry, dict[str, Any], str]]:
        """Registry, section and key of captioner, embedder, text encoder and the voters."""
        voters = [(VOTER, section, f"voters[{i}]") for i, section in enumerate(self.voters)]
        return [(registry, getattr(self, key), key) for key, registry in ONE_EACH.items()] + voters


def parse_options(mapping: Mapping[str, Any], where: str, lines: Lines | None = None) -> DistillOptions:
    """Check a whole option mapping, the parts' sections included; OptionError names every wrong key of ``where``."""
    options = parse_section(DistillOptions, mapping, where, lines=lines)
    load_parts(options.imports)
    parts = [build_part(registry, section, f"{where}: {key}") for registry, section, key in options.parts()]
    names = [voter.name for voter in parts[len(ONE_EACH) :]]
    if len(set(names)) != len(names):
        raise OptionError(f"{where}: voters: two are named alike in {names}; give each its own `name`.")
    return options


def load_options(path: str | Path) -> DistillOptions:
    """Read and check an option file: errors as :func:`parse_options`, and for a file that is missing or no YAML."""
    document = read_option_file(path)
    import_own((), Path(path).parent)  # modules named under `imports` may lie beside the file
    return parse_options(document.opt, document.file, document.lines)

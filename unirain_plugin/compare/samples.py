"""The images of the test sets, listed once and read one at a time, and those that other programs have finished."""

import hashlib
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np

from unirain_plugin.compare.options import ModelOptions, SetOptions, SynthesizeOptions
from unirain_plugin.data.folders import find_types, images_by_stem, list_folders, scan_rainrag, walk_images
from unirain_plugin.data.images import CONVERSIONS, EncodedImage
from unirain_plugin.data.manifest import read_manifests
from unirain_plugin.data.names import unique_keys
from unirain_plugin.data.pairs import read_file
from unirain_plugin.data.sources import read_meta, read_value, scan_lmdb
from unirain_plugin.errors import DataError, did_you_mean
from unirain_plugin.support.files import safe_path

ImageKey = tuple[str, str]  # (test set, image)

_NAMED = 20  # images without a partner that an error names
_LMDB_SIDES = ("lq.lmdb", "gt.lmdb")


@dataclass(frozen=True)
class Source:
    """Where the bytes of an image are: a file, or an LMDB and a key. Small, and can be sent to another process."""

    path: str
    key: str | None = None

    def __str__(self) -> str:
        return self.path if self.key is None else f"{self.path}/{self.key}"

    def read(self) -> bytes:
        """The encoded image; DataError naming it, if it cannot be read."""
        return read_file(self.path) if self.key is None else read_value(self.path, self.key)

    def pixels(self) -> np.ndarray:
        """The image as the toolbox reads it, (H, W, 3) uint8 RGB, upright, without alpha; DataError if it is bad."""
        return decode(self.read(), str(self))

    def digest(self) -> str:
        return hashlib.sha256(self.read()).hexdigest()


@dataclass(frozen=True)
class Sample:
    """One image of a test set, named by its path without the suffix, below the rain type's folder if there is one."""

    test_set: str
    image: str
    rain_type: str | None
    lq: Source
    gt: Source | None

    @property
    def key(self) -> ImageKey:
        return self.test_set, self.image

    @property
    def stem(self) -> str:
        return PurePosixPath(self.image).name


def decode(data: bytes, name: str) -> np.ndarray:
    """Encoded bytes to (H, W, 3) uint8 RGB; DataError naming the image, if it is broken."""
    return cv2.cvtColor(EncodedImage(data, name, CONVERSIONS).decode(), cv2.COLOR_BGR2RGB)


def list_samples(options: SetOptions, scratch: Path) -> list[Sample]:
    """List a test set's images; none is decoded. What is rendered goes to the folder ``scratch``.

    A DataError if folders, files, LMDBs or partners are missing, or two images would have one name.
    """
    if options.synthesize is not None:
        found = _from_root(options, render(options.name, options.synthesize, scratch))
    elif options.manifest is not None:
        found = _from_manifest(options)
    elif options.dataroot is not None:
        found = _from_root(options, options.dataroot)
    else:
        found = _from_sides(options)
    counts, samples = Counter(), []
    for sample in found:
        counts[sample.rain_type] += 1
        if options.limit is None or counts[sample.rain_type] <= options.limit:
            samples.append(sample)
    doubles = [name for name, count in Counter(s.image.casefold() for s in samples).items() if count > 1]
    if doubles:
        raise DataError(f"test set '{options.name}': two images have the name '{doubles[0]}'; rename one.")
    if not samples:
        raise DataError(f"test set '{options.name}': it holds no images.")
    return samples


def render(name: str, options: SynthesizeOptions, scratch: Path) -> Path:
    """Render a test set with ``synthesize-rain``, or take over what is there, in a folder named after the settings."""
    from unirain_plugin.rain import command as synthesize_rain
    from unirain_plugin.rain.pair_files import list_images

    chosen = [str(options.input), options.split, options.rain_types, options.per_image, options.size, options.seed]
    source = None if options.input is None else Path(options.input).expanduser()
    photos = [] if source is None else list_images(f"test set '{name}': synthesize: input", source)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in photos]
    settings = [*chosen, synthesize_rain.RENDERER_VERSION, *digests]
    folder = scratch / f"{safe_path(name)}-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]}"
    arguments = ["--output", str(folder), "--types", *options.rain_types, "--per-image", str(options.per_image)]
    arguments += ["--seed", str(options.seed), "--resume"]
    arguments += ["--split", options.split] if source is None else ["--input", str(source)]
    if options.size is not None:
        size = options.size if isinstance(options.size, list) else [options.size]
        arguments += ["--size", *map(str, size)]
    with redirect_stdout(sys.stderr):  # the tables are what goes to stdout
        synthesize_rain.main(arguments)
    return folder


def _from_root(options: SetOptions, root: Path) -> Iterator[Sample]:
    base = os.path.expanduser(root)
    folders = list_folders(base) if os.path.isdir(base) else ()
    if any(os.path.isdir(os.path.join(base, name, _LMDB_SIDES[0])) for name in folders):
        for rain_type in find_types(base, options.rain_types, _LMDB_SIDES):
            folder = os.path.join(base, rain_type)
            for pair in scan_lmdb(base, rain_type):
                lq, gt = (Source(os.path.join(folder, side), pair.lq) for side in _LMDB_SIDES)
                yield Sample(options.name, f"{rain_type}/{pair.lq}", rain_type, lq, gt)
        return
    for pair in scan_rainrag(base, find_types(base, options.rain_types)):
        stem = os.path.splitext(pair.lq.split("/", 2)[2])[0]
        lq, gt = (Source(os.path.join(base, path)) for path in (pair.lq, pair.gt))
        yield Sample(options.name, f"{pair.rain_type}/{stem}", pair.rain_type, lq, gt)


def _from_sides(options: SetOptions) -> Iterator[Sample]:
    lq = _side(options.lq)
    gt = {} if options.gt is None else _side(options.gt)
    sides = [(lq, gt, options.lq, options.gt), (gt, lq, options.gt, options.lq)]
    for here, there, path, other in sides if options.gt is not None else ():
        missing = sorted(here.keys() - there.keys())
        if missing:
            raise DataError(
                f"test set '{options.name}': {len(missing)} of {len(here)} images of {path} have no partner of their "
                f"name in {other}: {some(missing, _NAMED)}.{did_you_mean(missing[0], there)} (Pairs named by another "
                "rule: make a manifest, index-dataset.)"
            )
    for name in sorted(lq):
        yield Sample(options.name, name, options.rain_type, lq[name], gt.get(name))


def _side(path: Path) -> dict[str, Source]:
    """Name without suffix → source, of a folder or an LMDB."""
    root = os.path.expanduser(path)
    if path.suffix == ".lmdb" or os.path.isfile(os.path.join(root, "data.mdb")):
        return {entry.key: Source(root, entry.key) for entry in read_meta(root)}
    if not os.path.isdir(root):
        raise DataError(f"{path}: no such folder; expected one with images, or an LMDB.")
    return {stem: Source(os.path.join(root, name)) for stem, name in images_by_stem(root).items()}


def _from_manifest(options: SetOptions) -> Iterator[Sample]:
    given = options.manifest if isinstance(options.manifest, list) else [options.manifest]
    manifests = [os.path.expanduser(path) for path in given]
    manifest = ", ".join(manifests)
    root = os.path.dirname(os.path.abspath(manifests[0])) if options.dataroot is None else options.dataroot
    base = os.path.expanduser(root)
    found = read_manifests(manifests, options.dataroot is None)
    records = [r for r in found if r.keep is not False or options.rejected]
    types = {r.rain_type for r in records}
    for name in options.rain_types or ():
        if name not in types:
            raise DataError(f"{manifest}: no pair of rain type '{name}'; found {sorted(types)}."
                            f"{did_you_mean(name, types)}")  # fmt: skip
    records = [r for r in records if options.rain_types is None or r.rain_type in options.rain_types]
    if not records:
        raise DataError(f"{manifest}: distillation has rejected every pair (keep: false); `rejected: true` takes them.")
    for record, name in zip(records, unique_keys((r.lq, r.gt) for r in records), strict=True):
        lq, gt = (Source(os.path.join(base, path)) for path in (record.lq, record.gt))
        yield Sample(options.name, name, record.rain_type, lq, gt)


def some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")


class Finished(NamedTuple):
    """What a folder holds: test image → its file, or why it has none; and files that belong to no test image."""

    sources: dict[ImageKey, Source]
    problems: dict[ImageKey, str]
    others: list[str]


Match = tuple[Sample, str | None, str]  # a test image, the name of its finished file, or what is wrong


def match_finished(model: ModelOptions, samples: Sequence[Sample]) -> Finished:
    """Find the finished image of every test image; DataError if the folder is missing or holds no images.

    Without a pattern, files are matched by stem (plus ``suffix``). Where several have it, the folders above decide:
    the test set's name, the rain type and the folders of the test image.
    """
    root = os.path.expanduser(model.results)
    if not os.path.isdir(root):
        raise DataError(f"{model.results}: no such folder of results.")
    files = sorted(walk_images(root))
    if not files:
        raise DataError(f"{model.results}: the folder of results holds no images.")
    found = list((_by_pattern if model.pattern else _by_stem)(model, root, files, samples))
    used = {name for _, name, _ in found}
    return Finished(
        {sample.key: Source(os.path.join(root, name)) for sample, name, _ in found if name is not None},
        {sample.key: problem for sample, name, problem in found if name is None},
        [name for name in files if name not in used],
    )


def _by_pattern(model: ModelOptions, root: str, files: list[str], samples: Sequence[Sample]) -> Iterator[Match]:
    known = set(files)
    for sample in samples:
        fields = {"test_set": sample.test_set, "rain_type": sample.rain_type or "", "image": sample.image}
        name = model.pattern.format(**fields, stem=sample.stem)
        problem = "" if name in known else f"{root}/{name} is missing.{did_you_mean(name, files)}"
        yield sample, None if problem else name, problem


def _by_stem(model: ModelOptions, root: str, files: list[str], samples: Sequence[Sample]) -> Iterator[Match]:
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in files:
        by_stem[Path(name).stem].append(name)
    claims: dict[str, list[tuple[tuple[bool, int], Sample]]] = defaultdict(list)
    for sample in samples:
        wanted = sample.stem + model.suffix
        ranked = sorted(((_shared_folders(name, sample), name) for name in by_stem.get(wanted, ())), reverse=True)
        if not ranked:
            yield sample, None, f"no image named '{wanted}' in {root}.{did_you_mean(wanted, by_stem)}"
        elif len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
            both = f"{ranked[1][1]} and {ranked[0][1]}"
            yield sample, None, f"{both} in {root} could both be its result; give a `pattern`."
        else:
            claims[ranked[0][1]].append((ranked[0][0], sample))
    for name, claimed in claims.items():
        yield from _award(root, name, claimed)


def _award(root: str, name: str, claimed: list[tuple[tuple[bool, int], Sample]]) -> Iterator[Match]:
    """Give a file to the test image whose folders it shares most; to nobody if two are alike."""
    best = max(rank for rank, _ in claimed)
    winners = [sample for rank, sample in claimed if rank == best]
    for _, sample in claimed:
        if winners == [sample]:
            yield sample, name, ""
        elif len(winners) > 1:
            other = next("/".join(s.key) for s in winners if s is not sample)
            problem = (
                f"{name} in {root} could be its result or that of {other}; put results in folders named after the rain "
                "type or test set, or give a `pattern`."
            )
            yield sample, None, problem
        else:
            yield sample, None, f"no image named '{Path(name).stem}' for it in {root}."


def _shared_folders(name: str, sample: Sample) -> tuple[bool, int]:
    """Whether the test set's name is among a file's folders, and how many of the image's folders and its type are."""
    folders = Path(name).parts[:-1]
    wanted = {*Path(sample.image).parts[:-1], sample.rain_type}
    return sample.test_set in folders, sum(part in folders for part in wanted)

"""What goes in: the list of reference images and the manifest of candidates, read in pieces."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from unirain_plugin.data.folders import GT_FOLDER, IMAGE_SUFFIXES, LQ_FOLDER, find_types, scan_rainrag, walk_images
from unirain_plugin.data.manifest import ManifestRecord, path_from, read_manifest, read_manifests
from unirain_plugin.distill.options import CandidateOptions, ReferenceOptions
from unirain_plugin.distill.records import Reference
from unirain_plugin.errors import DataError
from unirain_plugin.rain_types import KNOWN_TYPES


def list_references(options: ReferenceOptions) -> list[Reference]:
    """List the real rainy images: sorted by name in a folder, as listed in a list file, one place after the other.

    Names in the second and later places are as seen from the first one's folder. An image that two of them name counts
    once. A DataError if there is none, a folder or list is missing, a line is malformed, an id occurs twice, or two
    places say different things of one image.
    """
    places = options.images if isinstance(options.images, list) else [options.images]
    first = places[0] if places[0].is_dir() else places[0].parent
    known = KNOWN_TYPES if options.rain_types_from_folders is True else options.rain_types_from_folders
    found: dict[str, Reference] = {}
    files: dict[str, tuple[Reference, Path]] = {}
    for place in places:
        for reference, named in _references_of(place):
            if place is not places[0] and not named:
                reference.id = path_from(first, reference.path).removeprefix("./")
            if reference.rain_type is None and options.rain_types_from_folders:
                folders = [part for part in Path(reference.id).parts[:-1] if part in known]
                reference.rain_type = folders[-1] if folders else None
            if len(places) > 1:
                before, other = files.setdefault(path_from(first, reference.path), (reference, place))
                if other is not place:
                    _check_agreement(before, other, reference, place)
                    continue
            if reference.id in found:
                raise DataError(f"references.images: {place}: the id '{reference.id}' occurs twice.")
            found[reference.id] = reference
    return list(found.values())


def _check_agreement(before: Reference, other: Path, reference: Reference, place: Path) -> None:
    for what, old, new in (
        ("id", before.id, reference.id), ("rain type", before.rain_type, reference.rain_type),
    ):  # fmt: skip
        if None not in (old, new) and old != new:
            raise DataError(
                f"references.images: {place}: {reference.path}: its {what} is {new!r} here and {old!r} in {other}; "
                "expected the same."
            )
    before.rain_type = before.rain_type or reference.rain_type


def _references_of(place: Path) -> Iterator[tuple[Reference, bool]]:
    """The images of a folder or list file, and whether each bears an id of its own."""
    if place.is_dir():
        names = _rainy_below(place)
        yield from ((Reference(id=name, path=place / name), False) for name in names)
    elif place.is_file():
        names = list(_read_list(place))
        yield from names
    else:
        raise DataError(f"references.images: {place}: no such folder or list file.")
    if not names:
        expected = f"images ({', '.join(sorted(IMAGE_SUFFIXES))})" if place.is_dir() else "one path a line"
        raise DataError(f"references.images: {place} holds no reference image; expected {expected}.")


def _rainy_below(root: Path) -> list[str]:
    """The images below a folder, but those of a folder ``target`` beside ``input``: they are clean. It is logged."""
    names = sorted(walk_images(root))
    folders = {parent for name in names for parent in PurePosixPath(name).parents}
    beside = {folder.parent for folder in folders if folder.name.lower() == LQ_FOLDER}
    clean = {folder for folder in folders if folder.name.lower() == GT_FOLDER and folder.parent in beside}
    if clean:
        logging.getLogger("basicsr").warning(
            "references.images: left out %s: beside '%s' it holds the clean images of pairs, and references are rainy.",
            ", ".join(str(root / folder) for folder in sorted(clean)), LQ_FOLDER,
        )  # fmt: skip
    return [name for name in names if clean.isdisjoint(PurePosixPath(name).parents)]


def _read_list(path: Path) -> Iterator[tuple[Reference, bool]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"references.images: {path} cannot be read as a list of images: {error}.") from error
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        row = {"image": text}
        if text.startswith("{"):
            try:
                row = json.loads(text)
            except ValueError as error:
                raise DataError(f"{path}:{number}: not valid JSON: {error}.") from error
        if not isinstance(row.get("image"), str) or not set(row) <= {"image", "id", "rain_type"}:
            raise DataError(
                f"{path}:{number}: expected the keys image and, if known, id and rain_type; got {sorted(row)}."
            )
        if not all(isinstance(value, str) for value in row.values()):
            raise DataError(f"{path}:{number}: expected texts as values; got {text[:80]}.")
        yield Reference(row.get("id", row["image"]), path.parent / row["image"], row.get("rain_type")), "id" in row


def reference_digest(references: list[Reference]) -> str:
    digest = hashlib.sha256()
    for reference in references:
        digest.update(json.dumps([reference.id, str(reference.path), reference.rain_type]).encode())
    return digest.hexdigest()[:32]


def scan_candidates(manifest: Path, shard_size: int) -> tuple[int, np.ndarray]:
    """The number of pairs in a manifest, each checked (DataError), and the byte offset of each shard's first line."""
    count = sum(1 for _ in read_manifest(manifest))
    offsets, position = [], 0
    with open(manifest, "rb") as file:
        for number, line in enumerate(file):
            if number % shard_size == 0:
                offsets.append(position)
            position += len(line)
    return count, np.array(offsets, np.int64)


def list_candidates(options: CandidateOptions) -> tuple[str, Iterator[ManifestRecord]]:
    """The folder that paths are relative to, and the pairs of all manifests or of a folder in RainRAG's layout."""
    if options.dataroot is None:
        manifests = options.manifest if isinstance(options.manifest, list) else [options.manifest]
        return str(manifests[0].parent), read_manifests(manifests)
    root = str(options.dataroot)
    table = scan_rainrag(root, find_types(root, None))
    pairs = (table[index] for index in range(len(table)))
    return root, (ManifestRecord(pair.lq, pair.gt, pair.rain_type, options.source) for pair in pairs)


def file_digest(path: Path) -> str:
    """SHA-256 (32 hex digits) of a file; DataError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError as error:
        raise DataError(f"candidates: {path}: cannot be read: {error.strerror or error}.") from error

"""Folders of images: one way to search them, and RainRAG's layout ``{type}/{input,target}/`` (paper.md §1).

Sub-folders are searched too, through links, without going in circles.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from unirain_plugin.data.pairs import Pair, PairTable
from unirain_plugin.errors import DataError, did_you_mean
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.support.files import read_errors

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".avif", ".heic", ".heif")
"""File names with these endings (in any case) are taken as images."""

UNWRITTEN = (".avif", ".heic", ".heif")
"""Of these, those whose results are PNG files unless another format is asked for."""

_Identity = tuple[int, int]


def walk_files(
    root: str | os.PathLike[str],
    unlisted: list[tuple[str, str]] | None = None,
    without: str | os.PathLike[str] | None = None,
) -> Iterator[str]:
    """Yield the files below a folder as paths relative to it, with ``/``, sorted folder by folder.

    Hidden files and folders, pipes, devices and the folder ``without`` are left out. Folders that are links are
    entered, but for links to a folder that they lie in. Links that lead nowhere are yielded, so that reading them
    tells. A folder that cannot be listed goes to ``unlisted`` with the reason; where that is None, it is a DataError.
    """
    root = os.fspath(root)
    closed = {_identity(folder) for folder in Path(os.path.realpath(root)).parents}
    if without is not None and os.path.isdir(without) and not os.path.samefile(root, without):
        closed.add(_identity(without))
    yield from _walk(root, "", closed, unlisted)


def walk_images(root: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the images among :func:`walk_files`, by their names' endings."""
    return (name for name in walk_files(root) if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES)


def _walk(root: str, prefix: str, above: set[_Identity], unlisted: list[tuple[str, str]] | None) -> Iterator[str]:
    folder = os.path.join(root, prefix) if prefix else root
    try:
        identity = _identity(folder)
        entries = [] if identity in above else sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if unlisted is None:
            raise DataError(f"{folder}: cannot be listed: {error.strerror or error}.") from None
        unlisted.append((folder, f"cannot be listed: {error.strerror or error}"))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if os.path.isdir(entry.path):
            yield from _walk(root, f"{prefix}{entry.name}/", above | {identity}, unlisted)
        elif os.path.isfile(entry.path) or not os.path.exists(entry.path):
            yield prefix + entry.name


def _identity(folder: str | os.PathLike[str]) -> _Identity:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


LQ_FOLDER, GT_FOLDER = "input", "target"


def find_types(root: str, wanted: Sequence[str] | None, members: Sequence[str] = (LQ_FOLDER, GT_FOLDER)) -> list[str]:
    """The rain types of a folder: those wanted, or all whose sub-folder holds ``members``; none is a DataError."""
    if not os.path.isdir(root):
        raise DataError(f"{root}: no such folder; expected one in the layout {{type}}/{{{','.join(members)}}}.")
    folders = list_folders(root)
    for name in wanted or ():
        if name not in folders:
            hint = did_you_mean(name, folders)
            raise DataError(f"{root}: no folder '{name}' for this rain type; found {folders}.{hint}")
        for member in members:
            if not os.path.isdir(os.path.join(root, name, member)):
                raise DataError(f"{root}/{name}: no folder '{member}'; expected both {' and '.join(members)}.")
    found = [name for name in folders if all(os.path.isdir(os.path.join(root, name, m)) for m in members)]
    if not found:
        raise DataError(f"{root}: no rain type found; expected {{type}}/{{{','.join(members)}}} such as "
                        f"{RAIN_TYPES[0]}/{members[0]}, found {folders or 'an empty folder'}.")  # fmt: skip
    return list(types_in_order(found) if wanted is None else wanted)


def types_in_order(seen: Iterable[str]) -> tuple[str, ...]:
    """Rain types in the order of their labels: the paper's first, then by name."""
    names = set(seen)
    return (*(name for name in RAIN_TYPES if name in names), *sorted(names - set(RAIN_TYPES)))


def list_folders(root: str) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones; else DataError."""
    with read_errors(root, "cannot be listed"):
        names = sorted(os.listdir(root))
    return [name for name in names if not name.startswith(".") and os.path.isdir(os.path.join(root, name))]


def scan_rainrag(root: str, types: Sequence[str]) -> PairTable:
    """List the pairs of these types, in order, paths relative to ``root``; an image without partner is a DataError."""
    table = PairTable()
    for rain_type in types:
        lq, gt = (images_by_stem(os.path.join(root, rain_type, folder)) for folder in (LQ_FOLDER, GT_FOLDER))
        for here, there, side, other in ((lq, gt, LQ_FOLDER, GT_FOLDER), (gt, lq, GT_FOLDER, LQ_FOLDER)):
            orphans = sorted(here.keys() - there.keys())
            if orphans:
                names = ", ".join(here[stem] for stem in orphans[:3]) + (", …" if len(orphans) > 3 else "")
                raise DataError(f"{os.path.join(root, rain_type)}: {len(orphans)} image(s) in '{side}' without a "
                                f"partner of the same name in '{other}': {names}.")  # fmt: skip
        for stem in sorted(lq):
            table.append(Pair(f"{rain_type}/{LQ_FOLDER}/{lq[stem]}", f"{rain_type}/{GT_FOLDER}/{gt[stem]}", rain_type))
    return table


def images_by_stem(base: str) -> dict[str, str]:
    """Name without suffix → name, as ``a.jpg`` may pair with ``a.png``; DataError for no image, or two of a name."""
    images: dict[str, str] = {}
    for name in walk_images(base):
        stem = os.path.splitext(name)[0]
        if stem in images:
            both = f"{images[stem]} and {name}"
            raise DataError(f"{base}: {both} differ in their suffix only; expected one image a name.")
        images[stem] = name
    if not images:
        raise DataError(f"{base}: the folder holds no images.")
    return images

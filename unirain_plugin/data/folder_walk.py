"""The one way in which folders are searched: with their sub-folders, through links, without going in circles."""

from __future__ import annotations

import os
from collections.abc import Iterator

from unirain_plugin.errors import DataError

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

    Hidden files and folders are left out. Folders that are links are entered, but for links to a folder that they lie
    in themselves. Links that lead nowhere are yielded, so that reading them tells; pipes and devices are not.

    Args:
        root: The folder.
        unlisted: Takes (folder, reason) of folders that cannot be listed; None: they are an error.
        without: A folder below ``root`` that is not searched.

    Raises:
        DataError: Naming a folder that cannot be listed, where ``unlisted`` is None.
    """
    root = os.fspath(root)
    above = set()
    folder = os.path.dirname(os.path.realpath(root))
    while folder not in above:
        above.add(folder)
        folder = os.path.dirname(folder)
    closed = {_identity(folder) for folder in above}
    if without is not None and os.path.isdir(without) and not os.path.samefile(root, without):
        closed.add(_identity(os.fspath(without)))
    yield from _walk(root, "", closed, unlisted)


def walk_images(root: str | os.PathLike[str], unlisted: list[tuple[str, str]] | None = None) -> Iterator[str]:
    """Yield the images among :func:`walk_files`, by their names' endings.

    Raises:
        DataError: As there.
    """
    return (name for name in walk_files(root, unlisted) if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES)


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


def _identity(folder: str) -> _Identity:
    found = os.stat(folder)
    return found.st_dev, found.st_ino

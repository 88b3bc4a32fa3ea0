"""Pairs of images: packed in memory by the million, and their two files read and checked against each other."""

import os
import stat
import sys
from array import array
from collections.abc import Collection
from typing import Literal, NamedTuple

import numpy as np

from unirain_plugin.data.images import EncodedImage
from unirain_plugin.data.manifest import ManifestRecord
from unirain_plugin.errors import DataError

Side = Literal["lq", "gt"]


class Pair(NamedTuple):
    """One pair: paths (or LMDB keys) of the rainy and the clean image, rain type, and the data set that it comes from.

    ``kept`` is False where distillation has rejected it; ``size`` is (height, width), None where nothing states it.
    """

    lq: str
    gt: str
    rain_type: str
    source: str = ""
    kept: bool = True
    size: tuple[int, int] | None = None

    def path(self, side: Side) -> str:
        """Path (or LMDB key) of one of the two images."""
        return self.lq if side == "lq" else self.gt


class PairTable:
    """An append-only table of :class:`Pair`.

    Strings lie in one buffer, everything else in flat arrays: about 130 bytes a pair, which forked workers go on
    sharing.
    """

    def __init__(self) -> None:
        self._text, self._kept = bytearray(), bytearray()
        self._ends = array("Q")  # ends of lq and gt in the buffer, two a pair
        self._sizes = array("I")  # height and width, two a pair
        self._types, self._sources = array("H"), array("H")
        self.type_names: list[str] = []
        self.source_names: list[str] = []

    def __len__(self) -> int:
        return len(self._types)

    def append(self, pair: Pair) -> None:
        for text in (pair.lq, pair.gt):
            self._text += text.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._text))
        self._sizes.extend(pair.size or (0, 0))
        self._types.append(_intern(self.type_names, pair.rain_type))
        self._sources.append(_intern(self.source_names, pair.source))
        self._kept.append(pair.kept)

    def __getitem__(self, index: int) -> Pair:
        """Return the pair with this number (0 ≤ index < len)."""
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        start = self._ends[2 * index - 1] if index else 0
        middle, end = self._ends[2 * index : 2 * index + 2]
        lq, gt = (self._text[a:b].decode("utf-8", "surrogateescape") for a, b in ((start, middle), (middle, end)))
        rain_type, source = self.type_names[self._types[index]], self.source_names[self._sources[index]]
        size = tuple(self._sizes[2 * index : 2 * index + 2]) if self._sizes[2 * index] else None
        return Pair(lq, gt, rain_type, source, bool(self._kept[index]), size)

    @property
    def types(self) -> np.ndarray:
        """Index into ``type_names`` of every pair, uint16."""
        return np.array(self._types, np.uint16)

    @property
    def sources(self) -> np.ndarray:
        """Index into ``source_names`` of every pair, uint16."""
        return np.array(self._sources, np.uint16)

    @property
    def kept(self) -> np.ndarray:
        """Whether each pair is kept, bool."""
        return np.frombuffer(bytes(self._kept), np.uint8).astype(bool)


def _intern(names: list[str], name: str) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)


def read_file(path: str, last: int = sys.maxsize) -> bytes:
    """Return a file's bytes, of a longer one only the ``last``; a DataError names what cannot be read."""
    try:
        found = os.stat(path)
        if stat.S_IFMT(found.st_mode) not in (stat.S_IFREG, stat.S_IFDIR):  # it may have no end, or never begin
            raise DataError(f"{path}: cannot be read: it is a device, a pipe or a socket; expected a file.")
        with open(path, "rb") as file:
            file.seek(max(found.st_size - last, 0))
            return file.read()
    except OSError as error:
        key = isinstance(error, FileNotFoundError) and not os.path.splitext(path)[1]
        hint = " Without a suffix it may be an LMDB's key, which `io_backend: {type: lmdb}` reads." if key else ""
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.{hint}") from None


def read_pair(root: str, record: ManifestRecord, convert: Collection[str] = ()) -> tuple[EncodedImage, EncodedImage]:
    """Read both images of a pair, nothing is decoded yet; DataError if one is bad, or the sizes differ."""
    paths = (os.path.join(root, record.lq), os.path.join(root, record.gt))
    lq, gt = (EncodedImage(read_file(path), path, convert) for path in paths)
    check_sizes(lq, gt, record.size, "the manifest")
    return lq, gt


def check_sizes(lq: EncodedImage, gt: EncodedImage, size: tuple[int, int] | None, listed: str) -> None:
    """Check that both images have one size, and the one that is listed (None: unknown); else DataError."""
    if (lq.height, lq.width) != (gt.height, gt.width):
        raise DataError(f"{lq.name} is {lq.height}×{lq.width} (height × width), but its clean image {gt.name} is "
                        f"{gt.height}×{gt.width}; expected equal sizes.")  # fmt: skip
    if size is not None and size != (lq.height, lq.width):
        raise DataError(f"{lq.name} is {lq.height}×{lq.width} (height × width), but {listed} says {size[0]}×{size[1]}.")

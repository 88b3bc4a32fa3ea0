"""Reading the two files of a pair, checked against each other and against what a manifest says."""

from __future__ import annotations

import os
from collections.abc import Collection

from unirain_plugin.data.image_io import EncodedImage
from unirain_plugin.data.manifest import ManifestRecord
from unirain_plugin.errors import DataError


def read_file(path: str) -> bytes:
    """Return a file's bytes.

    Raises:
        DataError: Naming the file if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None


def read_pair(root: str, record: ManifestRecord, convert: Collection[str] = ()) -> tuple[EncodedImage, EncodedImage]:
    """Read both images of a pair; nothing is decoded yet.

    Raises:
        DataError: If a file is missing or bad, or the sizes differ from each other or from the record's.
    """
    paths = (os.path.join(root, record.lq), os.path.join(root, record.gt))
    lq, gt = (EncodedImage(read_file(path), path, convert) for path in paths)
    check_sizes(lq, gt, record.size, "the manifest")
    return lq, gt


def check_sizes(lq: EncodedImage, gt: EncodedImage, size: tuple[int, int] | None, listed: str) -> None:
    """Check that both images have one size, and the one that is listed (None: unknown).

    Raises:
        DataError: Naming the files and the sizes.
    """
    if (lq.height, lq.width) != (gt.height, gt.width):
        raise DataError(f"{lq.name} is {lq.height}×{lq.width} (height × width), but its clean image {gt.name} is "
                        f"{gt.height}×{gt.width}; expected equal sizes.")  # fmt: skip
    if size is not None and size != (lq.height, lq.width):
        raise DataError(f"{lq.name} is {lq.height}×{lq.width} (height × width), but {listed} says {size[0]}×{size[1]}.")

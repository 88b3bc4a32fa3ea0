"""Splitting images that hold the rainy and the clean picture side by side."""

from __future__ import annotations

import os
from collections.abc import Collection

import cv2

from unirain_plugin.data.image_io import EncodedImage
from unirain_plugin.data.lmdb_keys import make_key
from unirain_plugin.data.pair_files import read_file
from unirain_plugin.data.pairing import PairedFiles
from unirain_plugin.errors import DataError


def split_halves(
    root: str, joint: tuple[str, str, str], output: str, rainy_half: str, convert: Collection[str] = ()
) -> PairedFiles:
    """Write the halves of an image to ``{output}/input`` and ``{output}/target`` as PNG.

    Args:
        root: Folder of the joint image.
        joint: Its path, rain type and source.
        output: Folder of the halves.
        rainy_half: ``left`` or ``right``.
        convert: Kinds of images to accept.

    Returns:
        The pair, relative to ``output``.

    Raises:
        DataError: If the image is bad or its width is odd.
    """
    name, rain_type, source = joint
    path = os.path.join(root, name)
    image = EncodedImage(read_file(path), path, convert)
    if image.width % 2:
        raise DataError(f"{path}: {image.width} columns cannot be two halves of one width.")
    pixels, middle = image.decode(), image.width // 2
    halves = {"left": pixels[:, :middle], "right": pixels[:, middle:]}
    stem = make_key(name).replace("/", "_")
    for folder, half in (("input", rainy_half), ("target", "left" if rainy_half == "right" else "right")):
        os.makedirs(os.path.join(output, folder), exist_ok=True)
        ok, data = cv2.imencode(".png", halves[half])
        if not ok:
            raise DataError(f"{path}: the {half} half cannot be encoded.")
        with open(os.path.join(output, folder, f"{stem}.png"), "wb") as file:
            file.write(data.tobytes())
    return PairedFiles(f"input/{stem}.png", f"target/{stem}.png", rain_type, source)

"""Splitting images that hold the rainy and the clean picture side by side."""

from __future__ import annotations

import os
from collections.abc import Collection

from unirain_plugin.data.image_io import EncodedImage
from unirain_plugin.data.pair_files import read_file
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.preparation.pairing import PairedFiles
from unirain_plugin.support.files import claim_folder, safe_path, write_png


def prepare_halves(root: str, output: str, rainy_half: str) -> None:
    """Make the folder for the halves of the images below ``root``; one made earlier from the same ones will do.

    Raises:
        OptionError: If it lies inside ``root``, where the halves would be taken for images with two halves.
        DataError: If it holds something else.
    """
    real_root, real_output = os.path.realpath(root), os.path.realpath(output)
    if os.path.commonpath([real_root, real_output]) == real_root:
        raise OptionError(f"--halves {output}: lies inside --root {root}; name a folder elsewhere.")
    origin = {"root": real_root, "rainy_half": rainy_half}
    claim_folder(output, origin, "holds the halves of other images or the other way round; choose another folder.")


def split_halves(
    root: str, joint: tuple[str, str, str], output: str, rainy_half: str, convert: Collection[str] = ()
) -> PairedFiles:
    """Write the halves of an image as PNG to ``{output}/input`` and ``{output}/target``, in sub-folders as below root.

    Args:
        root: Folder of the joint image.
        joint: Its path, rain type and source.
        output: Folder of the halves, see :func:`prepare_halves`.
        rainy_half: ``left`` or ``right``.
        convert: Kinds of images to accept.

    Returns:
        The pair, relative to ``output``.

    Raises:
        DataError: If the image is bad, its width is odd, or a half cannot be written.
    """
    name, rain_type, source = joint
    path = os.path.join(root, name)
    image = EncodedImage(read_file(path), path, convert)
    if image.width % 2:
        raise DataError(f"{path}: {image.width} columns cannot be two halves of one width.")
    stem, ending = (name[:-4], name[-4:]) if name.lower().endswith(".png") else (name, ".png")
    written = f"{safe_path(stem)}{ending}"
    if written != name and os.path.exists(os.path.join(root, written)):
        raise DataError(
            f"{path}: {os.path.basename(written)} is there too, and the halves of both would get that name; rename one."
        )
    pixels, middle = image.decode(), image.width // 2
    halves = {"left": pixels[:, :middle], "right": pixels[:, middle:]}
    pair = PairedFiles(f"input/{written}", f"target/{written}", rain_type, source)
    for half_name, half in ((pair.lq, rainy_half), (pair.gt, "left" if rainy_half == "right" else "right")):
        target = os.path.join(output, half_name)
        write_png(target, halves[half])
    return pair

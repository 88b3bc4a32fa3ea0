"""Converters between the manifest and BasicSR's ``meta_info_file`` (a clean image's name and shape on each line).

The toolbox finds the rainy image in its folder by the clean one's name put into ``filename_tmpl``, so a file serves one
pair of folders and cannot express many-to-one pairs; what it cannot express is an error here.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from unirain_plugin.data.manifest import ManifestRecord
from unirain_plugin.data.pairs import read_pair
from unirain_plugin.errors import DataError
from unirain_plugin.support.files import read_errors

_LINE = re.compile(r"(?P<name>\S+)(?: \((?P<h>\d+),(?P<w>\d+),\d+\))?\s*")


class MetaInfoFile(NamedTuple):
    """One meta info file to be: the lines of one type's pairs in folders for ``dataroot_lq`` and ``dataroot_gt``."""

    rain_type: str
    lq_folder: str
    gt_folder: str
    filename_tmpl: str
    lines: list[str]


def to_meta_info(records: Iterable[ManifestRecord], root: str, convert: Collection[str] = ()) -> list[MetaInfoFile]:
    """Convert records relative to ``root``; a pair that the toolbox could not find by its rule is a DataError.

    So is one of no told size whose images are bad, or of a kind that is not in ``convert``.
    """
    files: dict[tuple[str, str, str], MetaInfoFile] = {}
    for record in records:
        folders, (lq, gt) = zip(*map(os.path.split, (record.lq, record.gt)), strict=True)
        key = (record.rain_type, *folders)
        if key not in files:
            paths = (os.path.normpath(os.path.join(root, folder)) for folder in folders)
            files[key] = MetaInfoFile(record.rain_type, *paths, _template(lq, gt), [])
        stem, suffix = os.path.splitext(gt)
        found = files[key].filename_tmpl.format(stem) + suffix
        if any(map(str.isspace, gt)):
            why = "a name with a blank"
        elif gt != gt.encode("utf-8", "replace").decode():
            why = "a name that is not UTF-8"
        elif found != lq:
            why = f"the toolbox would look for {found}"
        else:
            image = None if record.size else read_pair(root, record, convert)[1]
            height, width = record.size or (image.height, image.width)
            files[key].lines.append(f"{gt} ({height},{width},3)")
            continue
        raise DataError(f"{record.lq} and {record.gt} cannot be told in a meta_info_file: {why}.")
    return list(files.values())


def _template(lq: str, gt: str) -> str:
    """Return the ``filename_tmpl`` that makes ``lq`` of ``gt``; ``{}`` if there is none."""
    before, stem, after = os.path.splitext(lq)[0].partition(os.path.splitext(gt)[0])
    return f"{before}{{}}{after}" if stem and not set("{}") & set(before + after) else "{}"


def from_meta_info(
    meta_info_file: str,
    lq_folder: str,
    gt_folder: str,
    manifest_folder: str,
    rain_type: str,
    source: str = "",
    filename_tmpl: str = "{}",
) -> Iterator[ManifestRecord]:
    """Yield the pairs of a ``meta_info_file``, relative to ``manifest_folder``; a DataError tells ``file:line``."""
    prefixes = [os.path.relpath(os.path.realpath(f), os.path.realpath(manifest_folder)) for f in (lq_folder, gt_folder)]
    with read_errors(meta_info_file), open(meta_info_file, encoding="utf-8") as file:
        lines = file.read().splitlines()
    for number, line in enumerate(lines, 1):
        where = f"{meta_info_file}:{number}"
        match = _LINE.fullmatch(line)
        if match is None:
            raise DataError(f"{where}: expected 'name.png (height,width,channels)', found {line[:80]!r}.")
        stem, suffix = os.path.splitext(os.path.basename(match["name"]))
        names = (filename_tmpl.format(stem) + suffix, match["name"])
        for folder, name in zip((lq_folder, gt_folder), names, strict=True):
            if not os.path.isfile(os.path.join(folder, name)):
                raise DataError(f"{where}: {os.path.join(folder, name)} does not exist.")
        lq, gt = (os.path.normpath(os.path.join(p, name)) for p, name in zip(prefixes, names, strict=True))
        yield ManifestRecord(lq, gt, rain_type, source, (int(match["h"]), int(match["w"])) if match["h"] else None)

"""Cutting pairs into sub-images once, so that training never decodes more than it needs."""

import hashlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial

from unirain_plugin.data.manifest import ManifestRecord
from unirain_plugin.data.names import unique_stems
from unirain_plugin.data.pairs import read_file, read_pair
from unirain_plugin.support.files import write_errors, write_png
from unirain_plugin.support.processes import map_in_processes


@dataclass(frozen=True, slots=True)
class CutPlan:
    """How images are cut: square sub-images of side ``size``, ``step`` apart, as PNG of a level from 0 to 9.

    320 is our choice for crops of 128: small enough to read fast; 256 lets neighbours overlap by 64, at 1.6 times the
    pixels. A rest at the border of more than ``threshold`` pixels gets a sub-image of its own.
    """

    size: int = 320
    step: int = 256
    threshold: int = 0
    level: int = 3
    convert: tuple[str, ...] = ()

    def positions(self, length: int) -> list[int]:
        """Return where sub-images begin along a side; an image smaller than ``size`` stays whole."""
        if length <= self.size:
            return [0]
        starts = list(range(0, length - self.size + 1, self.step))
        if length - (starts[-1] + self.size) > self.threshold:
            starts.append(length - self.size)
        return starts

    def fingerprint(self, records: Collection[ManifestRecord], root: str) -> dict[str, str]:
        """What tells the sub-images of these pairs from others', wherever the files lie; DataError if one is missing.

        Only the end of each file is read: other images would have to agree there one and all.
        """
        digest, ends = hashlib.sha256(), hashlib.sha256()
        for record in records:
            digest.update(f"{record.lq}\0{record.gt}\n".encode("utf-8", "surrogateescape"))
            for path in (record.lq, record.gt):
                ends.update(read_file(os.path.join(root, path), last=4096))
        how = f"size {self.size} step {self.step} threshold {self.threshold} level {self.level}"
        origin = {"entries": str(len(records)), "sha256_of_list": digest.hexdigest(), "cut": how}
        return {**origin, "sha256_of_ends": ends.hexdigest()}


def cut_pairs(
    records: list[ManifestRecord], root: str, output: str, plan: CutPlan, workers: int = 1
) -> Iterator[list[ManifestRecord]]:
    """Write ``{output}/{type}/{input,target}/NAME_sNNN.png`` (else DataError) where missing, pair after pair."""
    names = unique_stems((record.lq, record.gt) for record in records)
    for rain_type in {record.rain_type for record in records}:
        for side in ("input", "target"):
            folder = os.path.join(output, rain_type, side)
            with write_errors(folder):
                os.makedirs(folder, exist_ok=True)
    yield from map_in_processes(partial(_cut, root, output, plan), zip(records, names, strict=True), workers)


def _cut(root: str, output: str, plan: CutPlan, item: tuple[ManifestRecord, str]) -> list[ManifestRecord]:
    record, name = item
    images = read_pair(root, record, plan.convert)
    height, width = images[0].height, images[0].width
    corners = [(top, left) for top in plan.positions(height) for left in plan.positions(width)]
    size = (min(plan.size, height), min(plan.size, width))
    parts = []
    for number in range(1, len(corners) + 1):
        paths = (f"{record.rain_type}/{side}/{name}_s{number:03d}.png" for side in ("input", "target"))
        parts.append(replace(record, lq=next(paths), gt=next(paths), size=size))
    for image, side in zip(images, ("lq", "gt"), strict=True):
        paths = [os.path.join(output, getattr(part, side)) for part in parts]
        if all(os.path.exists(path) for path in paths):
            continue
        pixels = image.decode()
        for (top, left), path in zip(corners, paths, strict=True):
            write_png(path, pixels[top : top + size[0], left : left + size[1]], plan.level)
    return parts

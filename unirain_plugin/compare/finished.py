"""Folders of finished pictures from other toolboxes: which file is the result of which test picture."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unirain_plugin.compare.options import ModelOptions
from unirain_plugin.compare.samples import Sample, Source
from unirain_plugin.data.folders import walk_images
from unirain_plugin.errors import DataError, did_you_mean

ImageKey = tuple[str, str]
"""(test set, image)."""


@dataclass
class Finished:
    """What a folder holds.

    Attributes:
        sources: Test picture → its finished file.
        problems: Test picture → why it has none.
        others: Files that belong to no test picture.
    """

    sources: dict[ImageKey, Source] = field(default_factory=dict)
    problems: dict[ImageKey, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def match_finished(model: ModelOptions, samples: Sequence[Sample]) -> Finished:
    """Find the finished picture of every test picture.

    Without a pattern, files are matched by stem (plus ``suffix``). Where several have it, the folders above decide:
    the test set's name, the rain type and the folders of the test picture.

    Raises:
        DataError: If the folder is missing or holds no pictures.
    """
    root = os.path.expanduser(model.results)
    if not os.path.isdir(root):
        raise DataError(f"{model.results}: no such folder of results.")
    files = sorted(walk_images(root))
    if not files:
        raise DataError(f"{model.results}: the folder of results holds no pictures.")
    return _by_pattern(model, root, files, samples) if model.pattern else _by_stem(model, root, files, samples)


def _by_pattern(model: ModelOptions, root: str, files: list[str], samples: Sequence[Sample]) -> Finished:
    finished, known, used = Finished(), set(files), set()
    for sample in samples:
        name = model.pattern.format(
            test_set=sample.test_set, rain_type=sample.rain_type or "", image=sample.image, stem=sample.stem
        )
        if name in known:
            used.add(name)
            finished.sources[sample.test_set, sample.image] = Source(os.path.join(root, name))
        else:
            finished.problems[sample.test_set, sample.image] = f"{root}/{name} is missing.{did_you_mean(name, files)}"
    finished.others = sorted(known - used)
    return finished


def _by_stem(model: ModelOptions, root: str, files: list[str], samples: Sequence[Sample]) -> Finished:
    finished = Finished()
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in files:
        by_stem[Path(name).stem].append(name)
    claims: dict[str, list[tuple[tuple[bool, int], Sample]]] = defaultdict(list)
    for sample in samples:
        wanted = sample.stem + model.suffix
        ranked = sorted(((_shared_folders(name, sample), name) for name in by_stem.get(wanted, ())), reverse=True)
        if not ranked:
            finished.problems[sample.test_set, sample.image] = (
                f"no picture named '{wanted}' in {root}.{did_you_mean(wanted, by_stem)}"
            )
        elif len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
            finished.problems[sample.test_set, sample.image] = (
                f"{ranked[1][1]} and {ranked[0][1]} in {root} could both be its result; give a `pattern`."
            )
        else:
            claims[ranked[0][1]].append((ranked[0][0], sample))
    for name, claimed in claims.items():
        _award(finished, root, name, claimed)
    used = {os.path.relpath(source.path, root) for source in finished.sources.values()}
    finished.others = [name for name in files if name not in used]
    return finished


def _award(finished: Finished, root: str, name: str, claimed: list[tuple[tuple[bool, int], Sample]]) -> None:
    """Give a file to the test picture whose folders it shares most; to nobody if two are alike."""
    best = max(rank for rank, _ in claimed)
    winners = [sample for rank, sample in claimed if rank == best]
    for _, sample in claimed:
        key = sample.test_set, sample.image
        if winners == [sample]:
            finished.sources[key] = Source(os.path.join(root, name))
        elif len(winners) > 1:
            others = [f"{s.test_set}/{s.image}" for s in winners if s is not sample]
            finished.problems[key] = (
                f"{name} in {root} could be its result or that of {others[0] if others else winners[0].image}; put "
                "results in folders named after the rain type or test set, or give a `pattern`."
            )
        else:
            finished.problems[key] = f"no picture named '{Path(name).stem}' for it in {root}."


def _shared_folders(name: str, sample: Sample) -> tuple[bool, int]:
    """Whether the test set's name is among a file's folders, and how many of the picture's folders and its type are."""
    folders = Path(name).parts[:-1]
    wanted = {*Path(sample.image).parts[:-1], sample.rain_type}
    return sample.test_set in folders, sum(part in folders for part in wanted)

"""Images that others took: photographs of real rain, clean photographs, public test sets; they are looked at first.

Whether an image shows rain is measured with the shipped weights: the share of its pixels, at a shorter side of 256,
that they change by more than 8 levels. In the median of each of nine public test sets it is below 0.16 % for the clean
images and above 0.42 % for the rainy ones; for photographs of real rain it was 3.7 %.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unirain_plugin.data.folders import GT_FOLDER, LQ_FOLDER, find_types, list_folders, scan_rainrag
from unirain_plugin.distill.records import check_same_size, read_rgb
from unirain_plugin.distill.voters.findings import FEWEST
from unirain_plugin.errors import DataError
from unirain_plugin.rain.pair_files import cut, list_images
from unirain_plugin.support.files import write_png

LIMIT = 0.25  # per cent of the pixels: a folder whose median image changes in more of them is rainy
MUCH = 2.0
"""The same for a single image among clean ones, of which a fifth may exceed it: texture is at times taken for rain."""
_LEVELS, _SIDE, _LOOKED_AT = 8, 256, 12


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of the items, evenly chosen."""
    if len(items) <= count:
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]


@cache
def _network() -> Any:
    from unirain_plugin import load

    return load(device="cpu")


def rain_shown(paths: Sequence[Path]) -> np.ndarray:
    """Per cent of the pixels that the shipped weights change by more than 8 levels, of some of the images."""
    from unirain_plugin import restore

    shares = []
    for path in evenly(paths, _LOOKED_AT):
        image = read_rgb(path)
        scale = min(_SIDE / min(image.shape[:2]), 1)
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        small = np.ascontiguousarray(_middle(small, _SIDE))
        change = np.abs(restore(_network(), small, sizes=()).astype(np.int16) - small).max(axis=2)
        shares.append(100 * float((change > _LEVELS).mean()))
    return np.array(shares)


def check_rain_and_clean(rainy: tuple[str, Sequence[Path]] | None, clean: tuple[str, Sequence[Path]] | None) -> None:
    """Check that rainy images show rain and clean photographs none, each with what messages call them; None: no look.

    The DataError names the folder, what was measured and what is needed; if both are the wrong way round, that.
    """
    wet = rain_shown(rainy[1]) if rainy else None
    dry = rain_shown(clean[1]) if clean else None
    needed = f"the shipped weights change more than {LIMIT} % of the pixels of the median image by more than {_LEVELS}"
    wet_fails = wet is not None and np.median(wet) <= LIMIT
    dry_fails = dry is not None and (np.median(dry) > LIMIT or np.mean(dry > MUCH) > 0.2)
    if wet_fails and dry_fails and np.median(dry) > np.median(wet):
        raise DataError(
            f"{rainy[0]} and {clean[0]} seem to be given the wrong way round: the first shows no rain (rain: {needed} "
            f"levels; found {np.median(wet):.2f} %), the second does ({np.median(dry):.2f} %)."
        )
    if wet_fails:
        raise DataError(
            f"{rainy[0]}: shows no rain: found {np.median(wet):.2f} % on {len(wet)} images looked at; rain: {needed} "
            "levels. Expected photographs of rain."
        )
    if dry_fails:
        names = [str(p.name) for p, share in zip(evenly(clean[1], _LOOKED_AT), dry, strict=True) if share > LIMIT]
        raise DataError(
            f"{clean[0]}: {len(names)} of {len(dry)} images looked at seem to be rainy ({', '.join(names[:3])}"
            f"{', …' if len(names) > 3 else ''}; median {np.median(dry):.2f} %; rain: {needed} levels). Expected clean "
            "photographs."
        )


def check_references(
    what: str, folder: Path, clean: tuple[str, Sequence[Path]] | None, look: bool = True
) -> list[Path]:
    """List photographs of real rain (else DataError) and, where asked to, look at them and at the clean ones."""
    paths = list_images(what, folder, FEWEST)
    if look:
        check_rain_and_clean((f"{what}: {folder}", paths), clean)
    return paths


def write_windows(paths: Sequence[Path], folder: Path, count: int, size: int, seed: int) -> None:
    """Cut ``count`` windows out of each photograph, at random scales as the renderer does: ``NUMBER_k.png``.

    What is there is kept. Smaller photographs are enlarged to ``size``; ``seed``: of places and scales.
    """
    for number, path in enumerate(paths):
        rng = np.random.default_rng([seed, number])
        targets = [folder / f"{number:05d}_{k}.png" for k in range(count)]
        if all(target.is_file() for target in targets):
            continue
        image = read_rgb(path)
        scale = size / min(image.shape[:2])
        if scale > 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        for target in targets:
            write_png(target, cut(image, (size, size), rng)[..., ::-1])


def set_names(folder: Path) -> dict[str, str]:
    """Name in figures → folder of each public test set, in order; DataError if there is none or names are too alike."""
    names: dict[str, str] = {}
    for found in find_types(str(folder), None):
        name = re.sub(r"[^a-z0-9]+", "_", found.lower()).strip("_")
        name = name if name[:1].isalpha() else f"set_{name}"
        if name in names:
            raise DataError(f"test_sets: {folder}: '{names[name]}' and '{found}' would both be called {name}.")
        names[name] = found
    return names


def check_test_sets(folder: Path, look: bool = True) -> dict[str, list[tuple[Path, Path]]]:
    """Name of each set → its pairs of files, rainy and clean; where asked to, inputs and targets are looked at.

    A DataError if a side of a set or partners are missing, or a set's sides are the wrong way round.
    """
    if not folder.is_dir():
        raise DataError(f"test_sets: {folder}: no such folder; expected NAME/input and NAME/target below it.")
    for name in list_folders(str(folder)):
        if (folder / name / LQ_FOLDER).is_dir() != (folder / name / GT_FOLDER).is_dir():
            list_pairs("test_sets", folder / name)  # says which side is missing
    pairs = {name: list_pairs("test_sets", folder / found) for name, found in set_names(folder).items()}
    for name, found in pairs.items() if look else ():
        check_direction(f"test_sets: {folder}: {name}", found)
    return pairs


def list_pairs(what: str, folder: Path) -> list[tuple[Path, Path]]:
    """The pairs of ``folder/input`` and ``folder/target`` by equal names; DataError if a side or partner is missing."""
    for side in (LQ_FOLDER, GT_FOLDER):
        if not (folder / side).is_dir():
            found = "no such folder" if not folder.is_dir() else f"holds no folder '{side}'"
            raise DataError(f"{what}: {folder}: {found}; expected input and target in it.")
    root, name = folder.absolute().parent, folder.absolute().name
    return [(root / pair.lq, root / pair.gt) for pair in scan_rainrag(str(root), [name])]


def check_direction(what: str, pairs: Sequence[tuple[Path, Path]]) -> None:
    """Refuse pairs whose clean images show rain while the rainy ones show none. A DataError, naming ``what``."""
    lq, gt = (float(np.median(rain_shown([pair[side] for pair in evenly(pairs, 4)]))) for side in (0, 1))
    if lq <= LIMIT < gt:
        raise DataError(
            f"{what}: 'input' and 'target' seem to be the wrong way round: the shipped weights change {lq:.2f} % of "
            f"the pixels of the former and {gt:.2f} % of the latter by more than {_LEVELS} levels."
        )


def write_test_sets(sets: dict[str, list[tuple[Path, Path]]], folder: Path, count: int, size: int) -> None:
    """Write the middles of some pairs of each set to ``folder/NAME/{input,target}/NUMBER.png``."""
    for name, pairs in sets.items():
        for number, paths in enumerate(evenly(pairs, count)):
            images = [read_rgb(path) for path in paths]
            check_same_size(*images, *paths)
            for side, image in zip((LQ_FOLDER, GT_FOLDER), images, strict=True):
                write_png(folder / name / side / f"{number:03d}.png", _middle(image, size)[..., ::-1])


def _middle(image: np.ndarray, size: int) -> np.ndarray:
    """The middle of an image, at most ``size`` pixels each way."""
    top, left = (max((side - size) // 2, 0) for side in image.shape[:2])
    return image[top : top + size, left : left + size]

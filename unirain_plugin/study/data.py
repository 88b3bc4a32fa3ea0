"""The data of a reproduction: rendered pairs of which some are spoilt, distilled, and the subsets to train on."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unirain_plugin.compare.summary import read_bgr, score
from unirain_plugin.data.folders import IMAGE_SUFFIXES, find_types, scan_rainrag, walk_images
from unirain_plugin.data.manifest import ManifestRecord, read_manifest, write_manifest
from unirain_plugin.distill.options import parse_options
from unirain_plugin.distill.pipeline import Pipeline
from unirain_plugin.distill.records import read_rgb
from unirain_plugin.errors import DataError
from unirain_plugin.rain import command as synthesize_rain
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.study.options import DataOptions, Photographs
from unirain_plugin.study.plan import DataFolder
from unirain_plugin.study.planted import Pair, plant
from unirain_plugin.study.results import means_by_type
from unirain_plugin.support.files import write_png, write_whole

GOOD = "rendered"
"""``source`` of a pair that was not spoilt; that of a spoilt one is its kind."""
SUMMARY = "data.json"
"""Written last: where it stands, the data are complete."""


def write_json(path: Path, value: object) -> None:
    """Write plain data as JSON, whole or not at all."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: If it is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); remove it to have it made anew.") from None


def check_photographs(photographs: Photographs | None) -> dict[str, list[str]]:
    """Find the photographs; returns split → SHA-256 of each, for the records.

    Raises:
        DataError: If a folder is missing or holds none, or a photograph is in both.
    """
    if photographs is None:
        paths = {"train": sample_photos("train"), "val": sample_photos("held-out")}
    else:
        paths = {"train": _photos("train", photographs.train), "val": _photos("val", photographs.val)}
    digests = {split: {hashlib.sha256(p.read_bytes()).hexdigest(): p for p in files} for split, files in paths.items()}
    for digest in digests["train"].keys() & digests["val"].keys():
        raise DataError(
            f"photographs: {digests['train'][digest]} and {digests['val'][digest]} are the same file; expected no "
            "photograph both in training and held out."
        )
    return {split: sorted(found) for split, found in digests.items()}


def _photos(split: str, folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"photographs: {split}: {folder}: no such folder; expected a folder of photographs.")
    found = sorted(walk_images(str(folder)))
    if not found:
        raise DataError(
            f"photographs: {split}: {folder}: holds no photographs; expected files ending in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    return [folder / name for name in found]


def make_data(
    folder: DataFolder, options: DataOptions, photographs: Photographs | None, seeds: Iterable[int], workers: int
) -> dict[str, Any]:
    """Make what is missing; what a killed call left is gone on with.

    Args:
        folder: Where to.
        options: What.
        photographs: Clean photographs; None takes the embedded ones.
        seeds: Of the runs: each gets a random subset of its own.
        workers: Processes.

    Returns:
        The summary: ``pairs`` (rain type → kind → given and kept), ``subsets`` (name → pairs), ``rainy`` (rain type →
        PSNR in dB and SSIM of the held-out rainy images; ``perfect``: how many equal the clean one, and
        are in no mean).

    Raises:
        DataError: If the photographs cannot be used or distillation leaves nothing of a rain type.
    """
    if not (folder.root / SUMMARY).is_file():
        _render(folder, options, photographs, workers)
        candidates = _spoil(folder, options)
        write_manifest(folder.root / "candidates.jsonl", candidates)
        report = {"report": {"enabled": False}}
        distilled = distil(folder.root, "reproduce", folder.root / "references", workers, report)
        kept = [bool(record.keep) for record in distilled]
        summary = _write_subsets(folder, candidates, kept)
        summary["rainy"] = _rainy_scores(folder.val)
        write_json(folder.root / SUMMARY, summary)
    _draw_random_subsets(folder, options.seed, seeds)
    return read_json(folder.root / SUMMARY)


def _render(folder: DataFolder, options: DataOptions, photographs: Photographs | None, workers: int) -> None:
    """Render training pairs, references and held-out pairs."""
    sets = (
        ("train", "train", options.train_pairs, options.train_size, options.seed, True),
        ("references", "train", options.reference_pairs, options.train_size, options.seed + 1, True),
        ("val", "val", options.val_pairs, options.val_size, options.seed, False),
    )
    for name, split, pairs, size, seed, vary in sets:
        if photographs is None:
            source = ["--split", "train" if split == "train" else "held-out"]
        else:
            source = ["--input", str(getattr(photographs, split))]
        numbers = ["--per-image", str(pairs), "--size", str(size), "--seed", str(seed), "--workers", str(workers)]
        colours = ["--vary-colours"] if vary else []
        target = folder.root / name
        resume = ["--resume"] if (target / synthesize_rain.SETTINGS_FILE).is_file() else []
        status = synthesize_rain.main([*source, "--output", str(target), *numbers, *colours, *resume])
        if status:
            raise KeyboardInterrupt


def _spoil(folder: DataFolder, options: DataOptions) -> list[ManifestRecord]:
    """Replace a share of each type's pairs by spoilt ones; returns all candidates."""
    pairs = good_pairs(folder.root / "train", folder.root, RAIN_TYPES)
    rng = np.random.default_rng(options.seed)
    records = []
    for same in (pairs[rain_type] for rain_type in RAIN_TYPES):
        spoilt = rng.permutation(len(same))[: round(options.bad_share * len(same))]
        kind_of = {int(place): options.bad_kinds[n % len(options.bad_kinds)] for n, place in enumerate(spoilt)}
        for place, pair in enumerate(same):
            if (kind := kind_of.get(place)) is not None:
                other = same[(place + int(rng.integers(1, len(same)))) % len(same)] if len(same) > 1 else pair
                pair = plant_pair(folder.root, kind, pair, other, rng, f"{place:04d}")
            records.append(pair)
    return records


def good_pairs(train: Path, root: Path, types: Iterable[str] | None = None) -> dict[str, list[ManifestRecord]]:
    """Rain type → pairs of a folder in RainRAG's layout, their paths relative to ``root`` if they lie below it."""
    table = scan_rainrag(str(train), find_types(str(train), list(types) if types else None))
    prefix = train.relative_to(root) if train.is_relative_to(root) else train
    pairs: dict[str, list[ManifestRecord]] = {}
    for pair in (table[index] for index in range(len(table))):
        record = ManifestRecord(str(prefix / pair.lq), str(prefix / pair.gt), pair.rain_type, GOOD)
        pairs.setdefault(pair.rain_type, []).append(record)
    return pairs


def plant_pair(
    root: Path, kind: str, good: ManifestRecord, other: ManifestRecord, rng: np.random.Generator, name: str
) -> ManifestRecord:
    """Spoil a pair and write it to ``root/planted``; ``source`` of its record is the kind.

    Args:
        root: Folder that the records' paths are relative to.
        kind: A kind of :mod:`unirain_plugin.study.planted`.
        good: The pair.
        other: A pair of another scene and the same rain type.
        rng: Draws what the kind leaves open.
        name: Beginning of the files' names.
    """
    pairs = [Pair(read_rgb(root / p.lq), read_rgb(root / p.gt), p.rain_type, p.gt) for p in (good, other)]
    bad = plant(kind, *pairs, rng)
    paths = [f"planted/{good.rain_type}/{side}/{name}_{kind}.png" for side in ("input", "target")]
    for path, image in zip(paths, (bad.lq, bad.gt), strict=True):
        write_png(root / path, image[..., ::-1])
    return ManifestRecord(*paths, good.rain_type, kind)


def distil(root: Path, name: str, references: Path, workers: int, options: Mapping[str, Any]) -> list[ManifestRecord]:
    """Distil ``root/candidates.jsonl`` into ``root/distilled`` with the pipeline's defaults.

    Args:
        root: The folder.
        name: The run's name.
        references: Folder in RainRAG's layout below it, whose rainy images stand in for real rain.
        workers: Processes.
        options: Further options of the pipeline.

    Returns:
        The decided candidates, in their order.
    """
    paths = sorted(path.relative_to(root).as_posix() for path in references.glob("*/input/*"))
    write_whole(root / "references.txt", "\n".join(paths) + "\n")
    settings = {
        "name": name,
        "references": {"images": str(root / "references.txt")},
        "candidates": {"manifest": str(root / "candidates.jsonl")},
        "engine": {"workers": workers},
        "output": str(root / "distilled"),
        **options,
    }
    Pipeline(parse_options(settings, name)).run()
    return list(read_manifest(root / "distilled" / "manifest.jsonl"))


def _write_subsets(folder: DataFolder, candidates: list[ManifestRecord], kept: list[bool]) -> dict[str, Any]:
    """Write the manifests that do not depend on a run's seed; returns what there is of each kind."""
    subsets = {
        "everything": candidates,
        "distilled": [record for record, keep in zip(candidates, kept, strict=True) if keep],
        "oracle": [record for record in candidates if record.source == GOOD],
    }
    for name, records in subsets.items():
        missing = [t for t in RAIN_TYPES if not any(record.rain_type == t for record in records)]
        if missing:
            raise DataError(f"data: the subset '{name}' holds no pair of {', '.join(missing)}; raise train_pairs.")
        _write_subset(folder.subset(name, 0), records)
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for record, keep in zip(candidates, kept, strict=True):
        kinds = counts.setdefault(record.rain_type, {})
        entry = kinds.setdefault(record.source, {"given": 0, "kept": 0})
        entry["given"] += 1
        entry["kept"] += keep
    return {"pairs": counts, "subsets": {name: len(records) for name, records in subsets.items()}}


def _write_subset(path: Path, records: list[ManifestRecord]) -> None:
    """Write a manifest one folder below the data; its paths are relative to itself."""
    moved = (replace(record, lq=f"../{record.lq}", gt=f"../{record.gt}") for record in records)
    write_manifest(path, moved)


def _draw_random_subsets(folder: DataFolder, seed: int, seeds: Iterable[int]) -> None:
    """As many pairs of each type as distillation kept, drawn from all."""
    candidates = list(read_manifest(folder.root / "candidates.jsonl"))
    sizes = Counter(record.rain_type for record in read_manifest(folder.subset("distilled", 0)))
    for run_seed in seeds:
        path = folder.subset("random", run_seed)
        if path.is_file():
            continue
        rng = np.random.default_rng((seed, run_seed))
        chosen = []
        for rain_type, size in sizes.items():
            same = [record for record in candidates if record.rain_type == rain_type]
            chosen += [same[int(place)] for place in sorted(rng.choice(len(same), size, replace=False))]
        _write_subset(path, chosen)


def _rainy_scores(val: Path) -> dict[str, dict[str, float]]:
    """PSNR (dB) and SSIM of the rainy inputs, means of each type, and how many equal the clean image."""
    scores = {}
    for rain_type in RAIN_TYPES:
        inputs = sorted((val / rain_type / "input").iterdir())
        targets = (val / rain_type / "target" / path.name for path in inputs)
        scores[rain_type] = [score(read_bgr(lq), read_bgr(gt)) for lq, gt in zip(inputs, targets, strict=True)]
    values = {m: {t: [getattr(s, m) for s in of_type] for t, of_type in scores.items()} for m in ("psnr", "ssim")}
    means = means_by_type(values)
    return {t: {key: means[key].get(t, 0) for key in ("psnr", "ssim", "perfect")} for t in scores}

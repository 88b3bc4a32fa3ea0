"""The data of a reproduction: rendered pairs of which some are spoilt, distilled, and the subsets to train on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unirain_plugin.compare.scores import read_bgr, score
from unirain_plugin.data.folder_walk import IMAGE_SUFFIXES, walk_images
from unirain_plugin.data.manifest import ManifestRecord, read_manifest, write_manifest
from unirain_plugin.data.rainrag_folder import find_types, scan_rainrag
from unirain_plugin.distill.options import parse_options
from unirain_plugin.distill.pipeline import Pipeline
from unirain_plugin.distill.records import read_rgb
from unirain_plugin.errors import DataError
from unirain_plugin.rain import command as synthesize_rain
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.study.files import read_json, write_json
from unirain_plugin.study.options import DataOptions, Photographs
from unirain_plugin.study.planted import Pair, plant
from unirain_plugin.support.files import write_whole
from unirain_plugin.support.png import write_png

GOOD = "rendered"
"""``source`` of a pair that was not spoilt; that of a spoilt one is its kind."""
SUMMARY = "data.json"
"""Written last: where it stands, the data are complete."""


@dataclass(frozen=True)
class DataFolder:
    """Where the parts of the data are.

    Attributes:
        root: The folder of them all.
    """

    root: Path

    @property
    def val(self) -> Path:
        """The held-out pairs, in RainRAG's layout."""
        return self.root / "val"

    def subset(self, name: str, seed: int) -> Path:
        """The manifest to train on; the random subset is another one for each seed."""
        return self.root / "subsets" / (f"random_{seed}.jsonl" if name == "random" else f"{name}.jsonl")


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
        PSNR in dB and SSIM of the held-out rainy pictures).

    Raises:
        DataError: If the photographs cannot be used or distillation leaves nothing of a rain type.
    """
    if not (folder.root / SUMMARY).is_file():
        _render(folder, options, photographs, workers)
        candidates = _spoil(folder, options)
        kept = _distil(folder, workers)
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
    """Replace a share of each type's pairs by spoilt ones; the manifest of all says which in ``source``."""
    train = folder.root / "train"
    table = scan_rainrag(str(train), find_types(str(train), list(RAIN_TYPES)))
    rng = np.random.default_rng(options.seed)
    pairs = [table[index] for index in range(len(table))]
    records = []
    for rain_type in RAIN_TYPES:
        same = [pair for pair in pairs if pair.rain_type == rain_type]
        spoilt = rng.permutation(len(same))[: round(options.bad_share * len(same))]
        kind_of = {int(place): options.bad_kinds[n % len(options.bad_kinds)] for n, place in enumerate(spoilt)}
        for place, pair in enumerate(same):
            if (kind := kind_of.get(place)) is None:
                records.append(ManifestRecord(f"train/{pair.lq}", f"train/{pair.gt}", rain_type, GOOD))
                continue
            other = same[(place + int(rng.integers(1, len(same)))) % len(same)] if len(same) > 1 else pair
            both = [Pair(read_rgb(train / p.lq), read_rgb(train / p.gt), rain_type, p.gt) for p in (pair, other)]
            bad = plant(kind, *both, rng)
            paths = [f"planted/{rain_type}/{side}/{place:04d}_{kind}.png" for side in ("input", "target")]
            for path, image in zip(paths, (bad.lq, bad.gt), strict=True):
                write_png(folder.root / path, image[..., ::-1])
            records.append(ManifestRecord(*paths, rain_type, kind))
    write_manifest(folder.root / "candidates.jsonl", records)
    return records


def _distil(folder: DataFolder, workers: int) -> list[bool]:
    """Run the distillation pipeline with its defaults; the verdict on each candidate, in their order."""
    references = sorted((folder.root / "references").glob("*/input/*.png"))
    lines = [path.relative_to(folder.root).as_posix() for path in references]
    write_whole(folder.root / "references.txt", "\n".join(lines) + "\n")
    options = {
        "name": "reproduce",
        "references": {"images": str(folder.root / "references.txt")},
        "candidates": {"manifest": str(folder.root / "candidates.jsonl")},
        "engine": {"workers": workers},
        "report": {"enabled": False},
        "output": str(folder.root / "distilled"),
    }
    Pipeline(parse_options(options, "reproduce")).run()
    return [bool(record.keep) for record in read_manifest(folder.root / "distilled" / "manifest.jsonl")]


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
    """PSNR (dB) and SSIM of the rainy inputs, means of each type."""
    result = {}
    for rain_type in RAIN_TYPES:
        folder = val / rain_type
        scores = [
            score(read_bgr(p), read_bgr(folder / "target" / p.name)) for p in sorted((folder / "input").iterdir())
        ]
        result[rain_type] = {
            "psnr": float(np.mean([s.psnr for s in scores])),
            "ssim": float(np.mean([s.ssim for s in scores])),
        }
    return result

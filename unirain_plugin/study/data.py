"""The data of a reproduction: rendered pairs of which some are spoilt, distilled, and the subsets to train on."""

import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unirain_plugin.compare.summary import score
from unirain_plugin.data.folders import find_types, scan_rainrag
from unirain_plugin.data.manifest import ManifestRecord, read_manifest, write_manifest
from unirain_plugin.distill.options import DistillOptions, parse_options
from unirain_plugin.distill.pipeline import Pipeline
from unirain_plugin.distill.records import read_rgb
from unirain_plugin.errors import DataError
from unirain_plugin.rain import command as synthesize_rain
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.study.options import DataFolder, DataOptions, ReproduceOptions, held_out_types
from unirain_plugin.study.planted import Pair, plant
from unirain_plugin.study.real import check_references, check_test_sets, list_images, write_test_sets, write_windows
from unirain_plugin.study.results import means_by_type
from unirain_plugin.support.files import write_json, write_png, write_whole

GOOD = "rendered"  # ``source`` of a pair that was not spoilt; that of a spoilt one is its kind
SUMMARY = "data.json"  # written last: where it stands, the data are complete


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def read_json(path: Path) -> Any:
    """Read a JSON file; DataError if it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); remove it to have it made anew.") from None


def check_images(options: ReproduceOptions, look: bool = True) -> dict[str, list[str]]:
    """Find what the user's folders hold; returns folder's key → SHA-256 of each image, for the records.

    ``look``: see also whether real references show rain and clean photographs none. A DataError if a folder is missing,
    holds too few or something else than it should; or a photograph is both in training and held out.
    """
    photographs = options.photographs
    if photographs is None:
        paths = {"train": sample_photos("train"), "val": sample_photos("held-out")}
    else:
        folders = {"train": photographs.train, "val": photographs.val}
        paths = {split: list_images(f"photographs: {split}", folder) for split, folder in folders.items() if folder}
    if options.references is not None:
        clean = None if photographs is None else (f"photographs: train: {photographs.train}", paths["train"])
        paths["references"] = check_references("references", options.references, clean, look)
    if options.test_sets is not None:
        paths["test_sets"] = [
            p for pairs in check_test_sets(options.test_sets, look).values() for pair in pairs for p in pair
        ]
    digests = {key: {hashlib.sha256(p.read_bytes()).hexdigest(): p for p in files} for key, files in paths.items()}
    for digest in digests["train"].keys() & digests.get("val", {}).keys():
        raise DataError(
            f"photographs: {digests['train'][digest]} and {digests['val'][digest]} are the same file; expected no "
            "photograph both in training and held out."
        )
    return {key: sorted(found) for key, found in digests.items()}


def make_data(folder: DataFolder, options: ReproduceOptions) -> dict[str, Any]:
    """Make what is missing; what a killed call left is gone on with.

    Returns the summary: ``pairs`` (rain type → kind → given and kept), ``subsets`` (name → pairs), ``rainy`` (rain type
    or test set → PSNR in dB and SSIM of the held-out rainy images; ``perfect``: how many equal the clean one, and are
    in no mean). DataError if the images cannot be used or distillation leaves nothing of a rain type.
    """
    if not (folder.root / SUMMARY).is_file():
        data = options.data
        _render(folder, options)
        candidates = _spoil(folder, data)
        write_manifest(folder.root / "candidates.jsonl", candidates)
        distilled = distil(folder.root, distil_options(folder.root, "reproduce", options.workers, data.distill or {}))
        kept = [bool(record.keep) for record in distilled]
        summary = _write_subsets(folder, candidates, kept, data.rain_types)
        summary["rainy"] = _rainy_scores(folder.val, held_out_types(options))
        write_json(folder.root / SUMMARY, summary)
    _draw_random_subsets(folder, options.data.seed, options.seeds)
    if "defaults" in options.questions.get("data", ()):
        _render_defaults(folder, options)
    return read_json(folder.root / SUMMARY)


def _render(folder: DataFolder, options: ReproduceOptions) -> None:
    """Render training pairs, references and held-out pairs, but for what the user's folders give."""
    data = options.data
    render_set(folder.root / "train", options, "train", data.train_pairs, data.seed, data.rain_scale)
    if options.references is None:
        render_set(folder.root / "references", options, "train", data.reference_pairs, data.seed + 1)
    else:
        paths = list_images("references", options.references)
        write_windows(paths, folder.root / "references", data.reference_pairs, data.train_size, data.seed)
    if options.test_sets is None:
        render_set(folder.val, options, "val", data.val_pairs, data.seed)
    else:
        write_test_sets(check_test_sets(options.test_sets, False), folder.val, data.val_pairs, data.val_size)


def render_set(
    target: Path, options: ReproduceOptions, split: str, pairs: int, seed: int, rain_scale: float | None = None
) -> None:
    """Render pairs of each photograph of a split and rain type with ``synthesize-rain``, or go on with it."""
    size = options.data.val_size if split == "val" else options.data.train_size
    source = ["--split", "train" if split == "train" else "held-out"]
    if options.photographs is not None:
        source = ["--input", str(getattr(options.photographs, split))]
    numbers = {"per-image": pairs, "size": size, "seed": seed, "workers": options.workers}
    arguments = [*source, "--output", str(target), *(f"--{name}={number}" for name, number in numbers.items())]
    arguments += ["--types", *options.data.rain_types, *(["--imports", *options.imports] if options.imports else [])]
    arguments += ["--vary-colours"] if split == "train" else []
    arguments += [] if rain_scale is None else ["--vary-rain", "--rain-scale", str(rain_scale)]
    arguments += ["--resume"] if (target / synthesize_rain.SETTINGS_FILE).is_file() else []
    synthesize_rain.main(arguments)


def _render_defaults(folder: DataFolder, options: ReproduceOptions) -> None:
    """As many pairs of each type as distillation kept, rendered with the defaults."""
    path = folder.subset("defaults", 0)
    if path.is_file():
        return
    sizes = Counter(record.rain_type for record in read_manifest(folder.subset("distilled", 0)))
    split = options.photographs
    photographs = sample_photos("train") if split is None else list_images("photographs: train", split.train)
    per_image = -(-max(sizes.values()) // len(photographs))
    render_set(folder.root / "defaults", options, "train", per_image, options.data.seed + 2)
    rng = np.random.default_rng((options.data.seed, 2))
    _write_subset(path, _drawn(good_pairs(folder.root / "defaults", folder.root), sizes, rng))


def _spoil(folder: DataFolder, options: DataOptions) -> list[ManifestRecord]:
    """Replace a share of each type's pairs by spoilt ones; returns all candidates."""
    pairs = good_pairs(folder.root / "train", folder.root, options.rain_types)
    rng = np.random.default_rng(options.seed)
    records = []
    for same in (pairs[rain_type] for rain_type in options.rain_types):
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
    prefix = train.relative_to(root) if train.is_relative_to(root) else train
    pairs: dict[str, list[ManifestRecord]] = defaultdict(list)
    for pair in scan_rainrag(str(train), find_types(str(train), list(types) if types else None)):
        paths = str(prefix / pair.lq), str(prefix / pair.gt)
        pairs[pair.rain_type].append(ManifestRecord(*paths, pair.rain_type, GOOD))
    return pairs


def plant_pair(
    root: Path, kind: str, good: ManifestRecord, other: ManifestRecord, rng: np.random.Generator, name: str
) -> ManifestRecord:
    """Spoil a pair and write it to ``root/planted``, which paths are relative to; ``source`` of its record is the kind.

    ``other``: a pair of another scene and the same rain type; ``name``: beginning of the files' names.
    """
    pairs = [Pair(read_rgb(root / p.lq), read_rgb(root / p.gt), p.rain_type, p.gt) for p in (good, other)]
    bad = plant(kind, *pairs, rng)
    paths = [f"planted/{good.rain_type}/{side}/{name}_{kind}.png" for side in ("input", "target")]
    for path, image in zip(paths, (bad.lq, bad.gt), strict=True):
        write_png(root / path, image[..., ::-1])
    return ManifestRecord(*paths, good.rain_type, kind)


def distil_options(root: Path, name: str, workers: int, options: Mapping[str, Any]) -> DistillOptions:
    """Options of distilling ``root/candidates.jsonl``, by the images listed in ``root/references.txt``.

    ``options``: further ones of the pipeline, which may be wrong (OptionError); by default no report is written.
    """
    own = {
        "name": name,
        "references": {"images": str(root / "references.txt")},
        "candidates": {"manifest": str(root / "candidates.jsonl")},
        "engine": {"workers": workers},
        "output": str(root / "distilled"),
    }
    return parse_options({"report": {"enabled": False}, **options, **own}, "distill")


def distil(root: Path, options: DistillOptions) -> list[ManifestRecord]:
    """Distil what lies in ``root`` by the rainy images below ``root/references``: the decided candidates, in order."""
    folder = root / "references"
    paths = sorted(path.relative_to(root).as_posix() for path in (*folder.glob("*/input/*"), *folder.glob("*.png")))
    write_whole(root / "references.txt", "\n".join(paths) + "\n")
    Pipeline(options).run()
    return list(read_manifest(options.output_folder / "manifest.jsonl"))


def _write_subsets(
    folder: DataFolder, candidates: list[ManifestRecord], kept: list[bool], types: Iterable[str]
) -> dict[str, Any]:
    """Write the manifests that do not depend on a run's seed; returns what there is of each kind."""
    subsets = {
        "everything": candidates,
        "distilled": [record for record, keep in zip(candidates, kept, strict=True) if keep],
        "oracle": [record for record in candidates if record.source == GOOD],
    }
    for name, records in subsets.items():
        missing = [t for t in types if not any(record.rain_type == t for record in records)]
        if missing:
            raise DataError(
                f"data: the subset '{name}' holds no pair of {', '.join(missing)}; raise train_pairs, or let the "
                "references show such rain."
            )
        _write_subset(folder.subset(name, 0), records)
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for record, keep in zip(candidates, kept, strict=True):
        entry = counts.setdefault(record.rain_type, {}).setdefault(record.source, {"given": 0, "kept": 0})
        entry["given"] += 1
        entry["kept"] += keep
    return {"pairs": counts, "subsets": {name: len(records) for name, records in subsets.items()}}


def _write_subset(path: Path, records: list[ManifestRecord]) -> None:
    """Write a manifest one folder below the data; its paths are relative to itself."""
    moved = (replace(record, lq=f"../{record.lq}", gt=f"../{record.gt}") for record in records)
    write_manifest(path, moved)


def _draw_random_subsets(folder: DataFolder, seed: int, seeds: Iterable[int]) -> None:
    """As many pairs of each type as distillation kept, drawn from all."""
    candidates: dict[str, list[ManifestRecord]] = defaultdict(list)
    for record in read_manifest(folder.root / "candidates.jsonl"):
        candidates[record.rain_type].append(record)
    sizes = Counter(record.rain_type for record in read_manifest(folder.subset("distilled", 0)))
    for run_seed in seeds:
        path = folder.subset("random", run_seed)
        if not path.is_file():
            _write_subset(path, _drawn(candidates, sizes, np.random.default_rng((seed, run_seed))))


def _drawn(
    pairs: Mapping[str, list[ManifestRecord]], sizes: Mapping[str, int], rng: np.random.Generator
) -> list[ManifestRecord]:
    return [
        pairs[rain_type][int(place)]
        for rain_type, size in sizes.items()
        for place in sorted(rng.choice(len(pairs[rain_type]), size, replace=False))
    ]


def _rainy_scores(val: Path, types: Iterable[str]) -> dict[str, dict[str, float]]:
    """PSNR (dB) and SSIM of the rainy inputs, means of each type, and how many equal the clean image."""
    scores = {}
    for rain_type in types:
        inputs = sorted((val / rain_type / "input").iterdir())
        targets = (val / rain_type / "target" / path.name for path in inputs)
        scores[rain_type] = [score(read_rgb(lq), read_rgb(gt)) for lq, gt in zip(inputs, targets, strict=True)]
    values = {m: {t: [getattr(s, m) for s in of_type] for t, of_type in scores.items()} for m in ("psnr", "ssim")}
    means = means_by_type(values)
    return {t: {key: means[key].get(t, 0) for key in ("psnr", "ssim", "perfect")} for t in scores}

"""The demo's distillation step: plant bad pairs among the rendered ones, distil them away, put the rest into LMDBs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from unirain_plugin.data.manifest import ManifestRecord, read_manifest, write_manifest
from unirain_plugin.data.rainrag_folder import find_types, scan_rainrag
from unirain_plugin.distill.options import parse_options
from unirain_plugin.distill.pipeline import Pipeline
from unirain_plugin.distill.records import read_rgb
from unirain_plugin.distill.report import REPORT
from unirain_plugin.preparation import create_lmdb
from unirain_plugin.rain import command as synthesize_rain
from unirain_plugin.study.planted import Pair, plant
from unirain_plugin.support.files import write_whole
from unirain_plugin.support.png import write_png

KINDS = ("misaligned_4px", "wrong_scene", "still_rainy", "flat_rain", "swapped", "duplicate")
GOOD = "rendered"


def distil(train: Path, output: Path, seed: int = 0, workers: int = 2) -> str:
    """Plant, distil, write LMDBs.

    The references that stand in for real rain are rendered anew, with another seed.

    Args:
        train: Folder in RainRAG's layout with the good pairs.
        output: Folder for everything; the LMDBs are in ``output/lmdb``.
        seed: Chooses and spoils pairs.
        workers: Processes.

    Returns:
        A table of what was planted and what was kept, to print.

    Raises:
        UniRainError: As the pipeline.
    """
    records = _candidates(train, output, seed)
    write_manifest(output / "candidates.jsonl", records)
    types = sorted({record.rain_type for record in records})
    rain = ["--types", *types, "--split", "train", "--per-image", "2", "--size", "192", "--seed", str(seed + 1)]
    synthesize_rain.main([*rain, "--output", str(output / "real")])
    references = sorted(path.relative_to(output).as_posix() for path in (output / "real").glob("*/input/*"))
    write_whole(output / "references.txt", "\n".join(references) + "\n")
    options = {
        "name": "demo",
        "references": {"images": str(output / "references.txt")},
        "candidates": {"manifest": str(output / "candidates.jsonl")},
        "retrieval": {"k1": 40, "k2": 10, "k3": 3},
        "engine": {"workers": workers},
        "output": str(output / "distilled"),
        "shard_size": 64,
    }
    options["report"] = {"enabled": _has_jinja2()}
    outcome = Pipeline(parse_options(options, "demo")).run()
    manifest = output / "distilled" / "manifest.jsonl"
    create_lmdb.main(["--manifest", str(manifest), "--keep-only", "--output", str(output / "lmdb")])
    report = outcome.folder / REPORT
    return _table(manifest) + (f"\nReport: {report}\n" if report.exists() else "\n")


def _candidates(train: Path, output: Path, seed: int) -> list[ManifestRecord]:
    """All good pairs, and one spoilt pair of each kind for each type, ``source`` saying which is which."""
    table = scan_rainrag(str(train), find_types(str(train), None))
    good = [table[index] for index in range(len(table))]
    records = [ManifestRecord(str(train / p.lq), str(train / p.gt), p.rain_type, GOOD) for p in good]
    rng = np.random.default_rng(seed)
    for rain_type in dict.fromkeys(pair.rain_type for pair in good):
        same = [pair for pair in good if pair.rain_type == rain_type]
        for number, kind in enumerate(KINDS * max(1, len(same) // 30)):
            first, other = (same[int(place)] for place in rng.choice(len(same), 2, replace=False))
            pairs = [Pair(read_rgb(train / p.lq), read_rgb(train / p.gt), rain_type, p.gt) for p in (first, other)]
            spoilt = plant(kind, *pairs, rng)
            paths = [output / "planted" / rain_type / side / f"{number:03d}_{kind}.png" for side in ("input", "target")]
            for path, image in zip(paths, (spoilt.lq, spoilt.gt), strict=True):
                write_png(path, image[..., ::-1])
            records.append(ManifestRecord(str(paths[0]), str(paths[1]), rain_type, kind))
    return records


def _table(manifest: Path) -> str:
    """Kept and all, by source."""
    kept: Counter[str] = Counter()
    every: Counter[str] = Counter()
    for record in read_manifest(manifest):
        every[record.source] += 1
        kept[record.source] += bool(record.keep)
    rows = [f"{name:<18} {every[name]:>6} {kept[name]:>6}" for name in every]
    return "\n".join([f"{'pairs':<18} {'given':>6} {'kept':>6}", *rows])


def _has_jinja2() -> bool:
    from importlib.util import find_spec

    return find_spec("jinja2") is not None

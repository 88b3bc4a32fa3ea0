"""The demo's data: rendered rain, bad pairs planted among the good ones, distillation, LMDBs of what was kept."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import yaml

from unirain_plugin import synthesize_rain
from unirain_plugin.compare.scores import read_bgr
from unirain_plugin.data.commands import create_lmdb
from unirain_plugin.data.manifest import read_manifest
from unirain_plugin.distill import __main__ as distill
from unirain_plugin.distill.planted import Pair, plant
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.resources import option_file

PLANTED = (
    "misaligned_4px",
    "wrong_scene",
    "still_rainy",
    "blurred",
    "blocky",
    "exposure_shift",
    "swapped",
    "duplicate",
)
"""Kinds of bad pairs that are planted; the file names tell them, the voters do not see file names."""

_MARK = "planted"


def render(folder: Path, per_image: int, size: int, seed: int) -> None:
    """Write ``candidates``, ``references`` and ``val``; the held-out photographs are in ``val`` alone.

    The references stand for unlabelled real rain: other windows, other rain, and only their rainy pictures are used.
    """
    common = ["--types", *RAIN_TYPES]
    train = [*common, "--split", "train", "--size", str(size), "--vary-colours"]
    synthesize_rain.main(
        [*train, "--per-image", str(per_image), "--seed", str(seed), "--output", str(folder / "candidates")]
    )
    synthesize_rain.main([*train, "--per-image", "6", "--seed", str(seed + 1), "--output", str(folder / "references")])
    held_out = [*common, "--split", "held-out", "--per-image", "3", "--size", "256"]
    synthesize_rain.main([*held_out, "--seed", str(seed), "--output", str(folder / "val")])


def plant_bad_pairs(candidates: Path, share: float, seed: int) -> int:
    """Add spoilt copies of pairs to a folder in RainRAG's layout, ``share`` for each good one; return their number."""
    rng = np.random.default_rng(seed)
    planted = 0
    for rain_type in RAIN_TYPES:
        names = sorted(path.name for path in (candidates / rain_type / "input").iterdir())
        for index in range(round(share * len(names))):
            kind = PLANTED[index % len(PLANTED)]
            name, other = rng.choice(names, size=2, replace=False)
            while _scene(other) == _scene(name):  # another photograph, for a wrong ground truth
                other = rng.choice(names)
            bad = plant(kind, _read(candidates, rain_type, name), _read(candidates, rain_type, other), rng)
            _write(candidates, bad, f"{_MARK}-{kind}-{index:03d}.png")
            planted += 1
    return planted


def distil(data: Path, output: Path) -> Path:
    """Distil ``data/candidates`` against ``data/references``; return the manifest with the decisions."""
    options = yaml.safe_load(option_file("distill/offline.yml").read_text(encoding="utf-8"))
    options["references"] = {"images": str(_list_inputs(data / "references")), "rain_types_from_folders": True}
    options["candidates"] = {"dataroot": str(data / "candidates"), "source": "demo"}
    options["output"] = str(output)
    file = output.with_suffix(".yml")
    file.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
    distill.main(["-opt", str(file)])
    return output / "manifest.jsonl"


def describe_decisions(manifest: Path) -> str:
    """How many planted pairs were rejected, by kind, and how many good ones were lost, in words."""
    rejected, total = Counter(), Counter()
    for record in read_manifest(manifest):
        stem = Path(record.lq).stem
        kind = stem.split("-")[1] if stem.startswith(f"{_MARK}-") else "good"
        total[kind] += 1
        rejected[kind] += not record.keep
    bad = sum(total[kind] for kind in PLANTED)
    found = sum(rejected[kind] for kind in PLANTED)
    kinds = ", ".join(f"{kind} {rejected[kind]}/{total[kind]}" for kind in PLANTED)
    return (
        f"Rejected: {found} of {bad} planted bad pairs ({kinds}); "
        f"{rejected['good']} of {total['good']} good pairs were lost.\n"
    )


def make_data(output: Path, per_image: int, size: int, seed: int) -> None:
    """Everything up to training: ``output/lmdb`` holds the training pairs, ``output/data/val`` the held-out ones."""
    data = output / "data"
    render(data, per_image, size, seed)
    planted = plant_bad_pairs(data / "candidates", 0.2, seed)
    sys.stdout.write(f"Planted {planted} bad pairs among the candidates; distilling …\n")
    manifest = distil(data, output / "distilled")
    sys.stdout.write(describe_decisions(manifest))
    create_lmdb.main(["--manifest", str(manifest), "--keep-only", "--output", str(output / "lmdb")])


def _list_inputs(references: Path) -> Path:
    """A list of the rainy pictures alone, with their types, which only measure the retrieval."""
    listing = references / "references.jsonl"
    lines = (
        json.dumps({"image": f"{rain_type}/input/{path.name}", "rain_type": rain_type}) + "\n"
        for rain_type in RAIN_TYPES
        for path in sorted((references / rain_type / "input").iterdir())
    )
    listing.write_text("".join(lines), encoding="utf-8")
    return listing


def _scene(name: str) -> str:
    return name.rpartition("_")[0]


def _read(root: Path, rain_type: str, name: str) -> Pair:
    lq, gt = (read_bgr(root / rain_type / folder / name)[..., ::-1] for folder in ("input", "target"))
    return Pair(np.ascontiguousarray(lq), np.ascontiguousarray(gt), rain_type, _scene(name))


def _write(root: Path, pair: Pair, name: str) -> None:
    for folder, image in (("input", pair.lq), ("target", pair.gt)):
        cv2.imencode(".png", image[..., ::-1])[1].tofile(root / pair.rain_type / folder / name)

"""``python -m unirain_plugin demo``: the main job end to end, on photographs that scikit-image installs."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from unirain_plugin.compare.figure import Row, comparison_grid
from unirain_plugin.compare.summary import (
    Triplet,
    TypeScore,
    find_triplets,
    format_table,
    read_bgr,
    score,
    score_by_type,
)
from unirain_plugin.data.manifest import write_manifest
from unirain_plugin.distill.report import REPORT
from unirain_plugin.errors import OptionError, UniRainError
from unirain_plugin.preparation.command import create_lmdb
from unirain_plugin.rain import command as synthesize_rain
from unirain_plugin.rain_types import RAIN_TYPES, RainType
from unirain_plugin.study.data import distil, distil_options, good_pairs, plant_pair
from unirain_plugin.support.files import write_png
from unirain_plugin.support.resources import option_file

PLANTED = ("misaligned_4px", "wrong_scene", "still_rainy", "flat_rain", "swapped", "duplicate")
"""Kinds of bad pairs that the demo plants."""
TRAIN_OPTIONS = "train/train_UniRain-Tiny_demo.yml"
TEST_OPTIONS = "test/test_UniRain-Tiny_demo.yml"
SUFFIX = "restored"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m unirain_plugin demo", description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("demo"), help="folder for everything it writes (%(default)s)"
    )
    parser.add_argument("--iterations", type=int, help="training iterations (default: what the option file says)")
    parser.add_argument("--per-image", type=int, default=30, help="training pairs a photograph and type (%(default)s)")
    parser.add_argument("--size", type=int, default=192, help="side of the training images in pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the rain (%(default)s)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the demo. Exit status 1 if a rain type's restored PSNR does not beat its rainy input."""
    args = build_parser().parse_args(argv)
    if (args.output / "data").exists():
        raise OptionError(f"--output {args.output}: holds an earlier demo; remove the folder or name another.")
    output = args.output.resolve()
    started = time.monotonic()
    _say("1/4 Rendering four types of rain onto photographs, planting bad pairs, distilling them away")
    make_data(output / "data", args.per_image, args.size, args.seed)
    sys.stdout.write(plant_and_distil(output / "data/train", output / "distillation", args.seed) + "\n")
    _say("2/4 Training UniRain-Tiny through BasicSR's train_pipeline")
    overrides = [
        f"datasets:train:dataroot={output / 'distillation/lmdb'}",
        f"datasets:val:dataroot={output / 'data/val'}",
    ]
    if args.iterations is not None:
        overrides += [f"train:total_iter={args.iterations}", f"train:scheduler:periods=[{args.iterations}]"]
    _run("unirain_plugin.train", TRAIN_OPTIONS, output, overrides)
    _say("3/4 Restoring the held-out images through BasicSR's test_pipeline")
    weights = output / "experiments" / Path(TRAIN_OPTIONS).stem / "models" / "net_g_latest.pth"
    overrides = [f"datasets:test:dataroot={output / 'data/val'}", f"path:pretrain_network_g={weights}"]
    _run("unirain_plugin.test", TEST_OPTIONS, output, overrides)
    _say("4/4 Results on held-out photographs")
    results = output / "results" / Path(TEST_OPTIONS).stem / "visualization" / "held-out"
    triplets = find_triplets(output / "data/val", results, SUFFIX, RAIN_TYPES)
    rows = score_by_type(triplets)
    sys.stdout.write(format_table(rows) + "\n\n")
    sys.stdout.write("For comparison, the trained weights that the package ships, on the same images:\n")
    shipped = restore_with_shipped_weights(output / "data/val", output / "shipped_weights")
    sys.stdout.write(format_table(score_by_type(shipped)) + "\n\n")
    sys.stdout.write(f"Image: {write_grid(triplets, output / 'demo.png')}\n")
    sys.stdout.write(f"Weights: {weights}\nTime: {time.monotonic() - started:.0f} s\n")
    return report_losers(rows)


def make_data(folder: Path, per_image: int, size: int, seed: int) -> None:
    """Write ``train`` and ``val`` in RainRAG's layout; the held-out photographs are rendered thrice, larger."""
    common = ["--types", *RAIN_TYPES, "--seed", str(seed)]
    train = ["--split", "train", "--per-image", str(per_image), "--size", str(size), "--vary-colours"]
    synthesize_rain.main([*common, *train, "--output", str(folder / "train")])
    held_out = ["--split", "held-out", "--per-image", "3", "--size", "256"]
    synthesize_rain.main([*common, *held_out, "--output", str(folder / "val")])


def plant_and_distil(train: Path, output: Path, seed: int = 0, workers: int = 2) -> str:
    """Plant bad pairs among the rendered ones, distil them away, put what is kept into LMDBs.

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
    rng = np.random.default_rng(seed)
    good = good_pairs(train, output)
    records = [pair for pairs in good.values() for pair in pairs]
    for same in good.values():
        for number, kind in enumerate(PLANTED * max(1, len(same) // 30)):
            pair, other = (same[int(place)] for place in rng.choice(len(same), 2, replace=False))
            records.append(plant_pair(output, kind, pair, other, rng, f"{number:03d}"))
    write_manifest(output / "candidates.jsonl", records)
    rain = ["--types", *sorted(good), "--split", "train", "--per-image", "2", "--size", "192", "--seed", str(seed + 1)]
    synthesize_rain.main([*rain, "--output", str(output / "references")])
    settings = {
        "retrieval": {"k1": 40, "k2": 10, "k3": 3},
        "shard_size": 64,
        "report": {"enabled": find_spec("jinja2") is not None},
    }
    decided = distil(output, distil_options(output, "demo", workers, settings))
    manifest = output / "distilled" / "manifest.jsonl"
    create_lmdb(["--manifest", str(manifest), "--keep-only", "--output", str(output / "lmdb")])
    given = Counter(record.source for record in decided)
    kept = Counter(record.source for record in decided if record.keep)
    lines = [f"{'pairs':<18} {'given':>6} {'kept':>6}"]
    lines += [f"{source:<18} {count:>6} {kept[source]:>6}" for source, count in given.items()]
    report = output / "distilled" / REPORT
    return "\n".join(lines) + (f"\nReport: {report}\n" if report.exists() else "\n")


def restore_with_shipped_weights(data: Path, results: Path) -> list[Triplet]:
    """Restore every rainy image below ``data`` into ``results/{type}/NAME_restored.png``."""
    from unirain_plugin import load, restore

    network = load()
    for rain_type in RAIN_TYPES:
        (results / rain_type).mkdir(parents=True)
        for path in sorted((data / rain_type / "input").iterdir()):
            restored = restore(network, read_bgr(path)[..., ::-1])
            write_png(results / rain_type / f"{path.stem}_{SUFFIX}.png", restored[..., ::-1])
    return find_triplets(data, results, SUFFIX, RAIN_TYPES)


def write_grid(triplets: list[Triplet], path: Path) -> Path:
    """Write the grid with the first held-out image of every type."""
    first = {t.rain_type: t for t in reversed(triplets)}
    rows = []
    for rain_type in RAIN_TYPES:
        triplet = first[rain_type]
        lq, restored, gt = (read_bgr(p) for p in (triplet.lq, triplet.restored, triplet.gt))
        psnr = score(lq, gt).psnr, score(restored, gt).psnr
        rows.append(Row(RainType[rain_type.upper()].description, lq, restored, gt, *psnr))
    write_png(path, comparison_grid(rows)[..., ::-1])
    return path


def report_losers(rows: list[TypeScore]) -> int:
    """Say which types did not gain; the exit status."""
    losers = [r.rain_type for r in rows if r.restored.psnr <= r.rainy.psnr]
    if losers:
        sys.stderr.write(f"warning: restored PSNR does not beat the rainy input on: {', '.join(losers)}\n")
    return 1 if losers else 0


def _run(module: str, options: str, root: Path, overrides: list[str]) -> None:
    command = [sys.executable, "-m", module, "-opt", str(option_file(options)), "--root", str(root)]
    command += ["--force_yml", *overrides]
    sys.stdout.write(f"$ {shlex.join(['python', *command[1:]])}\n")
    sys.stdout.flush()
    status = subprocess.run(command).returncode
    if status != 0:
        raise UniRainError(f"{module} stopped with exit status {status}; its own message stands above.")


def _say(text: str) -> None:
    sys.stdout.write(f"\n=== {text}\n")
    sys.stdout.flush()

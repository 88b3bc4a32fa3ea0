"""``python -m unirain_plugin demo``: the main job end to end, on photographs that scikit-image installs."""

import argparse
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from unirain_plugin.compare.options import INPUT, CompareOptions, CostOptions, ModelOptions, SetOptions
from unirain_plugin.compare.report import markdown
from unirain_plugin.compare.run import run
from unirain_plugin.compare.summary import Outcome
from unirain_plugin.data.manifest import write_manifest
from unirain_plugin.distill.report import REPORT
from unirain_plugin.errors import OptionError, UniRainError
from unirain_plugin.preparation.command import create_lmdb
from unirain_plugin.rain import command as synthesize_rain
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.study.data import distil, distil_options, good_pairs, plant_pair, say
from unirain_plugin.support.resources import option_file

PLANTED = ("misaligned_4px", "wrong_scene", "still_rainy", "flat_rain", "swapped", "duplicate")
"""Kinds of bad pairs that the demo plants."""
TRAIN_OPTIONS = "train/train_UniRain-Tiny_demo.yml"
TEST_OPTIONS = "test/test_UniRain-Tiny_demo.yml"
SUFFIX = "restored"
TRAINED = "trained here"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m unirain_plugin demo", description=__doc__)
    add = parser.add_argument
    add("--output", type=Path, default=Path("demo"), help="folder for everything it writes (%(default)s)")
    add("--iterations", type=int, help="training iterations (default: what the option file says)")
    add("--per-image", type=int, default=30, help="training pairs a photograph and type (%(default)s)")
    add("--size", type=int, default=192, help="side of the training images in pixels (%(default)s)")
    add("--seed", type=int, default=0, help="seed of the rain (%(default)s)")
    text = "some of drs drd nrs nrd snow haze (default: the four types of rain)"
    add("--types", nargs="+", default=RAIN_TYPES, metavar="TYPE", help=text)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the demo. Exit status 1 if a rain type's restored PSNR does not beat its rainy input."""
    args = build_parser().parse_args(argv)
    if (args.output / "data").exists():
        raise OptionError(f"--output {args.output}: holds an earlier demo; remove the folder or name another.")
    output, listed = args.output.resolve(), f"[{', '.join(args.types)}]"
    started = time.monotonic()
    say(f"\n=== 1/4 Rendering {', '.join(args.types)} onto photographs, planting bad pairs, distilling them away")
    make_data(output / "data", args.per_image, args.size, args.seed, args.types)
    sys.stdout.write(plant_and_distil(output / "data/train", output / "distillation", args.seed) + "\n")
    say("\n=== 2/4 Training UniRain-Tiny through BasicSR's train_pipeline")
    overrides = [
        f"datasets:train:dataroot={output / 'distillation/lmdb'}",
        f"datasets:val:dataroot={output / 'data/val'}",
        *(f"{section}:rain_types={listed}" for section in ("datasets:train", "datasets:val", "train:pixel_opt")),
    ]
    if set(args.types) - set(RAIN_TYPES):  # haze's squared error would have every image darkened
        overrides += ["train:pixel_opt:mode=equal", "train:pixel_opt:base:type=LogMSELoss"]
        overrides += ["train:pixel_opt:base:loss_weight=1.0"]
    if args.iterations is not None:
        overrides += [f"train:total_iter={args.iterations}", f"train:scheduler:periods=[{args.iterations}]"]
    _run("unirain_plugin.train", TRAIN_OPTIONS, output, overrides)
    say("\n=== 3/4 Restoring the held-out images through BasicSR's test_pipeline")
    weights = output / "experiments" / Path(TRAIN_OPTIONS).stem / "models" / "net_g_latest.pth"
    overrides = [f"datasets:test:dataroot={output / 'data/val'}", f"path:pretrain_network_g={weights}"]
    overrides += [f"datasets:test:rain_types={listed}"]
    _run("unirain_plugin.test", TEST_OPTIONS, output, overrides)
    say("\n=== 4/4 Results on held-out photographs")
    results = output / "results" / Path(TEST_OPTIONS).stem / "visualization" / "held-out"
    options = comparison(output, results, args.types)
    outcome = run(options, bar=False)
    sys.stdout.write(markdown(outcome, options) + "\n" + "".join(f"{path}\n" for path in outcome.files))
    sys.stdout.write(f"Weights: {weights}\nTime: {time.monotonic() - started:.0f} s\n")
    return report_losers(outcome)


def make_data(folder: Path, per_image: int, size: int, seed: int, types: Sequence[str] = RAIN_TYPES) -> None:
    """Write ``train`` and ``val`` in RainRAG's layout; the held-out photographs are rendered thrice, larger."""
    common = ["--types", *types, "--seed", str(seed)]
    train = ["--split", "train", "--per-image", str(per_image), "--size", str(size), "--vary-colours"]
    synthesize_rain.main([*common, *train, "--output", str(folder / "train")])
    held_out = ["--split", "held-out", "--per-image", "3", "--size", "256"]
    synthesize_rain.main([*common, *held_out, "--output", str(folder / "val")])


def plant_and_distil(train: Path, output: Path, seed: int = 0, workers: int = 2) -> str:
    """Plant bad pairs among the rendered ones in ``train``, distil them away, put what is kept into ``output/lmdb``.

    The references that stand in for real rain are rendered anew, with another seed. Returns a table of what was planted
    and what was kept.
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


def comparison(output: Path, results: Path, types: Sequence[str] = RAIN_TYPES) -> CompareOptions:
    """Options of comparing restored images (``{type}/NAME_restored.png``) with those of the shipped weights."""
    models = [
        ModelOptions(TRAINED, results=results, suffix=f"_{SUFFIX}"),
        ModelOptions("shipped weights", weights="default"),
    ]
    test_sets = [SetOptions("held-out", dataroot=output / "data/val", rain_types=list(types))]
    cost = CostOptions(enabled=False)
    return CompareOptions("demo", models, test_sets, reference=INPUT, cost=cost, output=output / "comparison")


def report_losers(outcome: Outcome) -> int:
    (summary,) = outcome.summaries
    restored, rainy = (summary.values[name] for name in (TRAINED, INPUT))
    types = [r.rain_type for r in outcome.comparison.results if r.model == INPUT]
    values = {name: (restored[name]["psnr"], rainy[name]["psnr"]) for name in types}
    losers = [name for name, (after, before) in values.items() if after is None or after <= before]
    if losers:
        sys.stderr.write(f"warning: restored PSNR does not beat the rainy input on: {', '.join(losers)}\n")
    return 1 if losers else 0


def _run(module: str, options: str, root: Path, overrides: list[str]) -> None:
    command = [sys.executable, "-m", module, "-opt", str(option_file(options)), "--root", str(root)]
    command += ["--force_yml", *overrides]
    say(f"$ {shlex.join(['python', *command[1:]])}")
    status = subprocess.run(command).returncode
    if status != 0:
        raise UniRainError(f"{module} stopped with exit status {status}; its own message stands above.")

"""``python -m unirain_plugin adapt``: fits trained weights to a user's own camera and rain.

From photographs of the user's rain (unpaired), clean photographs, and a handful of own pairs where there are some:
renders rain whose parameters are chosen for looking like the photographs, distils the pairs, fine-tunes for a chosen
time, and saves the weights only if they are better on pairs that were held out. Called again after an interruption, it
goes on.
"""

import argparse
import copy
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from unirain_plugin import load, restore
from unirain_plugin.checkpoints.weights import write_weights
from unirain_plugin.data.folders import types_in_order
from unirain_plugin.data.manifest import ManifestRecord, read_manifest, write_manifest
from unirain_plugin.distill.describers.rain_cues import rain_cues
from unirain_plugin.distill.records import check_same_size, read_rgb
from unirain_plugin.distill.voters.findings import FEWEST
from unirain_plugin.distill.voters.likeness import VIEWS, Known
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.inference.loading import weights_path
from unirain_plugin.metrics.psnr_ssim import finite_mean, psnr
from unirain_plugin.options.yaml_loader import read_option_file
from unirain_plugin.rain.pair_files import cut, read_photo
from unirain_plugin.rain.params import REAL_RAIN
from unirain_plugin.rain.render import render_rain
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.rain.variation import vary_colours
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.runs.run import RunArguments
from unirain_plugin.runs.training import TrainingRun
from unirain_plugin.study import real
from unirain_plugin.study.benchmarks.cli import interleaved
from unirain_plugin.study.data import distil, distil_options, good_pairs, read_json, say
from unirain_plugin.study.options import merged
from unirain_plugin.study.planted import other_rain
from unirain_plugin.support.files import claim_folder, sole_user, write_json, write_png, write_whole
from unirain_plugin.support.interruptions import resumable
from unirain_plugin.support.packages import import_own
from unirain_plugin.support.resources import option_file
from unirain_plugin.support.spec import plain

RESULT = "weights.safetensors"
LATEST = Path("experiments", "adapt", "models", "net_g_latest.pth")  # written last by a training
BASE = "train/train_UniRain-Tiny_demo.yml"
FALL = 0.3  # largest loss on other rain, dB, for which a gain on one's own is taken
MANY = 8  # with fewer own pairs a quarter of each image is held out, with more a quarter of the pairs
GAIN = 0.05  # least gain on one's own rain, dB, for which weights are saved
SHARES = (1.0, 0.75, 0.5, 0.25)  # how far from the old weights to the fine-tuned ones; the best of these is taken
_REACH, _WIDTH = 1.5, 0.4
STRICTNESS = 0.4
"""Of the voters: rendered pairs have no defects of a camera, and the usual limits take a darkened scene for one."""
_SIDES = ("input", "target")


@dataclass(frozen=True)
class Adaptation:
    """What is adapted to what."""

    output: Path  # folder for everything
    rainy: Path | None = None  # folder of photographs of the user's rain, or None
    clean: Path | None = None  # folder of clean photographs; None takes those that scikit-image installs
    pairs: Path | None = None  # folder of own pairs, ``input`` and ``target``, or None
    weights: Path | None = None  # weights to begin with; None takes those that the package ships
    minutes: float = 15.0  # time to fine-tune for
    images: int = 400  # rendered pairs to choose from, and to train on beside them
    size: int = 160  # side of a rendered image, pixels
    seed: int = 0  # of everything drawn
    workers: int = 1  # processes of the distillation
    imports: Sequence[str] = ()  # modules of a user's own that register the network

    @property
    def data(self) -> Path:
        return self.output / "data"

    @property
    def crop(self) -> int:
        return min(128, self.size) // 8 * 8

    @property
    def held_out(self) -> Path:
        """Folder of the pairs that are measured on: ``fitted``, ``pairs``, ``other``."""
        return self.output / "held_out"


@dataclass(frozen=True)
class Draw:
    """Rain of one day: ranges of the renderer, drawn around one of its kinds by a seed of its own."""

    rain_type: str
    kind: int
    seed: int

    def render(self, photo: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rainy and clean window of a photograph, (size, size, 3) uint8 RGB."""
        params = other_rain(REAL_RAIN[self.rain_type][self.kind], np.random.default_rng(self.seed), _REACH, _WIDTH)
        window = cut(photo, (size, size), rng)
        pair = render_rain(vary_colours(window, rng) if rng.random() < 0.5 else window, self.rain_type, rng, params)
        return pair.lq, pair.gt


@dataclass(frozen=True)
class Inputs:
    """The user's files: photographs of rain, clean ones for training and held out, own pairs likewise."""

    rainy: list[Path]
    clean: tuple[list[Path], list[Path]]
    pairs: tuple[list[tuple[Path, Path]], list[tuple[Path, Path]]]

    def digests(self) -> list[str]:
        pairs = [path for side in self.pairs for pair in side for path in pair]
        paths = [*self.rainy, *self.clean[0], *self.clean[1], *pairs]
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="adapt", description=__doc__.split("\n\n", 1)[1], allow_abbrev=False)
    add = parser.add_argument
    add("--rainy", type=Path, metavar="DIR", help=f"photographs of your rain, at least {FEWEST}")
    add("--clean", type=Path, metavar="DIR", help="clean photographs of the same camera, at least 4 (default: those "
        "that scikit-image installs)")  # fmt: skip
    add("--pairs", type=Path, metavar="DIR", help="own pairs, DIR/input and DIR/target with equal names, at least 2")
    add("--output", type=Path, metavar="DIR", required=True, help=f"folder for everything; the weights: DIR/{RESULT}")
    add("--weights", type=Path, metavar="FILE", help="weights to begin with (default: those that the package ships)")
    add("--imports", nargs="+", default=(), metavar="MODULE", help="modules that register your network")
    add("--minutes", type=float, default=15.0, help="time to fine-tune for (default: 15)")
    add("--images", type=int, default=400, metavar="N", help="rendered pairs to choose from (default: 400)")
    add("--size", type=int, default=160, metavar="PX", help="side of a rendered image (default: 160)")
    add("--seed", type=int, default=0, help="seed, 0 or more (default: 0)")
    add("--workers", type=int, default=1, metavar="N", help="processes of the distillation (default: 1)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Exit status 1 if the weights were not better and nothing was saved."""
    task = Adaptation(**vars(build_parser().parse_args(argv)))
    import_own(task.imports)
    inputs = check(task)
    with resumable("the same command goes on from here"):
        return adapt(task, inputs)


def check(task: Adaptation) -> Inputs:
    """Look at arguments (OptionError) and at what the folders hold (DataError) before anything is made."""
    for option, value, least in (("images", task.images, 16), ("size", task.size, 64), ("seed", task.seed, 0),
                                 ("workers", task.workers, 1)):  # fmt: skip
        if value < least:
            raise OptionError(f"--{option}: found {value}; expected at least {least}.")
    if not 0 < task.minutes < float("inf"):
        raise OptionError(f"--minutes: found {task.minutes}; expected a time above 0.")
    if task.rainy is None and task.pairs is None:
        raise OptionError("--rainy, --pairs: neither is given; expected photographs of your rain, or pairs, or both.")
    clean = [*sample_photos("train"), *sample_photos("held-out")]
    looked_at = None
    if task.clean is not None:
        clean = real.list_images("--clean", task.clean, 4)
        looked_at = f"--clean: {task.clean}", clean
    rainy: list[Path] = []
    if task.rainy is not None:
        rainy = real.check_references("--rainy", task.rainy, looked_at)
    else:
        real.check_rain_and_clean(None, looked_at)
    for path in clean:
        if min(read_photo(path, ("depth16", "exif", "cmyk", "alpha", "grey")).shape[:2]) < task.size:
            raise DataError(f"--clean: {path}: is smaller than --size {task.size}.")
    pairs: list[tuple[Path, Path]] = []
    if task.pairs is not None:
        pairs = real.list_pairs("--pairs", task.pairs)
        if len(pairs) < 2:
            raise DataError(f"--pairs: {task.pairs}: holds {len(pairs)} pair; at least 2 are needed.")
        real.check_direction(f"--pairs: {task.pairs}", pairs)
        for lq, _ in pairs:
            sides = sorted(read_rgb(lq).shape[:2])
            if sides[0] < task.crop or sides[1] < task.crop * 4 / 3:
                raise DataError(f"--pairs: {lq}: has {sides[1]}×{sides[0]} pixels; at least {-(-task.crop * 4 // 3)}×"
                                f"{task.crop} are needed.")  # fmt: skip
    return Inputs(rainy, _split(clean), (pairs, pairs) if len(pairs) < MANY else _split(pairs))


def _split(items: list[Any]) -> tuple[list[Any], list[Any]]:
    held = items[3::4] or items[-1:]
    return [item for item in items if item not in held], held


def adapt(task: Adaptation, inputs: Inputs) -> int:
    """Make data, train, measure, save; what is finished is not done again. The exit status."""
    try:
        given = task.weights and weights_path(task.weights)
        weights = "shipped" if given is None else hashlib.sha256(given.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"--weights {task.weights}: cannot be read: {error.strerror}.") from None
    origin = {
        "inputs": hashlib.sha256("".join(inputs.digests()).encode()).hexdigest(), "weights": weights,
        **{key: str(getattr(task, key)) for key in ("minutes", "images", "size", "seed")},
    }  # fmt: skip
    claim_folder(str(task.output), origin, "was made with other images, weights or options; name another --output.")
    with sole_user(task.output, "another call of this command is at work there."):
        rainy = inputs.rainy or [pair[0] for pair in inputs.pairs[0]]
        counts = Counter(rain_type_of(read_rgb(path)) for path in real.evenly(rainy, 40))
        counts = {t: counts[t] for t in RAIN_TYPES if counts[t] >= 0.1 * counts.total()}
        types = {t: count / sum(counts.values()) for t, count in counts.items()}
        say(f"1/3 rendering rain like yours ({', '.join(f'{t} {share:.0%}' for t, share in types.items())})")
        make_data(task, inputs, types)
        say(f"2/3 fine-tuning for {task.minutes:g} minutes")
        fine_tune(task)
        say("3/3 measuring on pairs that were held out")
        return judge(task)


def rain_type_of(image: np.ndarray) -> str:
    """The rain type that an image, (H, W, 3) uint8 RGB, shows by its cues."""
    cues = rain_cues(image)
    return ("n" if cues.night >= 0.5 else "d") + ("rs" if cues.streaks >= 0.5 else "rd")


def make_data(task: Adaptation, inputs: Inputs, types: dict[str, float]) -> None:
    manifest = task.data / "train.jsonl"
    if manifest.is_file():
        return
    anything = [Draw(t, k, seed) for t in RAIN_TYPES for k in range(len(REAL_RAIN[t])) for seed in range(4)]
    records = render(task.data / "other", inputs.clean[0], anything, task.images // 2, task)
    measured = max(4, task.images // 10)
    render(task.held_out / "other", inputs.clean[1], anything, measured, replace(task, seed=task.seed + 1))
    records = [replace(record, lq=f"other/{record.lq}", gt=f"other/{record.gt}", source="other") for record in records]
    if inputs.rainy:
        real.write_windows(
            inputs.rainy, task.data / "references", max(1, min(4, 100 // len(inputs.rainy))), task.size, task.seed
        )
        draws = fit(task, inputs, types)
        fitted = render(task.data / "fitted", inputs.clean[0], draws, task.images, task)
        render(task.held_out / "fitted", inputs.clean[1], draws, measured, replace(task, seed=task.seed + 1))
        candidates = [replace(record, lq=f"fitted/{record.lq}", gt=f"fitted/{record.gt}") for record in fitted]
        write_manifest(task.data / "candidates.jsonl", candidates)
        voters = [{"type": name, "strictness": STRICTNESS} for name in ("realism", "pair_consistency", "gt_quality")]
        kept = distil(task.data, distil_options(task.data, "adapt", task.workers, {"voters": voters}))
        kept = [record for record, one in zip(candidates, kept, strict=True) if one.keep]
        say(f"distillation keeps {len(kept)} of {len(candidates)} rendered pairs")
        if len(kept) < FEWEST:
            raise DataError(
                f"--rainy {task.rainy}: only {len(kept)} of {len(candidates)} rendered pairs are sound and look like "
                f"these photographs; at least {FEWEST} are needed: raise --images, or give more photographs of rain."
            )
        records += [replace(record, source="fitted") for record in kept]
    parts = (slice(0, 0.75), slice(0.75, 1)) if inputs.pairs[0] == inputs.pairs[1] else (slice(0, 1), slice(0, 1))
    own = copy_pairs(task.data / "pairs", inputs.pairs[0], parts[0])
    records += [replace(record, lq=f"pairs/{record.lq}", gt=f"pairs/{record.gt}") for record in own]
    copy_pairs(task.held_out / "pairs", inputs.pairs[1], parts[1])
    write_manifest(manifest, records)


def render(folder: Path, photos: list[Path], draws: list[Draw], count: int, task: Adaptation) -> list[ManifestRecord]:
    """Render pairs by draws in turn, each by a random stream of its own; those that are there are kept."""
    records = []
    for number in range(count):
        draw = draws[number * len(draws) // count if count < len(draws) else number % len(draws)]
        paths = [f"{draw.rain_type}/{side}/{number:04d}.png" for side in _SIDES]
        if not (folder / paths[0]).is_file():
            rng = np.random.default_rng([task.seed, number])
            photo = read_rgb(photos[int(rng.integers(len(photos)))])
            lq, gt = draw.render(photo, task.size, rng)
            write_png(folder / paths[1], gt[..., ::-1])
            write_png(folder / paths[0], lq[..., ::-1])
        records.append(ManifestRecord(*paths, draw.rain_type, "rendered"))
    return records


def fit(task: Adaptation, inputs: Inputs, types: dict[str, float]) -> list[Draw]:
    """Of many draws of the renderer's parameters, those whose rain lies nearest to the user's: a fifth of each type.

    Two renderings of each are held against the windows of the user's photographs in both views of the voter
    ``likeness``.
    """
    path = task.data / "draws.json"
    if path.is_file():
        return [Draw(**entry) for entry in read_json(path)]
    windows = [read_rgb(file) for file in sorted((task.data / "references").glob("*.png"))]
    known = {name: Known([view(window) for window in windows]) for name, view in VIEWS.items()}
    rng = np.random.default_rng([task.seed, 9])
    photos = [read_rgb(path) for path in real.evenly(inputs.clean[0], 8)]
    chosen = []
    for rain_type, share in types.items():
        distances = {}
        for number in range(max(10, round(share * task.images / 2))):
            draw = Draw(rain_type, number % len(REAL_RAIN[rain_type]), int(rng.integers(2**31)))
            images = [draw.render(photos[int(rng.integers(len(photos)))], task.size, rng)[0] for _ in range(2)]
            distances[draw] = sum(known[name].distance(view(i)) for name, view in VIEWS.items() for i in images)
        nearest = sorted(distances, key=distances.__getitem__)
        chosen += nearest[: max(2, len(nearest) // 5)]
    write_json(path, [vars(draw) for draw in chosen])
    return chosen


def copy_pairs(folder: Path, pairs: Sequence[tuple[Path, Path]], part: slice) -> list[ManifestRecord]:
    """Write own pairs as ``TYPE/{input,target}/NUMBER.png``: the given part of each image's longer side."""
    records = []
    for number, (lq_path, gt_path) in enumerate(pairs):
        lq, gt = read_rgb(lq_path), read_rgb(gt_path)
        check_same_size(lq, gt, lq_path, gt_path)
        rain_type = rain_type_of(lq)
        paths = [f"{rain_type}/{side}/{number:04d}.png" for side in _SIDES]
        axis = int(lq.shape[1] > lq.shape[0])
        start, stop = (round(share * lq.shape[axis]) for share in (part.start, part.stop))
        for path, image in zip(paths, (lq, gt), strict=True):
            write_png(folder / path, np.take(image, range(start, stop), axis=axis)[..., ::-1])
        records.append(ManifestRecord(*paths, rain_type, "pairs"))
    return records


def fine_tune(task: Adaptation) -> None:
    """Train from the old weights; the number of iterations follows from the time of a step, measured once."""
    path = task.output / "options" / "adapt.yml"
    if not path.is_file():
        net = load(task.weights, device="auto")
        write_weights(task.output / "start.pth", net.state_dict(), net.architecture)
        write_whole(path, yaml.safe_dump(training_options(task, net), sort_keys=False))
    if not (task.output / LATEST).is_file():
        TrainingRun(RunArguments(path, task.output.resolve(), auto_resume=True)).start()


def training_options(task: Adaptation, net: Any) -> dict[str, Any]:
    records = list(read_manifest(task.data / "train.jsonl"))
    sources = {record.source for record in records}
    weights = {"other": 0.2, "fitted": 0.4, "pairs": 1.0}
    held = list(types_in_order(record.rain_type for record in records))
    own = {record.rain_type for record in records if record.source != "other"}
    is_own = net.architecture["type"] == "UniRain"  # in float32 where a processor has no bfloat16
    total = max(32, int(60 * task.minutes / seconds_of_step(net, task.crop, is_own)))
    changes = {
        "name": "adapt",
        "num_gpu": "auto",
        "manual_seed": task.seed,
        "path": {"pretrain_network_g": str((task.output / "start.pth").resolve()), "param_key_g": "params"},
        "datasets": {
            "train": {
                "gt_size": task.crop,
                "batch_size_per_gpu": 4,
                "manifest": str((task.data / "train.jsonl").resolve()),
                "io_backend": {"type": "disk"},
                "rain_types": held,
                "sampling": {
                    "types": {t: 2.0 if t in own else 2.0 / 3 * len(own) / max(len(held) - len(own), 1) for t in held},
                    "sources": {source: weights[source] for source in weights if source in sources},
                },
            }
        },
        "train": {
            "amp": "bf16" if is_own else "off",
            "ema_decay": min(0.998, 1 - 10 / total),
            "optim_g": {"lr": 4e-4},
            "scheduler": {"periods": [total]},
            "total_iter": total,
            "pixel_opt": {"mode": "equal", "rain_types": held, "base": {"type": "LogMSELoss"}},
        },
        "logger": {"save_checkpoint_freq": max(total // 5, 1), "use_tb_logger": False},
    }
    options = merged(read_option_file(option_file(BASE)).opt, changes)
    options["network_g"] = net.architecture  # nothing of the base file's
    del options["val"], options["datasets"]["val"], options["datasets"]["train"]["dataroot"]
    for key in ("update_freq", "warmup"):
        del options["train"]["pixel_opt"][key]
    options["train"] |= {} if is_own else {"aux_weights": {}}
    options |= {"imports": list(task.imports)} if task.imports else {}
    return plain(options)


def seconds_of_step(net: Any, size: int, bfloat16: bool) -> float:
    """Wall time of a training step with four crops, the median of three, with a tenth for reading and logging."""
    trained = copy.deepcopy(net).train().requires_grad_(True)
    images = torch.rand(4, 3, size, size, device=next(net.parameters()).device)

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
            restored = trained(images)
        restored.float().square().mean().backward()

    return 1.1 * interleaved({"step": step}, 3, "cuda" if images.is_cuda else "cpu")["step"]


def judge(task: Adaptation) -> int:
    """Measure old and new weights on what was held out; save the new ones if they are better. The exit status."""
    old = load(task.weights, device="auto")
    new = load(task.output / LATEST, network=old.architecture, device="auto")
    before = measure(old, task.held_out)
    first, last = old.state_dict(), new.state_dict()
    found: dict[float, dict[str, float]] = {}
    mixed = {
        share: {k: a.lerp(last[k], share) if a.is_floating_point() else last[k].clone() for k, a in first.items()}
        for share in SHARES
    }
    for share, state in mixed.items():
        new.load_state_dict(state)
        new.restore_sizes, new.restore_context = old.restore_sizes, old.restore_context
        found[share] = {name: value - before[name] for name, value in measure(new, task.held_out).items()}
    best = choose(found)
    for share, gains in found.items():
        words = ", ".join(f"{name} {gain:+.2f} dB" for name, gain in gains.items())
        say(f"{share:.0%} of the way to the fine-tuned weights: {words}{'  ← taken' if share == best else ''}")
    write_json(task.output / "report.json", {"psnr_before": before, "gains": found, "taken": best})
    if best is None:
        sys.stderr.write(
            f"not better: expected {GAIN} dB or more on your rain and at most {FALL} dB lost on other rain; nothing "
            "was saved. More minutes, more photographs or pairs may help.\n"
        )
        return 1
    write_weights(task.output / RESULT, mixed[best], old.architecture, old.restore_sizes, old.restore_context)
    say(f"saved: {task.output / RESULT}")
    return 0


def choose(found: dict[float, dict[str, float]]) -> float | None:
    """The share with the largest mean gain on one's own rain that loses little on other rain, or None.

    ``found``: share → held-out set → gain in dB; ``other`` is other rain, all others one's own.
    """
    own = {share: finite_mean([g for name, g in gains.items() if name != "other"]) for share, gains in found.items()}
    allowed = [share for share, gain in own.items() if gain >= GAIN and found[share]["other"] >= -FALL]
    return max(allowed, key=own.__getitem__, default=None)


def measure(net: Any, held_out: Path) -> dict[str, float]:
    figures = {}
    for folder in sorted(path for path in held_out.iterdir() if path.is_dir()):
        pairs = [pair for of_type in good_pairs(folder, folder).values() for pair in of_type]
        images = ((read_rgb(folder / pair.lq), read_rgb(folder / pair.gt)) for pair in pairs)
        figures[folder.name] = finite_mean([psnr(restore(net, lq), gt) for lq, gt in images])
    return figures

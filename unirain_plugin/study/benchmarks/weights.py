"""``benchmark weights``: what trained weights gain on images they have not seen, and what they do to clean ones."""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

import cv2
import numpy as np

from unirain_plugin import load, restore
from unirain_plugin.compare.summary import Score, score
from unirain_plugin.metrics.psnr_ssim import finite_mean
from unirain_plugin.rain.pair_files import cut, list_images, read_photo
from unirain_plugin.rain.render import render_rain
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.study.benchmarks.cli import expect_least
from unirain_plugin.support.packages import add_network_arguments, import_named

FOREIGN = {
    "RandomRain default": ("RandomRain", {}),
    "RandomRain drizzle": ("RandomRain", {"rain_type": "drizzle"}),
    "RandomRain heavy": ("RandomRain", {"rain_type": "heavy"}),
    "RandomRain torrential": ("RandomRain", {"rain_type": "torrential"}),
    "RandomRain sharp": ("RandomRain", {"brightness_coefficient": 1.0, "blur_value": 1}),
    "Spatter rain": ("Spatter", {"mode": "rain"}),
}
"""Rows of rain that another renderer draws: name → albumentations' transform and its arguments."""

Renderer = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Photograph (RGB) and number of the pair → rainy and clean image."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark weights", description=__doc__)
    add = parser.add_argument
    add("--weights", help=".safetensors or .pth (default: those the package ships)")
    add_network_arguments(parser)
    add("--photographs", type=Path, metavar="DIR", help="clean photographs (default: two that scikit-image installs)")
    add("--types", nargs="+", default=RAIN_TYPES, metavar="TYPE", help="what is rendered (default: the four of rain)")
    add("--size", type=int, default=256, metavar="PX", help="side of the windows, 0: whole photographs (%(default)s)")
    add("--per-image", type=int, default=6, metavar="N", help="pairs for each photograph and row (%(default)s)")
    add("--sizes", type=int, nargs="*", metavar="PX", help="as of inference.py: for whole photographs")
    add("--seed", type=int, default=0, help="seed of the rain (%(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row for each rain type, for clean images, and for each foreign rain if albumentations is installed."""
    args = build_parser().parse_args(argv)
    expect_least(args, 1, "per_image")
    import_named(args)
    network = load(args.weights, args.network)
    windows = list(_windows(args))
    sys.stdout.write(
        f"{len(windows)} windows a row; PSNR in dB and SSIM, RGB, means over the windows\n"
        f"{'rain':<22}{'PSNR: input':>12}{'restored':>10}{'gain':>8}{'worst':>8}{'SSIM: input':>14}{'restored':>10}\n"
    )
    gains = {}
    for name, render in _rows(args.seed, args.types):
        scores = []
        for number, window in enumerate(windows):
            rainy, clean = render(window, number)
            scores.append((score(rainy, clean), score(restore(network, rainy, sizes=args.sizes), clean)))
        gains[name] = write_row(name, scores)
    by_window = zip(*(gains[t] for t in args.types), strict=True)
    of_windows = [mean(known) for of_types in by_window if (known := [gain for gain in of_types if gain == gain])]
    spread = f", standard error over these windows {standard_error(of_windows):.2f} dB" if len(of_windows) > 1 else ""
    sys.stdout.write(f"mean gain over {', '.join(args.types)}: {mean(of_windows):+.2f} dB{spread}\n")
    return 0


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of at least two independent values: their standard deviation ÷ √n."""
    return stdev(values) / len(values) ** 0.5


def write_row(name: str, scores: Sequence[tuple[Score, Score]]) -> list[float]:
    """Write means and the least gain; of clean images, whose PSNR is infinite, the least PSNR.

    Returns the gain of each window in dB; NaN where the PSNR before or after is infinite.
    """
    clean = all(math.isinf(before.psnr) for before, _ in scores)
    finite = [pair for pair in scores if not any(math.isinf(s.psnr) for s in pair)]
    counted = scores if clean or not finite else finite
    before, after = (finite_mean([pair[i].psnr for pair in counted]) for i in (0, 1))
    gains = [a.psnr - b.psnr for b, a in finite]
    ssim = [mean(pair[i].ssim for pair in scores) for i in (0, 1)]
    least = min(after.psnr for _, after in scores)
    shown = f"{mean(gains):>+8.2f}{min(gains):>+8.2f}" if gains else f"{'':>8}{least:>8.2f}"
    sys.stdout.write(f"{name:<22}{before:>12.2f}{after:>10.2f}{shown}{ssim[0]:>14.4f}{ssim[1]:>10.4f}\n")
    if not clean and (left_out := len(scores) - len(finite)):
        what = "window equals its" if left_out == 1 else "windows equal their"
        sys.stdout.write(f"  ({left_out} {what} clean one before or after: its infinite PSNR is in no mean)\n")
    return [a.psnr - b.psnr if (b, a) in finite else math.nan for b, a in scores]


def _windows(args: argparse.Namespace) -> Iterator[np.ndarray]:
    given = args.photographs
    paths = sample_photos("held-out") if given is None else list_images("--photographs", given)
    rng = np.random.default_rng(args.seed)
    for path in paths:
        photo = read_photo(path, convert=("exif",))
        for _ in range(args.per_image):
            yield cut(photo, (args.size, args.size) if args.size else None, rng)


def smeared_noise(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rain as photo editors make it: sparse noise, smeared along one direction, added in white to (H, W, 3) uint8."""
    length, angle = int(rng.integers(9, 40)), rng.uniform(-30, 30)
    line = np.zeros((length, length), np.float32)
    line[:, length // 2] = 1
    turn = cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), angle, 1)
    sparks = (rng.random(photo.shape[:2]) < rng.uniform(0.001, 0.008)).astype(np.float32)
    rain = cv2.GaussianBlur(cv2.filter2D(sparks, -1, cv2.warpAffine(line, turn, line.shape)), (0, 0), 0.6)
    rainy = photo + 255 * rng.uniform(0.4, 0.9) * np.minimum(rain, 1)[..., None]
    return np.clip(np.round(rainy), 0, 255).astype(np.uint8)


def _rows(seed: int, types: Sequence[str]) -> Iterator[tuple[str, Renderer]]:
    for rain_type in types:
        yield rain_type, lambda photo, k, t=rain_type: render_rain(photo, t, 1000 * seed + k)[:2]
    yield "clean, day", lambda photo, k: (photo, photo)
    yield "clean, night", lambda photo, k: (render_rain(photo, "nrs", 1000 * seed + k).gt,) * 2
    yield "smeared noise", lambda photo, k: (smeared_noise(photo, np.random.default_rng([seed, k])), photo)
    try:
        import albumentations
    except ImportError:
        sys.stdout.write("(rain of another renderer needs albumentations: pip install albumentations)\n")
        return
    for name, (transform, options) in FOREIGN.items():
        effect = getattr(albumentations, transform)(p=1, **options)

        def foreign(photo: np.ndarray, k: int, effect: object = effect) -> tuple[np.ndarray, np.ndarray]:
            pipeline = albumentations.Compose([effect], seed=1000 * seed + k)
            return pipeline(image=np.ascontiguousarray(photo))["image"], photo

        yield name, foreign

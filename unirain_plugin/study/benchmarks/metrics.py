"""``benchmark metrics``: our PSNR and SSIM against the toolbox's on one large image, in time and in value."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from unirain_plugin.compare.report import markdown_table
from unirain_plugin.errors import OptionError
from unirain_plugin.metrics.psnr_ssim import luma, psnr, ssim
from unirain_plugin.study.benchmarks.cli import interleaved, threads
from unirain_plugin.support.files import write_json

GOAL = 1e-6  # largest allowed difference to the toolbox's value


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="benchmark metrics", description=__doc__)
    p.add_argument("--size", type=int, nargs=2, default=(2160, 3840), metavar=("H", "W"), help="default: 2160 3840")
    p.add_argument("--rounds", type=int, default=3, help="counted turns; the median is reported")
    p.add_argument("--threads", type=int, help="OpenCV's threads, for both (default: OpenCV's choice)")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    return p


def random_images(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth random image and a noisy copy, (H, W, 3) uint8 RGB."""
    rng = np.random.default_rng(0)
    target = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), (0, 0), 2)
    noise = rng.integers(-9, 10, target.shape)
    return np.clip(target + noise, 0, 255).astype(np.uint8), target


def contestants(image: np.ndarray, target: np.ndarray) -> dict[str, tuple[Callable[[], float], Callable[[], float]]]:
    """Metric → (the toolbox's, ours)."""
    from basicsr.metrics import calculate_psnr, calculate_ssim

    bgr = np.ascontiguousarray(image[..., ::-1]), np.ascontiguousarray(target[..., ::-1])
    table: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {}
    for name, theirs, ours in (("psnr", calculate_psnr, psnr), ("ssim", calculate_ssim, ssim)):
        table[name] = lambda f=theirs: float(f(*bgr, crop_border=0)), lambda f=ours: f(image, target)
        table[f"{name}_y"] = (
            lambda f=theirs: float(f(*bgr, crop_border=0, test_y_channel=True)),
            lambda f=ours: f(luma(image), luma(target)),
        )
    return table


def measure(size: tuple[int, int], rounds: int) -> list[dict[str, float | str]]:
    rows = []
    for name, pair in contestants(*random_images(*size)).items():
        difference = abs(pair[0]() - pair[1]())
        seconds = interleaved(dict(zip(("toolbox_s", "ours_s"), pair, strict=True)), rounds, "cpu")
        faster = seconds["toolbox_s"] / seconds["ours_s"]
        rows.append({"metric": name, **seconds, "faster": faster, "difference": difference})
    return rows


def main(argv: list[str]) -> int:
    """Measure and print; exit status 1 if a value differs by more than ``GOAL``, OptionError for senseless numbers."""
    args = parser().parse_args(argv)
    if min(args.size) < 11 or args.rounds < 1 or (args.threads is not None and args.threads < 1):
        raise OptionError("expected --size ≥ 11 11, --rounds ≥ 1 and --threads ≥ 1.")
    with threads(args.threads):
        rows = measure(tuple(args.size), args.rounds)
    cells = [
        (r["metric"], f"{r['toolbox_s']:.3f}", f"{r['ours_s']:.3f}", f"{r['faster']:.1f}", f"{r['difference']:.1e}")
        for r in rows
    ]
    table = markdown_table(["metric", "toolbox, s", "ours, s", "times faster", "difference"], cells)
    sys.stdout.write(f"{args.size[1]}×{args.size[0]}, median of {args.rounds}\n\n{table}")
    if args.json:
        write_json(args.json, rows)
    return int(any(r["difference"] > GOAL for r in rows))

"""``benchmark distill-speed``: candidates a second through the whole default pipeline, images read from the disk.

Pairs are rendered onto photographs that the package brings (each mirrored three ways: other images, same cost),
written as PNG, and distilled against rendered rainy images by the default parts and voters.
"""

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from unirain_plugin.data.partial_decode import INFLATER
from unirain_plugin.distill.options import parse_options
from unirain_plugin.distill.pipeline import Pipeline
from unirain_plugin.distill.records import read_rgb
from unirain_plugin.rain.render import render_rain
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.study.benchmarks.cli import expect_least, work_folder
from unirain_plugin.support.files import write_png


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    expect_least(args, 1, "pairs", "references", "size", "workers")
    with work_folder(args.dir) as folder:
        write_pairs(folder, args.pairs, args.references, args.size)
        options = parse_options(
            {
                "name": "speed",
                "references": {"images": str(folder / "real")},
                "candidates": {"dataroot": str(folder / "pairs")},
                "engine": {"workers": args.workers},
                "output": str(folder / "out"),
                "report": {"enabled": False},
                "shard_size": 32,
            },
            "benchmark",
        )
        outcomes, speeds = [], []
        for restart in (False, True):  # at the second, the server that workers are forked from is there
            start = time.perf_counter()
            outcomes.append(Pipeline(options).run(restart))
            speeds.append(args.pairs / (time.perf_counter() - start))
    parts = "".join(f"  {name:<24} {seconds:7.2f} s\n" for name, seconds in outcomes[0].seconds.items())
    sys.stdout.write(
        f"{args.pairs} candidates of {args.size}² (PNG, inflated by {INFLATER}), {args.references} references, "
        f"{args.workers} workers\n{parts}"
        f"{speeds[0]:.1f} candidates/s, references and start of the workers included\n"
        f"{speeds[1]:.1f} candidates/s once the workers' modules are imported\n"
    )
    return 0


def write_pairs(folder: Path, pairs: int, references: int, size: int) -> None:
    """Write ``pairs`` in RainRAG's layout and ``real`` images, rendered onto different photographs."""
    photos, others = ([_fit(read_rgb(path), size) for path in sample_photos(split)] for split in ("train", "held-out"))
    mirrors = (lambda x: x, np.fliplr, np.flipud, lambda x: x[::-1, ::-1])
    for number in range(-(-pairs // len(mirrors))):
        rain_type = RAIN_TYPES[number % len(RAIN_TYPES)]
        pair = render_rain(photos[number // len(RAIN_TYPES) % len(photos)], rain_type, number)
        for place, mirror in enumerate(mirrors[: pairs - len(mirrors) * number]):
            for side, image in (("input", pair.lq), ("target", pair.gt)):
                path = folder / "pairs" / rain_type / side / f"{number:05d}_{place}.png"
                write_png(path, mirror(image)[..., ::-1])
    for number in range(references):
        rain_type = RAIN_TYPES[number % len(RAIN_TYPES)]
        image = render_rain(others[number // len(RAIN_TYPES) % len(others)], rain_type, 100_000 + number).lq
        write_png(folder / "real" / rain_type / f"{number:05d}.png", image[..., ::-1])


def _fit(photo: np.ndarray, size: int) -> np.ndarray:
    side = min(photo.shape[:2])
    return cv2.resize(photo[:side, :side], (size, size), interpolation=cv2.INTER_AREA)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark.py distill-speed", description=__doc__)
    add = parser.add_argument
    add("--pairs", type=int, default=512, metavar="N", help="candidates (default 512)")
    add("--references", type=int, default=64, metavar="N", help="rainy images to retrieve from (default 64)")
    add("--size", type=int, default=512, metavar="S", help="side of the images (default 512)")
    add("--workers", type=int, default=2, metavar="N", help="processes (default 2)")
    add("--dir", metavar="DIR", help="folder for the images (default: a temporary one, removed)")
    return parser

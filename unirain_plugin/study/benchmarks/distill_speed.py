"""``benchmark distill-speed``: candidates a second through the whole default pipeline, images read from the disk.

Pairs are rendered onto photographs that the package brings (each mirrored three ways: other images, same cost),
written as PNG, and distilled against rendered rainy images by the default parts and voters.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from unirain_plugin.data.partial_decode import INFLATER
from unirain_plugin.distill.options import DistillOptions, parse_options
from unirain_plugin.distill.pipeline import Outcome, Pipeline
from unirain_plugin.distill.records import read_rgb
from unirain_plugin.errors import OptionError
from unirain_plugin.rain.render import render_rain
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.support.files import write_png


def main(argv: list[str] | None = None) -> int:
    """Measure and print. Returns the exit status."""
    args = _parser().parse_args(argv)
    for name in ("pairs", "references", "size", "workers"):
        if getattr(args, name) < 1:
            raise OptionError(f"--{name}: expected 1 or more, found {getattr(args, name)}.")
    with contextlib.ExitStack() as stack:
        folder = Path(args.dir or stack.enter_context(tempfile.TemporaryDirectory(prefix="unirain_benchmark_")))
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
        seconds, outcome = _timed(options, restart=False)
        sys.stdout.write(
            f"{args.pairs} candidates of {args.size}² (PNG, inflated by {INFLATER}), {args.references} references, "
            f"{args.workers} workers\n"
        )
        for name, part in outcome.seconds.items():
            sys.stdout.write(f"  {name:<24} {part:7.2f} s\n")
        sys.stdout.write(f"{args.pairs / seconds:.1f} candidates/s, references and start of the workers included\n")
        seconds, _ = _timed(options, restart=True)  # the server that workers are forked from is there by now
        sys.stdout.write(f"{args.pairs / seconds:.1f} candidates/s once the workers' modules are imported\n")
    return 0


def _timed(options: DistillOptions, restart: bool) -> tuple[float, Outcome]:
    start = time.perf_counter()
    outcome = Pipeline(options).run(restart)
    return time.perf_counter() - start, outcome


def write_pairs(folder: Path, pairs: int, references: int, size: int) -> None:
    """Write ``pairs`` in RainRAG's layout and ``real`` images, rendered onto different photographs."""
    photos = [_fit(photo, size) for photo in _read("train")]
    others = [_fit(photo, size) for photo in _read("held-out")]
    mirrors = (lambda x: x, np.fliplr, np.flipud, lambda x: x[::-1, ::-1])
    for number in range(-(-pairs // len(mirrors))):
        rain_type = RAIN_TYPES[number % len(RAIN_TYPES)]
        pair = render_rain(photos[number // len(RAIN_TYPES) % len(photos)], rain_type, number)
        for place, mirror in enumerate(mirrors):
            if len(mirrors) * number + place < pairs:
                for side, image in (("input", pair.lq), ("target", pair.gt)):
                    write_png(
                        folder / "pairs" / rain_type / side / f"{number:05d}_{place}.png", mirror(image)[..., ::-1]
                    )
    for number in range(references):
        rain_type = RAIN_TYPES[number % len(RAIN_TYPES)]
        image = render_rain(others[number // len(RAIN_TYPES) % len(others)], rain_type, 100_000 + number).lq
        write_png(folder / "real" / rain_type / f"{number:05d}.png", image[..., ::-1])


def _read(split: str) -> list[np.ndarray]:
    return [read_rgb(path) for path in sample_photos(split)]


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

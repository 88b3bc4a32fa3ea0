"""``benchmark retrieval``: the cascade at scale on synthetic features, and SSIM against the toolbox's loop.

References and candidates lie on the disk as the pipeline keeps them (memory-mapped ``.npy`` files); every size runs in
a process of its own, so that peak memory is that size's. All candidates' features are written; ``--queries`` of them,
spread over the whole, go through the three levels, and the time of the rest is extrapolated.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unirain_plugin.distill import cascade
from unirain_plugin.distill.workers import keep_freed_memory, limit_threads
from unirain_plugin.errors import OptionError
from unirain_plugin.study.benchmarks.cli import expect_least, interleaved, threads, work_folder
from unirain_plugin.support.files import whole_file, write_json
from unirain_plugin.support.processes import process_pool

_BLOCK = 4096
_BATCH = 256
_TURNS = 10
_barrier = None


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    expect_least(args, 1, "references", "candidates", "queries", "text_dim", "visual_dim", "k1", "k2", "workers")
    if args.size < 11 or args.queries > args.candidates:
        raise OptionError(f"expected --size ≥ 11 and --queries ≤ --candidates; found {args.size}, {args.queries}.")
    rows = []
    with work_folder(args.dir) as folder:
        _write_features(folder / "candidates", args.candidates, args.text_dim, args.visual_dim, 1)
        for count in sorted({max(args.k1, args.references // step) for step in (100, 10, 1)}):
            rows.append(_in_a_process(args, folder, count))
            _print_row(args, rows[-1], header=len(rows) == 1)
    speed = ssim_speed(args.size, args.k2, args.workers)
    sys.stdout.write(
        f"\nSSIM of one query with {args.k2} cached thumbnails of {args.size}²: {speed['ours']:.0f} µs a pair, "
        f"calculate_ssim's loop {speed['toolbox']:.0f} µs: {speed['toolbox'] / speed['ours']:.1f} times as fast in one "
        f"thread, {speed['toolbox'] / speed['together']:.1f} times with {args.workers} workers at once; largest "
        f"difference {speed['difference']:.1e}; preparing a thumbnail once: {speed['prepare']:.0f} µs\n"
    )
    if args.json:
        write_json(args.json, {"sizes": rows, "ssim": speed})
    if args.plot:
        with whole_file(args.plot) as file:
            _plot(rows).savefig(file, format="svg")
        sys.stdout.write(f"growth with size: {args.plot}\n")
    return 0


def ssim_speed(size: int, count: int, workers: int = 2, repeats: int = 15) -> dict[str, float]:
    """Our SSIM and the toolbox's loop in turn on the same images; microseconds a pair, best of all.

    Returns ``ours`` and ``toolbox``, one thread each; ``together``: ours in that many processes at once, time over
    pairs; ``prepare``: what a thumbnail takes once; ``difference``: the largest of the values.
    """
    from basicsr.metrics import calculate_ssim

    planes = _thumbnails(np.random.default_rng(0), count + 1, size)
    keep_freed_memory()
    terms = [cascade.ssim_terms(plane) for plane in planes[1:]]
    actions = {
        "ours": lambda: cascade.ssim_one_to_many(cascade.ssim_terms(planes[0]), terms),
        "toolbox": lambda: [calculate_ssim(planes[0][..., None], plane[..., None], 0) for plane in planes[1:]],
        "prepare": lambda: [cascade.ssim_terms(plane) for plane in planes[1:]],
    }
    with threads(1):
        best = interleaved(actions, repeats, of_turns=min)
    values = {name: actions[name]() for name in ("ours", "toolbox")}
    result = {name: seconds / count * 1e6 for name, seconds in best.items()}
    result["together"] = _ssim_together(size, count, workers, repeats)
    return {**result, "difference": float(np.abs(values["ours"] - values["toolbox"]).max())}


def _ssim_together(size: int, count: int, workers: int, repeats: int) -> float:
    """Microseconds a pair when several processes compute at once, as the pipeline's workers do."""
    with process_pool(workers, _meet_at, multiprocessing.get_context("spawn").Barrier(workers)) as pool:
        rounds = list(pool.map(_ssim_rounds, [(size, count, repeats)] * workers))
    return min(map(max, zip(*rounds, strict=True))) / (count * workers) * 1e6


def _meet_at(barrier: object) -> None:
    global _barrier
    _barrier = barrier


def _ssim_rounds(settings: tuple[int, int, int]) -> list[float]:
    """Seconds of each round of one process; all begin a round at the same moment."""
    size, count, repeats = settings
    limit_threads(1)
    keep_freed_memory()
    planes = _thumbnails(np.random.default_rng(0), count + 1, size)
    terms, seconds = [cascade.ssim_terms(plane) for plane in planes[1:]], []
    for _ in range(repeats):
        _barrier.wait()
        start = time.perf_counter()
        for _ in range(_TURNS):
            cascade.ssim_one_to_many(cascade.ssim_terms(planes[0]), terms)
        seconds.append((time.perf_counter() - start) / _TURNS)
    return seconds


def _in_a_process(args: argparse.Namespace, folder: Path, count: int) -> dict:
    """One size in a fresh process, so that its peak memory is its own."""
    with process_pool(1) as pool:
        try:
            return pool.submit(_measure, args, folder, count).result()
        except BrokenProcessPool as error:
            raise OptionError(f"the process for {count} references died, perhaps for lack of memory.") from error


def _measure(args: argparse.Namespace, folder: Path, count: int) -> dict:
    limit_threads(1)
    keep_freed_memory()
    arrays = _write_features(folder / f"references{count}", count, args.text_dim, args.visual_dim, 0)
    arrays["thumbnails"] = _write_thumbnails(folder / f"references{count}", count, args.size)
    references = cascade.ReferenceArrays(**arrays)
    start = time.perf_counter()
    index = cascade.TextIndex(
        cascade.build_index(references.text, np.arange(count), args.index), np.arange(count), references.text
    )
    build = time.perf_counter() - start
    text, visual = (np.load(folder / f"candidates/{name}.npy", mmap_mode="r") for name in ("text", "visual"))
    chosen = np.linspace(0, len(text) - 1, args.queries).astype(np.int64)
    queries = _thumbnails(np.random.default_rng(2), _BATCH, args.size)
    seconds = np.zeros(3)
    for first in range(0, len(chosen), _BATCH):
        rows = chosen[first : first + _BATCH]
        start = time.perf_counter()
        found = index.nearest(text[rows], min(args.k1, count))
        middle = time.perf_counter()
        kept = []
        for (c1, _), query in zip(found, visual[rows], strict=True):
            similarity = cascade.cosine(query, references.visual[c1])
            kept.append(c1[np.lexsort((c1, -similarity))[: args.k2]])
        end = time.perf_counter()
        cascade.ssim_of_pairs(queries[: len(kept)], kept, references.thumbnails.__getitem__)
        seconds += (middle - start, end - middle, time.perf_counter() - end)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"references": count, "build": build, "levels": (seconds / len(chosen)).tolist(), "peak_gib": peak}


def _write_features(folder: Path, count: int, text_dim: int, visual_dim: int, seed: int) -> dict[str, np.ndarray]:
    """Synthetic vectors in clusters, as captions and scenes come, written block by block."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, arrays = np.random.default_rng(seed), {}
    for name, dimensions in (("text", text_dim), ("visual", visual_dim)):
        centres = np.random.default_rng(7).normal(size=(512, dimensions)).astype(np.float32)
        path = folder / f"{name}.npy"
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, dimensions))
        for start in range(0, count, _BLOCK):
            rows = min(_BLOCK, count - start)
            noise = rng.standard_normal((rows, dimensions), dtype=np.float32)
            array[start : start + rows] = centres[rng.integers(0, len(centres), rows)] + 0.5 * noise
        array.flush()
        arrays[name] = np.load(path, mmap_mode="r")
    return arrays


def _write_thumbnails(folder: Path, count: int, size: int) -> np.ndarray:
    path, rng = folder / "thumbnails.npy", np.random.default_rng(3)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, size, size))
    block = _thumbnails(rng, 64, size)
    for start in range(0, count, len(block)):  # the content does not matter for time; a shift keeps rows apart
        rows = min(len(block), count - start)
        array[start : start + rows] = np.roll(block[:rows], start % size, axis=1)
    array.flush()
    return np.load(path, mmap_mode="r")


def _thumbnails(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    coarse = rng.integers(0, 256, (count, 9, 9), dtype=np.uint8)
    return np.stack([cv2.resize(plane, (size, size), interpolation=cv2.INTER_CUBIC) for plane in coarse])


def _print_row(args: argparse.Namespace, row: dict, header: bool) -> None:
    if header:
        sys.stdout.write(
            f"{args.candidates} candidates, {args.queries} of them measured, one thread; K1 {args.k1}, K2 {args.k2}, "
            f"index {args.index}, {args.text_dim} + {args.visual_dim} dimensions, thumbnails {args.size}²\n"
            "references  build s  text ms  visual ms  SSIM ms  queries/s  all candidates, 2 workers  peak GiB\n"
        )
    text, visual, structural = (1000 * seconds for seconds in row["levels"])
    total = sum(row["levels"])
    sys.stdout.write(
        f"{row['references']:10d} {row['build']:8.2f} {text:8.3f} {visual:10.3f} {structural:8.3f} {1 / total:10.0f} "
        f"{total * args.candidates / 2 / 3600:24.2f} h {row['peak_gib']:9.2f}\n"
    )
    sys.stdout.flush()


def _plot(rows: list[dict]) -> Any:
    """Milliseconds a query and peak memory over the number of references (logarithmic), a figure of Matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3), layout="constrained")
    left = figure.subplots()
    sizes, query = [row["references"] for row in rows], [1000 * sum(row["levels"]) for row in rows]
    curves = (left, "ms a query", query, "C0"), (left.twinx(), "peak GiB", [row["peak_gib"] for row in rows], "C3")
    for axes, title, values, colour in curves:
        axes.semilogx(sizes, values, marker="o", color=colour)
        axes.set_ylabel(title, color=colour)
        axes.set_ylim(0)
    left.set_xlabel("references")
    return figure


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark.py retrieval", description=__doc__)
    add = parser.add_argument
    add("--references", type=int, default=100_000, metavar="N", help="real images (default 100000)")
    add("--candidates", type=int, default=2_000_000, metavar="N", help="pairs (default 2000000)")
    add("--queries", type=int, default=2048, metavar="N", help="candidates really retrieved for (default 2048)")
    add("--text-dim", type=int, default=58, metavar="D", help="dimensions of captions (default 58: attributes)")
    add("--visual-dim", type=int, default=43, metavar="D", help="dimensions of images (default 43: statistics)")
    add("--size", type=int, default=128, metavar="S", help="working size of SSIM (default 128)")
    add("--k1", type=int, default=100, metavar="K", help="default 100")
    add("--k2", type=int, default=20, metavar="K", help="default 20")
    add("--index", default="Flat", metavar="FACTORY", help="FAISS index (default Flat)")
    add("--workers", type=int, default=2, metavar="N", help="processes for SSIM's second figure (default 2)")
    add("--dir", metavar="DIR", help="folder for the features, 3 GB (default: a temporary one, removed)")
    add("--json", metavar="FILE", help="also write the figures there")
    add("--plot", metavar="FILE", help="draw the growth with size there (SVG)")
    return parser

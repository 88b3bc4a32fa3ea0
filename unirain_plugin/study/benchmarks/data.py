"""``benchmark data``: how long a training pair takes, here and in the toolbox's ``PairedImageDataset``.

Both read the same images, from the operating system's cache, in one process and one thread, in turn, pair by pair.
The processor time of that thread is measured: on an idle machine it is the time that passes, and on a busy one other
programs' share is not in it. Each crop's time is the median of several turns, a data set's the mean over the crops.
"""

import argparse
import contextlib
import io
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from unirain_plugin.data.distilled_mixed_dataset import DistilledMixedPairedDataset
from unirain_plugin.data.draws import SampleIndex
from unirain_plugin.data.manifest import ManifestRecord
from unirain_plugin.data.partial_decode import INFLATER, decoders
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.study.benchmarks.cli import expect_least, work_folder

RAIN_TYPE = "drs"


class Case(NamedTuple):
    """One line of the table: what is read, how many times as fast as the toolbox it ought to be, both data sets.

    ``growth``: bytes of our LMDBs, by those of the images in them.
    """

    title: str
    goal: float
    stock: Any
    ours: Any
    growth: float | None = None


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    expect_least(args, 1, "images", "crops", "repeats", "gt_size")
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with work_folder(args.dir) as folder:
        cases = build_cases(folder, args.images, args.gt_size)
        head = ("a training pair, one thread", "toolbox", "ours", "ratio", "goal", "pairs/s", "size")
        sys.stdout.write("{:<44} {:>9} {:>9} {:>7} {:>6} {:>8} {:>6}\n".format(*head))
        for case in cases:
            stock, ours = measure(case, args.crops, args.repeats)
            size = "" if case.growth is None else f"{case.growth:.2f}"
            times = f"{stock:>6.1f} ms {ours:>6.2f} ms {stock / ours:>6.1f}× {case.goal:>5}× {1000 / ours:>8.0f}"
            sys.stdout.write(f"{case.title:<44} {times} {size:>6}\n")
        jpeg = "simplejpeg" if decoders()["simplejpeg"] else "OpenCV"
        sys.stdout.write(
            f"gt_size {args.gt_size}; OpenCV {cv2.__version__}; our JPEG parts by {jpeg}, PNG by {INFLATER}; size: of "
            "our LMDBs, by their sources'\n"
        )
    return 0


def measure(case: Case, crops: int, repeats: int) -> tuple[float, float]:
    """Milliseconds a pair of both data sets, in turn: ``crops`` of every image, the same in all ``repeats``."""
    _ = case.stock[0], case.ours[0]  # opens LMDBs, tries out decoders
    draws = len(case.ours) * crops
    times = np.empty((2, draws, repeats))
    for turn in range(repeats):
        for draw in range(draws):
            for side, data in enumerate((case.stock, case.ours)):
                index = SampleIndex(draw * 7919 % len(data), draw)
                start = time.thread_time()
                data[index]
                times[side, draw, turn] = time.thread_time() - start
    return tuple(np.median(times, 2).mean(1) * 1000)


LMDBS = (
    ("1080p JPEG", ".jpg", (1080, 1920), 1, 10, 25),
    ("2160p JPEG", ".jpg", (2160, 3840), 4, None, 60),
    ("512² PNG", ".png", (512, 512), 1, None, 4),
    ("2160p PNG", ".png", (2160, 3840), 4, None, 15),
)
"""Sources of the LMDBs: title, ending, size, the part of the images that is used; goals of plain and seekable ones."""


def build_cases(folder: Path, images: int, gt_size: int) -> list[Case]:
    from unirain_plugin.preparation.lmdbs import LmdbRecipe, create_lmdbs
    from unirain_plugin.preparation.subimages import CutPlan, cut_pairs

    cases, files = [], {}
    with contextlib.redirect_stderr(io.StringIO()):
        for title, suffix, size, part, plain, goal in LMDBS:
            source = folder / title
            records = write_pairs(source, suffix, max(1, images // part), size)
            _write_stock_lmdb(source, folder / f"{title} toolbox")
            stock = _stock(folder / f"{title} toolbox", gt_size)
            files[title] = _stock(source, gt_size), records
            for name, least in (("plain", plain), ("seekable", goal)):
                if least is not None:
                    output = folder / f"{title} {name}"
                    create_lmdbs(str(output), records, LmdbRecipe(str(source), seekable=name == "seekable"))
                    told = f"{title}, {name} LMDB (toolbox: PNG in LMDB)"
                    cases.append(Case(told, least, stock, _ours(output, gt_size), _bytes(output) / _bytes(source)))
        jpeg, records = files["1080p JPEG"]
        cut = folder / "cut"
        parts = [part for p in cut_pairs(records, str(folder / "1080p JPEG"), str(cut), CutPlan()) for part in p]
        create_lmdbs(str(folder / "cut_lmdb"), parts, LmdbRecipe(str(cut)))
    return [
        Case("1080p JPEG, files", 3.5, jpeg, _ours(folder / "1080p JPEG", gt_size)),
        Case("512² PNG, files", 1.6, files["512² PNG"][0], _ours(folder / "512² PNG", gt_size)),
        Case("1080p JPEG files; ours pre-cut, 320² PNG", 8, jpeg, _ours(cut, gt_size)),
        Case("1080p JPEG files; ours pre-cut, in an LMDB", 8, jpeg, _ours(folder / "cut_lmdb", gt_size)),
        *cases,
    ]


def _bytes(folder: Path) -> int:
    """What the files take on the disk (an LMDB's file has holes)."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())


def write_pairs(folder: Path, suffix: str, count: int, size: tuple[int, int]) -> list[ManifestRecord]:
    """Write pairs made of the embedded photographs, at their own scale, and the same with bright streaks."""
    rng = np.random.default_rng(0)
    photos = sample_photos()
    for side in ("input", "target"):
        (folder / RAIN_TYPE / side).mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(count):
        clean = _fill(cv2.imread(str(photos[number % len(photos)])), size, number)
        streaks = (rng.random(size) < 0.004).astype(np.float32) * 255
        streaks = cv2.blur(streaks, (1, 15)) * 6
        rainy = np.clip(clean + streaks[..., None], 0, 255).astype(np.uint8)
        record = ManifestRecord(*(f"{RAIN_TYPE}/{s}/{number}{suffix}" for s in ("input", "target")), RAIN_TYPE)
        for path, image in ((record.lq, rainy), (record.gt, clean)):
            # JPEG of quality 90: about 3 bits a pixel here, as cameras and the public data sets have it
            parameters = [cv2.IMWRITE_JPEG_QUALITY, 90] if suffix == ".jpg" else []
            (folder / path).write_bytes(cv2.imencode(suffix, image, parameters)[1].tobytes())
        records.append(record)
    return records


def _fill(photo: np.ndarray, size: tuple[int, int], shift: int) -> np.ndarray:
    """Tile a photograph with its mirror images over ``size``, so that its detail keeps its scale."""
    top, left = (97 * shift % (2 * side) for side in photo.shape[:2])
    tiled = np.pad(photo, ((0, top + size[0]), (0, left + size[1]), (0, 0)), "symmetric")
    return np.ascontiguousarray(tiled[top : top + size[0], left : left + size[1]])


def _write_stock_lmdb(source: Path, output: Path) -> None:
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    output.mkdir(exist_ok=True)
    for side, name in (("input", "lq.lmdb"), ("target", "gt.lmdb")):
        files = sorted(path.name for path in (source / RAIN_TYPE / side).iterdir())
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            keys = [os.path.splitext(name)[0] for name in files]
            make_lmdb_from_imgs(str(source / RAIN_TYPE / side), str(output / name), files, keys, map_size=1 << 40)


def _stock(root: Path, gt_size: int) -> Any:
    from basicsr.data.paired_image_dataset import PairedImageDataset

    lmdb = (root / "lq.lmdb").is_dir()
    lq, gt = ("lq.lmdb", "gt.lmdb") if lmdb else (f"{RAIN_TYPE}/input", f"{RAIN_TYPE}/target")
    opt = _common("lmdb" if lmdb else "disk", gt_size)
    return PairedImageDataset({"dataroot_lq": str(root / lq), "dataroot_gt": str(root / gt), **opt})


def _ours(root: Path, gt_size: int) -> DistilledMixedPairedDataset:
    lmdb = (root / RAIN_TYPE / "lq.lmdb").is_dir()
    return DistilledMixedPairedDataset({"dataroot": str(root), **_common("lmdb" if lmdb else "disk", gt_size)})


def _common(backend: str, gt_size: int) -> dict[str, Any]:
    opt = {"name": "benchmark", "phase": "train", "scale": 1, "gt_size": gt_size, "use_hflip": True, "use_rot": True}
    return {**opt, "io_backend": {"type": backend}}


def _parser() -> argparse.ArgumentParser:
    description = "Time a training pair of this package's data set and of BasicSR's PairedImageDataset, in turn."
    parser = argparse.ArgumentParser(prog="benchmark data", description=description)
    add = parser.add_argument
    add("--images", type=int, default=8, metavar="N", help="pairs of images (default 8)")
    add("--crops", type=int, default=4, metavar="N", help="crops of each image (default 4)")
    add("--repeats", type=int, default=5, metavar="N", help="turns; the median counts (default 5)")
    add("--gt-size", type=int, default=128, metavar="N", help="side of the crop (default 128)")
    add("--dir", metavar="DIR", help="folder for the images (default: a temporary one, removed)")
    return parser

"""Runs of the pipeline and their results; small photographs, files and tasks for its parts."""

from pathlib import Path

import cv2
import numpy as np

from unirain_plugin.distill.options import parse_options
from unirain_plugin.distill.pipeline import Pipeline
from unirain_plugin.distill.records import Candidate, Reference, Retrieved, VoteTask

RESULTS = ("manifest.jsonl", "votes.jsonl", "statistics.json", "meta_info/index.json", "meta_info/drs.txt")


def run(settings, restart=False, **changes):
    return Pipeline(parse_options({**settings, **changes}, "test.yml"), quiet=True).run(restart)


def contents(folder):
    return {name: (Path(folder) / name).read_bytes() for name in RESULTS}


def photographs(size=128):
    """Square crops of scikit-image's photographs, by name."""
    from skimage import data

    crops = {}
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        photo = getattr(data, name)()
        side = min(photo.shape[:2])
        crops[name] = cv2.resize(photo[:side, :side], (size, size), interpolation=cv2.INTER_AREA)
    return crops


def write_png(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., ::-1]))


def make_task(seed=0, caption="rain at night", references=2):
    """What voters vote on."""
    rng = np.random.default_rng(seed)
    gt = rng.integers(0, 200, (40, 56, 3), dtype=np.uint8)
    lq = gt + rng.integers(0, 50, (40, 56, 1), dtype=np.uint8)
    candidate = Candidate(f"c{seed}", Path("lq"), Path("gt"), "drs", "set", caption, _lq=lq, _gt=gt)
    found = [
        Retrieved(Reference(f"r{i}", Path("r"), None, "a street", _image=gt[::-1].copy()), 0.1, 0.9, 0.5)
        for i in range(references)
    ]
    return VoteTask(candidate, found)

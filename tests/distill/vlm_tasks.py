"""Small tasks for voters."""

from pathlib import Path

import numpy as np

from unirain_plugin.distill.records import Candidate, Reference, Retrieved, VoteTask


def make_task(seed=0, caption="rain at night", references=2, name=None):
    rng = np.random.default_rng(seed)
    gt = rng.integers(0, 200, (40, 56, 3), dtype=np.uint8)
    lq = gt + rng.integers(0, 50, (40, 56, 1), dtype=np.uint8)
    candidate = Candidate(name or f"c{seed}", Path("lq"), Path("gt"), "drs", "set", caption, _lq=lq, _gt=gt)
    found = [
        Retrieved(Reference(f"r{i}", Path("r"), None, "a street", _image=gt[::-1].copy()), 0.1, 0.9, 0.5)
        for i in range(references)
    ]
    return VoteTask(candidate, found)

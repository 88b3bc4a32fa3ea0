"""Options of comparisons; a small one for figure and page: flat images, whose colours are easily found again."""

import numpy as np

from unirain_plugin.compare.summary import Comparison, ImageResult, ModelRow

PAIRED, SNAPSHOTS = "Paired", "Snapshots"
COLOURS = {"input": (200, 60, 60), "Good": (60, 124, 60), "Bad": (60, 60, 180), "gt": (60, 120, 60)}
TYPES = {"one": "drs", "two": "nrd", "three": "nrd"}


def option_dict(output, models, test_set, **more):
    """Options of a comparison on one test set, without what takes time."""
    content = {"name": "c", "models": models, "test_sets": [{"name": "s", **test_set}], "output": str(output)}
    return {**content, "cost": {"enabled": False}, "figure": {"enabled": False}, "device": "cpu", **more}


def arrays(test_set, image):
    """Flat colours; ``Bad`` has no result for ``two``, and snapshots have no clean image."""
    size = (60, 100) if image != "three" else (90, 40)
    found = {name: np.full((*size, 3), colour, np.uint8) for name, colour in COLOURS.items()}
    if image == "two":
        del found["Bad"]
    if test_set == SNAPSHOTS:
        del found["gt"]
    return found


def comparison():
    """Two models and the baseline on three pairs and one snapshot; every number differs."""
    results = []
    for number, image in enumerate(TYPES):
        for name, psnr in (("input", 15.0), ("Good", 36.5), ("Bad", 9.25)):
            if (name, image) != ("Bad", "two"):
                metrics = {"psnr": psnr + number, "ssim": 0.5 + psnr / 100}
                results.append(ImageResult(name, PAIRED, image, TYPES[image], metrics))
    results += [ImageResult(name, SNAPSHOTS, "walk <i>", None, {}) for name in ("input", "Good", "Bad")]
    models = [
        ModelRow("input", "ok"),
        ModelRow("Good", "ok", 24_400_000, 150 * 10**9, 120.5, 900.0),
        ModelRow("Untrained", "untrained: cost only, no scores", 2_000_000),
        ModelRow("Bad", "out of memory", 900_000, 9 * 10**9, 8.25, 100.0),
    ]
    return Comparison("tést & <b>name</b>", models, [PAIRED, SNAPSHOTS], results, ["psnr", "ssim"], arrays)

"""The colour photographs that scikit-image, which BasicSR requires, installs: something to train and test on at once.

Its other samples would be fetched from the network; microscopy, astronomy and drawings are left out.
"""

import importlib.util
from pathlib import Path

from unirain_plugin.errors import DataError, OptionError, did_you_mean

SPLITS: dict[str, tuple[str, ...]] = {
    "train": ("astronaut.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png"),
    "held-out": ("chelsea.png", "rocket.jpg"),
}
"""Split → file names, divided by scene: both views of the motorcycle are on one side."""


def sample_photos(split: str = "all") -> list[Path]:
    """Paths of the photographs of a split, or ``all``; scikit-image is not imported, but must be there (DataError)."""
    known = (*SPLITS, "all")
    if split not in known:
        hint = did_you_mean(split, known)
        raise OptionError(f"split {split!r} is unknown; expected one of {', '.join(known)}.{hint}")
    names = sum(SPLITS.values(), ()) if split == "all" else SPLITS[split]
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the embedded photographs need scikit-image: pip install scikit-image (or name a folder).")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder}: this scikit-image lacks {', '.join(missing)}; install scikit-image ≥ 0.22 or name "
                        "a folder of photographs.")  # fmt: skip
    return [folder / name for name in names]

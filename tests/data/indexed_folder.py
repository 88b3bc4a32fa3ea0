"""Folders of small pictures, and their pairs as ``index-dataset`` finds them."""

from data_pictures import encode, picture

from unirain_plugin.data.manifest import read_manifest
from unirain_plugin.preparation.command import index_dataset


def plant(root, *paths, size=(8, 12)):
    """Write a different small picture to every path."""
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        seed = sum(ord(c) * (i + 1) for i, c in enumerate(path))
        suffix = "." + path.rpartition(".")[2]
        target.write_bytes(encode(picture(*size, seed=seed), suffix))


def index(root, layout, *arguments, output=None):
    output = output or root.parent / "m.jsonl"
    base = ["--layout", str(layout), "--root", str(root), "--output", str(output), "--workers", "1", "--overwrite"]
    assert index_dataset([*base, *arguments]) == 0
    prefix = f"{root.name}/"
    return [(r.lq.removeprefix(prefix), r.gt.removeprefix(prefix), r.rain_type) for r in read_manifest(output)]

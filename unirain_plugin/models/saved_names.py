"""Names of saved images: the path below what all images of a set share, so that none takes another's place."""

from __future__ import annotations

import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from unirain_plugin.support.names import safe_path

Named = tuple[str, "int | None"]


def image_paths(dataset: Any) -> list[Named]:
    """Path or key and label of every image of a set in its order; empty for a set that does not list them."""
    if hasattr(dataset, "lq_names"):
        return dataset.lq_names()
    entries = getattr(dataset, "paths", None)
    if not isinstance(entries, Sequence):
        return []
    return [(str(entry["lq_path"] if isinstance(entry, Mapping) else entry), None) for entry in entries]


def unique_names(paths: Sequence[str]) -> list[str]:
    """A name for each path: without suffix, and without the folders that all have in common; unique."""
    common = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    names = []
    for path in paths:
        stem = os.path.splitext(os.path.relpath(path, common) if common else path)[0]
        names.append(safe_path(stem))
    return _distinct(names)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names; of equal ones the later ones get a number that makes no name that is there already."""
    used, found, counts = set(names), [], Counter()
    for name in names:
        counts[name] += 1
        if counts[name] > 1:
            numbers = itertools.count(counts[name])
            name = next(new for number in numbers if (new := f"{name}-{number}") not in used)
            used.add(name)
        found.append(name)
    return found


def names_by_type(dataset: Any) -> list[str]:
    """The names of a set's images, unique among those of one label; empty where it does not list them."""
    groups: dict[int | None, list[int]] = defaultdict(list)
    paths = image_paths(dataset)
    for index, (_, label) in enumerate(paths):
        groups[label].append(index)
    names = [""] * len(paths)
    for indices in groups.values():
        for index, name in zip(indices, unique_names([paths[i][0] for i in indices]), strict=True):
            names[index] = name
    return names


def validates_several(opt: Mapping[str, Any]) -> bool:
    """Whether a training run validates several sets, whose images of one name must not overwrite each other."""
    return sum(key.split("_")[0] == "val" for key in opt.get("datasets") or ()) > 1


def saved_path(opt: Mapping[str, Any], dataset: str, name: str, rain_type: str | None, iteration: Any) -> Path:
    """Where a restored image is saved: as in the toolbox, with the rain type where there is one.

    Args:
        opt: The run's options.
        dataset: Name of the set.
        name: The image's, with ``/``.
        rain_type: Its rain type.
        iteration: Of a training run.
    """
    root = Path(opt["path"]["visualization"])
    if not opt["is_train"]:
        folder = root / dataset / rain_type if rain_type else root / dataset
        return folder / f"{name}_{opt['val'].get('suffix') or opt['name']}.png"
    folder = (root / dataset if validates_several(opt) else root) / (f"{rain_type}_{name}" if rain_type else name)
    stem = name.rpartition("/")[2]
    return folder / f"{rain_type}_{stem}_{iteration}.png" if rain_type else folder / f"{stem}_{iteration}.png"


class _Renamed:
    """A loader whose items are named for models that save by the stem of ``lq_path``."""

    def __init__(self, loader: DataLoader, names: Sequence[str]) -> None:
        self._loader, self._names, self.dataset = loader, names, loader.dataset

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for name, item in zip(self._names, self._loader, strict=True):
            yield {**item, "lq_path": [f"{name}.png"]}


def path_in_saved_names() -> tuple[object, str, object]:
    """A replacement for ``BaseModel.validation``: the toolbox's models save by stem, and lose all but one of a stem."""
    from basicsr.models.base_model import BaseModel

    from unirain_plugin.models.per_type_validation import PerTypeValidation

    validation = BaseModel.validation

    def wrapper(self: Any, dataloader: DataLoader, current_iter: Any, tb_logger: Any, save_img: bool = False) -> None:
        if save_img and not isinstance(self, PerTypeValidation):
            paths = [path for path, _ in image_paths(dataloader.dataset)]
            several = self.opt["is_train"] and validates_several(self.opt)
            prefix = f"{dataloader.dataset.opt['name']}_" if several else ""
            names = [prefix + name.replace("/", "_") for name in unique_names(paths)]
            # cv2.imwrite, by which they save, dies of a name that is not UTF-8
            names = _distinct([os.fsencode(name).decode("utf-8", "replace") for name in names])
            dataloader = _Renamed(dataloader, names) if names else dataloader
        validation(self, dataloader, current_iter, tb_logger, save_img)

    return BaseModel, "validation", wrapper

"""Rain types: those of the data sets, of the loss and of the best figure must fit together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from unirain_plugin.errors import DataError, OptionError, nearest
from unirain_plugin.options.problems import KeyPath, Problems
from unirain_plugin.options.registries import section
from unirain_plugin.options.schema import called, dataset_class, model_class
from unirain_plugin.options.vocabulary import is_own, is_stock
from unirain_plugin.rain_types import rain_type_ids

Types = tuple[str, ...]


def check_labels(opt: Mapping, problems: Problems, is_train: bool, check_paths: bool) -> None:
    """Note rain types that a data set's folder lacks, that the loss does not know, or that have no figure.

    All this would show only in the midst of a run: with the first batch of that type, or the first validation.

    Args:
        opt: The options as loaded.
        problems: Takes errors and warnings.
        is_train: Whether the file is for training or for testing.
        check_paths: Whether folders may be looked at.
    """
    types = {str(phase): _types_of(opt, str(phase), problems, check_paths) for phase in section(opt, "datasets")}
    if is_train:
        _check_unlabelled(opt, problems)
    if is_train and is_own(model_class(opt)):
        _check_loss(opt, types, problems)
        _check_best(opt, types, problems)


def _types_of(opt: Mapping, phase: str, problems: Problems, check_paths: bool) -> Types | None:
    """The rain types of a data set of ours; None where they cannot be known without reading it all."""
    from unirain_plugin.data.manifest import rain_types_in
    from unirain_plugin.data.pair_sources import types_in_order
    from unirain_plugin.data.rainrag_folder import GT_FOLDER, LQ_FOLDER, find_types

    cls, here, where = dataset_class(opt, phase), section(opt, "datasets", phase), ("datasets", phase)
    is_wrong = any(path[:2] == where for path in problems.wrong)
    if not is_own(cls) or "rain_types" not in getattr(cls, "OPTIONS", ()) or is_wrong:
        return None
    listed, root, manifest = here.get("rain_types"), here.get("dataroot"), here.get("manifest")
    if listed is None and isinstance(manifest, str) and check_paths:
        file = os.path.expanduser(manifest)
        return (types_in_order(rain_types_in(file)) or None) if os.path.isfile(file) else None
    if manifest is not None or not isinstance(root, str) or not check_paths:
        return tuple(listed) if listed else None
    on_lmdb = section(here, "io_backend").get("type") == "lmdb"
    members = ("lq.lmdb", "gt.lmdb") if on_lmdb else (LQ_FOLDER, GT_FOLDER)
    try:
        types = tuple(find_types(os.path.expanduser(root), listed, members))
        rain_type_ids(types)
    except (DataError, OptionError) as error:
        problems.error((*where, "rain_types" if listed else "dataroot"), str(error))
        return None
    return types


def _check_unlabelled(opt: Mapping, problems: Problems) -> None:
    """A loss that is to be reweighted by rain type, where the toolbox's model or data set knows of no rain types."""
    model, data = model_class(opt), dataset_class(opt, "train")
    for key, loss in section(opt, "train").items():
        target = called(opt, ("train", key)) if str(key).endswith("_opt") else None
        if target is None or "rain_types" not in getattr(target[0], "OPTIONS", ()):
            continue
        blame = None
        if is_stock(model):
            blame = f"{opt['model_type']} gives it no rain types (UniRainModel does)"
        elif is_stock(data):
            kind = section(opt, "datasets", "train")["type"]
            blame = f"datasets.train ({kind}) gives it no rain types (DistilledMixedPairedDataset does)"
        if blame:
            text = f"{blame}: it is its plain base loss, and mode '{loss.get('mode', 'paper')}' has no effect."
            problems.warn(("train", key), text)
        sets = [str(phase) for phase in section(opt, "datasets") if str(phase).split("_")[0] == "val"]
        if is_own(model) and loss.get("source") == "val" and sets and is_stock(dataset_class(opt, sets[0])):
            kind = section(opt, "datasets", sets[0])["type"]
            text = f"found val, but datasets.{sets[0]} ({kind}), the first validation set, has no rain types."
            problems.error(("train", key, "source"), text)


def _check_loss(opt: Mapping, types: Mapping[str, Types | None], problems: Problems) -> None:
    """Labels of the training set, and names of the validation sets that ``source: val`` learns from."""
    from unirain_plugin.losses.reweighted_loss import RainLabels

    where: KeyPath = ("train", "pixel_opt")
    target, loss = called(opt, where), section(opt, *where)
    if target is None or not is_own(target[0]) or any(path[:2] == where for path in problems.wrong):
        return
    if not hasattr(target[0], "OPTIONS") or "rain_types" not in target[0].OPTIONS:
        return
    names = RainLabels(loss.get("rain_types"), loss.get("num_types")).names
    key = next((key for key in ("rain_types", "num_types") if loss.get(key) is not None), None)
    by_number = key == "num_types"  # the loss's own names (type4, …) are no more than numbers then
    for phase, found in types.items():
        learns = loss.get("source") == "val" and phase != "train"
        if found is None or not (phase == "train" or learns):
            continue
        ids, known = rain_type_ids(found), rain_type_ids(names)
        labels = set(range(len(names))) if by_number and not learns else None
        unknown = [name for name, label in ids.items() if (label not in labels if labels else name not in known)]
        if unknown:
            text = f"the loss has no {', '.join(unknown)}, which datasets.{phase} holds; it has {', '.join(names)}."
            problems.error((*where, key) if key else where, text)
        elif labels is None and (moved := [name for name in ids if ids[name] != known[name]]):
            text = f"{', '.join(moved)}: another label than in datasets.{phase}; list further types in the same order."
            problems.error((*where, key) if key else where, text)
    if key == "rain_types" and types.get("train"):
        _warn_of_unused(where, names, types["train"], problems)


def _warn_of_unused(where: KeyPath, names: Sequence[str], held: Types, problems: Problems) -> None:
    unused = [name for name in names if name not in held]
    if unused and not any(path[:2] == where for path in problems.wrong):
        problems.warn((*where, "rain_types"), f"datasets.train holds no {', '.join(unused)}.")


def _check_best(opt: Mapping, types: Mapping[str, Types | None], problems: Problems) -> None:
    """``val: best:`` names a set that is validated and a rain type that the set holds."""
    best = section(opt, "val").get("best")
    best = {"metric": best} if isinstance(best, str) else best
    if not isinstance(best, Mapping) or any(path[:2] == ("val", "best") for path in problems.wrong):
        return
    names = {str(section(opt, "datasets", phase).get("name")): phase for phase in types if phase != "train"}
    wanted = best.get("dataset")
    if wanted is not None and wanted not in names:
        match = nearest(wanted, names)
        hint = f"Did you mean '{match}'?" if match else f"There are: {', '.join(names) or 'none'}."
        problems.error(("val", "best", "dataset"), f"no validation set has the name '{wanted}'. {hint}")
        return
    phase = names.get(wanted) if wanted is not None else next(iter(names.values()), None)
    _, slash, part = str(best.get("metric")).partition("/")
    held = types.get(phase) if phase is not None else None
    if slash and held is not None and part not in (*held, "worst"):
        match = nearest(part, (*held, "worst"))
        hint = f" Did you mean '{match}'?" if match else ""
        text = f"datasets.{phase} has no rain type '{part}'; it holds {', '.join(held)} (or 'worst').{hint}"
        path = ("val", "best", "metric") if isinstance(section(opt, "val").get("best"), Mapping) else ("val", "best")
        problems.error(path, text)

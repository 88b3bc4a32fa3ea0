"""Data sets, paths and rain types: phases, loader settings, what must exist, and labels that must fit together."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from unirain_plugin.data.folders import GT_FOLDER, LQ_FOLDER, find_types, types_in_order
from unirain_plugin.data.manifest import rain_types_in
from unirain_plugin.data.sources import META_FILE, check_file
from unirain_plugin.errors import DataError, OptionError, did_you_mean, nearest
from unirain_plugin.options.sections import called, dataset_class, model_class, section
from unirain_plugin.options.toolbox_keys import is_own, is_stock, reads_of
from unirain_plugin.options.yaml_loader import Problems
from unirain_plugin.rain_types import rain_type_ids
from unirain_plugin.support.files import safe_path
from unirain_plugin.support.spec import KeyPath, found

Types = tuple[str, ...]


def check_data(opt: Mapping, problems: Problems, is_train: bool, check_paths: bool) -> None:
    """Note what is wrong with the data sets, their loaders and all paths; with ``check_paths`` these must exist."""
    datasets = section(opt, "datasets")
    if isinstance(opt.get("datasets"), Mapping) and not datasets:
        expected = "'train' (and 'val')" if is_train else "'test_1' or another name that begins with 'test'"
        problems.error(("datasets",), f"holds no data set; expected {expected}.")
    _check_phases(datasets, problems, is_train)
    _check_names(datasets, problems)
    for phase, here in datasets.items():
        if isinstance(here, Mapping):
            _check_loader(str(phase), here, problems)
            _check_format(opt, str(phase), here, problems)
            if check_paths:
                _check_folders(opt, str(phase), here, problems)
    for key, value in section(opt, "path").items():
        _check_path(("path", key), value, problems, check_paths)


def _check_phases(datasets: Mapping, problems: Problems, is_train: bool) -> None:
    names = ("train", "val") if is_train else ("test", "val")
    for phase in datasets:
        kind = str(phase).split("_")[0]
        fits = (phase == "train" or kind == "val") if is_train else kind in names
        if fits:
            continue
        if kind == "train" and not is_train:
            text = "is a training set (random crops), in an option file for testing; expected 'test_1', 'val', …."
        else:
            match = nearest(phase, names) or nearest(kind, names)
            expected = "'train', 'val', 'val_1', …" if is_train else "'test_1', 'test_2', 'val', …"
            text = f"unknown phase; expected {expected}." + (f" Did you mean '{match}'?" if match else "")
        problems.error(("datasets", phase), text)


def _check_names(datasets: Mapping, problems: Problems) -> None:
    """Results are kept in folders of the data sets' names, below that of the results, each of its own."""
    seen: dict[str, object] = {}
    for phase, here in datasets.items():
        name = here.get("name") if isinstance(here, Mapping) else None
        if isinstance(name, str) and phase != "train":
            if safe_path(name) != name:
                text = f"found {found(name)}; expected a folder below the results: without '..', '/' in front and \\."
                problems.error(("datasets", phase, "name"), text)
            if name in seen:
                text = f"'{name}' is also the name of datasets.{seen[name]}; results of the two would be mixed up."
                problems.error(("datasets", phase, "name"), text)
            seen.setdefault(name, phase)


def _check_loader(phase: str, here: Mapping, problems: Problems) -> None:
    import torch

    training = phase.split("_")[0] == "train"
    workers, mode = (("datasets", phase, key) for key in ("persistent_workers", "prefetch_mode"))
    if here.get("persistent_workers") is True:
        if not training:
            problems.error(workers, "the toolbox reads validation and test sets without workers; leave the key out.")
        elif here.get("num_worker_per_gpu") == 0:
            problems.error(workers, "needs workers, but num_worker_per_gpu is 0; write false, or use workers.")
    if here.get("prefetch_mode") == "cuda" and training:
        if not torch.cuda.is_available():
            problems.error(mode, "'cuda' needs a CUDA device, and PyTorch sees none here; write ~ or 'cpu'.")
        elif here.get("pin_memory") is not True:
            problems.error(mode, "'cuda' needs 'pin_memory: true' beside it.")


def _check_format(opt: Mapping, phase: str, here: Mapping, problems: Problems) -> None:
    scale = here.get("scale", opt.get("scale"))
    size = here.get("gt_size")
    if type(scale) is int and type(size) is int and scale > 0 and size % scale:
        problems.error(("datasets", phase, "gt_size"), f"found {size}; expected a multiple of scale ({scale}).")
    cls = dataset_class(opt, phase)
    if cls is None or is_own(cls):
        return
    reads = reads_of(cls)
    for key in ("dataroot_gt", "dataroot_lq"):
        value, where = here.get(key), ("datasets", phase, key)
        if key not in here or (key,) not in reads.required:
            continue
        if not isinstance(value, str):
            problems.error(where, f"found {found(value)}; expected the folder of the images.")
        elif section(here, "io_backend").get("type") == "lmdb" and not value.endswith(".lmdb"):
            problems.error(where, f"found {found(value)}; expected a folder *.lmdb, as io_backend is lmdb.")


def _check_folders(opt: Mapping, phase: str, here: Mapping, problems: Problems) -> None:
    backend = section(here, "io_backend").get("type")
    for key, value in here.items():
        where = ("datasets", phase, key)
        if str(key).startswith("dataroot") and backend != "memcached":
            for path, text in _texts(value, where):
                if path not in problems.wrong and _exists(path, text, "folder", problems):
                    _check_lmdb(opt, phase, backend, path, text, problems)
        elif str(key).startswith(("meta_info", "manifest")):
            paths = list(_texts(value, where))
            there = [Path(text).expanduser().is_file() for _, text in paths]
            if key == "manifest" and here.get("missing_manifests") == "skip" and any(there):
                missing = [text for (_, text), found in zip(paths, there, strict=True) if not found]
                if missing:
                    text = f"{len(missing)} are missing and left out: {', '.join(missing)}."
                    problems.warn(where, text, told_by_run=True)
                continue
            for path, text in paths:
                _exists(path, text, "file", problems)


def _check_lmdb(opt: Mapping, phase: str, backend: object, path: KeyPath, text: str, problems: Problems) -> None:
    own = is_own(dataset_class(opt, phase))  # ours keeps one LMDB per rain type in the folder and looks itself
    if backend != "lmdb" or own:
        return
    if not (Path(text).expanduser() / META_FILE).is_file():
        problems.error(path, f"{found(text)} holds no {META_FILE}, so it is no LMDB of the toolbox.")
        return
    try:
        check_file(os.path.expanduser(text))
    except DataError as error:
        problems.error(path, str(error))


def _check_path(where: KeyPath, value: object, problems: Problems, check_paths: bool) -> None:
    """Files of weights and states exist; a misspelt part of them the toolbox would pass over in silence."""
    name, usual = str(where[1]), ("params", "params_ema")
    if not isinstance(value, str):
        return
    if name.startswith("param_key") and value not in usual and (match := nearest(value, usual)):
        problems.error(where, f"found {found(value)}. Did you mean '{match}'?")
    if check_paths and (name.startswith("pretrain_network") or name == "resume_state"):
        _exists(where, value, "file", problems)


def _texts(value: object, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """The strings in a value that may be one path, a list or a section of paths."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, (list, Mapping)):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _texts(inner, (*path, key))


def _exists(path: KeyPath, text: str, kind: str, problems: Problems) -> bool:
    if not text.strip():
        problems.error(path, f"found an empty text; expected a {kind}.")
        return False
    target = Path(text).expanduser()
    if target.is_dir() if kind == "folder" else target.is_file():
        return True
    if text.lower() in ("none", "null", "~"):
        problems.error(path, f"found {found(text)}; for nothing write ~ (or null).")
    elif target.exists():
        problems.error(path, f"'{text}' is a {'file' if kind == 'folder' else 'folder'}; expected a {kind}.")
    else:
        siblings = [entry.name for entry in target.parent.iterdir()] if target.parent.is_dir() else []
        hint = did_you_mean(target.name, siblings)
        if not target.is_absolute():
            hint += f" (Relative to {Path.cwd()}.)"
        problems.error(path, f"there is no {kind} '{text}'.{hint}")
    return False


def check_labels(opt: Mapping, problems: Problems, is_train: bool, check_paths: bool) -> None:
    """Note rain types that a data set's folder lacks, that the loss does not know, or that have no figure.

    Else this would show only in the midst of a run. With ``check_paths`` folders are looked at.
    """
    types = {str(phase): _types_of(opt, str(phase), problems, check_paths) for phase in section(opt, "datasets")}
    if is_train:
        _check_unlabelled(opt, problems)
    if is_train and is_own(model_class(opt)):
        _check_loss(opt, types, problems)
        _check_best(opt, types, problems)


def _types_of(opt: Mapping, phase: str, problems: Problems, check_paths: bool) -> Types | None:
    """The rain types of a data set of ours; None where they cannot be known without reading it all."""
    cls, here, where = dataset_class(opt, phase), section(opt, "datasets", phase), ("datasets", phase)
    is_wrong = problems.is_wrong(where)
    if not is_own(cls) or "rain_types" not in getattr(cls, "OPTIONS", ()) or is_wrong:
        return None
    listed, root, manifest = here.get("rain_types"), here.get("dataroot"), here.get("manifest")
    if listed is None and manifest is not None and check_paths:
        files = [os.path.expanduser(text) for _, text in _texts(manifest, where)]
        there = list(filter(os.path.isfile, files))
        if here.get("missing_manifests") != "skip" and len(there) < len(files):
            return None
        return types_in_order(set().union(*map(rain_types_in, there))) or None
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
            problems.warn(("train", key), text, told_by_run=True)
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
    takes_types = target is not None and "rain_types" in getattr(target[0], "OPTIONS", ())
    if not takes_types or not is_own(target[0]) or problems.is_wrong(where):
        return
    names = RainLabels(loss.get("rain_types"), loss.get("num_types")).names
    key = next((key for key in ("rain_types", "num_types") if loss.get(key) is not None), None)
    by_number = key == "num_types"  # the loss's own names (type4, …) are no more than numbers then
    for phase, held in types.items():
        learns = loss.get("source") == "val" and phase != "train"
        if held is None or not (phase == "train" or learns):
            continue
        ids, known = rain_type_ids(held), rain_type_ids(names)
        labels = set(range(len(names))) if by_number and not learns else None
        unknown = [name for name, label in ids.items() if (label not in labels if labels else name not in known)]
        if unknown:
            text = f"the loss has no {', '.join(unknown)}, which datasets.{phase} holds; it has {', '.join(names)}."
            problems.error((*where, key) if key else where, text)
        elif labels is None and (moved := [name for name in ids if ids[name] != known[name]]):
            text = f"{', '.join(moved)}: another label than in datasets.{phase}; list further types in the same order."
            problems.error((*where, key) if key else where, text)
    held = types.get("train") if key == "rain_types" else None
    unused = [name for name in names if name not in held] if held else []
    if unused and not problems.is_wrong(where):
        problems.warn((*where, "rain_types"), f"datasets.train holds no {', '.join(unused)}.")


def _check_best(opt: Mapping, types: Mapping[str, Types | None], problems: Problems) -> None:
    """``val: best:`` names a set that is validated and a rain type that the set holds."""
    best = section(opt, "val").get("best")
    best = {"metric": best} if isinstance(best, str) else best
    if not isinstance(best, Mapping) or problems.is_wrong(("val", "best")):
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

"""The ``datasets`` and ``path`` sections: phases, loader settings, and whether files and folders exist."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from unirain_plugin.data.sources import META_FILE, check_file
from unirain_plugin.errors import DataError, did_you_mean, nearest
from unirain_plugin.options.problems import KeyPath, Problems
from unirain_plugin.options.registries import section
from unirain_plugin.options.schema import dataset_class
from unirain_plugin.options.vocabulary import is_own, reads_of
from unirain_plugin.support.words import found


def check_data(opt: Mapping, problems: Problems, is_train: bool, check_paths: bool) -> None:
    """Note what is wrong with the data sets, their loaders and all paths.

    Args:
        opt: The options as loaded.
        problems: Takes errors and warnings.
        is_train: Whether the file is for training or for testing.
        check_paths: Whether files and folders must exist.
    """
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
    _check_param_keys(section(opt, "path"), problems)
    if check_paths:
        _check_files(section(opt, "path"), problems)


def _check_phases(datasets: Mapping, problems: Problems, is_train: bool) -> None:
    for phase in datasets:
        kind = str(phase).split("_")[0]
        if is_train and phase != "train" and kind != "val":
            match = nearest(phase, ["train", "val"]) or nearest(kind, ["train", "val"])
            hint = f" Did you mean '{match}'?" if match else ""
            problems.error(("datasets", phase), f"unknown phase; expected 'train', 'val', 'val_1', ….{hint}")
        elif not is_train and kind == "train":
            text = "is a training set (random crops), in an option file for testing; expected 'test_1', 'val', …."
            problems.error(("datasets", phase), text)
        elif not is_train and kind not in ("val", "test"):
            match = nearest(kind, ["test", "val"])
            hint = f" Did you mean '{match}'?" if match else ""
            problems.error(("datasets", phase), f"unknown phase; expected 'test_1', 'test_2', 'val', ….{hint}")


def _check_names(datasets: Mapping, problems: Problems) -> None:
    """Results are kept by the data set's name, so two sets of one name overwrite each other's."""
    seen: dict[str, object] = {}
    for phase, here in datasets.items():
        name = here.get("name") if isinstance(here, Mapping) else None
        if isinstance(name, str) and phase != "train":
            if name in seen:
                text = f"'{name}' is also the name of datasets.{seen[name]}; results of the two would be mixed up."
                problems.error(("datasets", phase, "name"), text)
            seen.setdefault(name, phase)


def _check_loader(phase: str, here: Mapping, problems: Problems) -> None:
    import torch

    where, training = ("datasets", phase), phase.split("_")[0] == "train"
    if here.get("persistent_workers") is True:
        if training and here.get("num_worker_per_gpu") == 0:
            text = "needs workers, but num_worker_per_gpu is 0; write false, or use workers."
            problems.error((*where, "persistent_workers"), text)
        elif not training:
            text = "the toolbox reads validation and test sets without workers; leave the key out."
            problems.error((*where, "persistent_workers"), text)
    if here.get("prefetch_mode") == "cuda" and training:
        if not torch.cuda.is_available():
            text = "'cuda' needs a CUDA device, and PyTorch sees none here; write ~ or 'cpu'."
            problems.error((*where, "prefetch_mode"), text)
        elif here.get("pin_memory") is not True:
            problems.error((*where, "prefetch_mode"), "'cuda' needs 'pin_memory: true' beside it.")


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
            for path, text in _texts(value, where):
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


def _check_param_keys(paths: Mapping, problems: Problems) -> None:
    """The toolbox takes ``params`` in silence where a file has no entry of the name that is given."""
    for key, value in paths.items():
        usual = ("params", "params_ema")
        match = nearest(value, usual) if str(key).startswith("param_key") and isinstance(value, str) else None
        if match and value not in usual:
            problems.error(("path", key), f"found {found(value)}. Did you mean '{match}'?")


def _check_files(paths: Mapping, problems: Problems) -> None:
    for key, value in paths.items():
        if isinstance(value, str) and (str(key).startswith("pretrain_network") or key == "resume_state"):
            _exists(("path", key), value, "file", problems)


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

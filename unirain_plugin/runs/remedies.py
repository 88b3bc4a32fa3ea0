"""What our runner puts in place of the toolbox's own during a run; see ``Run.replacements`` for the list."""

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Any

from unirain_plugin.errors import CheckpointError, DataError, OptionError, TrainingError, UniRainError
from unirain_plugin.support.packages import own_code, place_of
from unirain_plugin.toolbox import registered


def unused_path(path: Path) -> Path:
    """``path``, or where that exists ``STEM_1.SUFFIX``, ``STEM_2.SUFFIX``, …: the toolbox's names tell seconds only."""
    candidates = (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in itertools.count(1))
    return path if not path.exists() else next(name for name in candidates if not name.exists())


def archive_folder(path: str | os.PathLike[str]) -> Path | None:
    """Make an empty folder; what was there moves to ``NAME_archived_TIME``, which is returned (None: nothing was).

    The toolbox's ``mkdir_and_rename`` fails when two runs start within one second.
    """
    path, target = Path(path), None
    if path.exists():
        target = unused_path(path.with_name(f"{path.name}_archived_{time.strftime('%Y%m%d_%H%M%S')}"))
        path.rename(target)
    path.mkdir(parents=True)
    return target


def forward_loader_errors() -> tuple[object, str, object]:
    """A replacement for ``PrefetchGenerator`` (``prefetch_mode: cpu``) whose reading thread passes its errors on.

    In the toolbox's the thread dies with its error, and training waits for the next batch for ever.
    """
    from basicsr.data import prefetch_dataloader

    class PrefetchGenerator(prefetch_dataloader.PrefetchGenerator):
        def run(self) -> None:
            try:
                for item in self.generator:
                    self.queue.put(item)
                self.queue.put(None)
            except BaseException as error:
                self.queue.put(error)

        def __next__(self) -> object:
            item = super().__next__()
            if isinstance(item, BaseException):
                raise item
            return item

    return prefetch_dataloader, "PrefetchGenerator", PrefetchGenerator


def explain_building_errors() -> list[tuple[object, str, object]]:
    """Replacements for the builders of networks and losses: what a constructor refuses is an OptionError."""
    from basicsr.models import sr_model

    def explained(build: Callable[[dict], object], key: str) -> Callable[[dict], object]:
        def told(opt: dict) -> object:
            try:
                return build(opt)
            except UniRainError:
                raise
            except (TypeError, ValueError) as error:
                kind = f"{key}: {opt['type']} cannot be built from its options"
                raise OptionError(f"{kind}: {error}{place_of(error)}.") from error

        return told

    names = {"build_network": "network_g", "build_loss": "train"}
    return [(sr_model, name, explained(getattr(sr_model, name), key)) for name, key in names.items()]


def name_items(types: Iterable[str]) -> list[tuple[object, str, object]]:
    """Replacements by which data sets of these types tell the item that a user's own code fails on."""
    classes = {registered("dataset").get(name) for name in types} - {None}
    return [(cls, "__getitem__", _named(cls.__getitem__)) for cls in classes if hasattr(cls, "__getitem__")]


def _named(get: Callable[[Any, int], object]) -> Callable[[Any, int], object]:
    @wraps(get)
    def told(self: Any, index: int) -> object:
        try:
            return get(self, index)
        except (Exception, SystemExit):
            paths = getattr(self, "paths", None)
            listed = paths[index] if isinstance(paths, list) and index < len(paths) else None
            item = _path_of(getattr(self, "reading", listed)) or f"item {index}"
            with own_code(f"a data set of your own, {type(self).__name__},", item, DataError):
                raise

    return told


def _path_of(item: object) -> str:
    path = item.get("lq_path") if isinstance(item, Mapping) else item
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""


def name_batches(loader: Any) -> Any:
    """Have a loader tell the images that make no batch together; returns it."""
    loader.collate_fn = partial(_collated, loader.collate_fn)
    return loader


def _collated(collate: Callable[[list[Any]], object], items: list[Any]) -> object:
    names = ", ".join(_path_of(item) or f"a {type(item).__name__}" for item in items)
    with own_code("making a batch", names, DataError, always=True):
        return collate(items)


def name_images(model: Any) -> Any:
    """Have a model tell on which images a network, loss or metric of a user's own failed; returns it."""
    fed, feed = ["no image yet"], model.feed_data

    def feed_data(data: Any, *others: object) -> None:
        fed[:] = data.get("read_from", data.get("lq_path", ())) if isinstance(data, Mapping) else ()
        feed(data, *others)

    def told(work: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*args: object, **kwargs: object) -> object:
            try:
                return work(*args, **kwargs)
            except (Exception, SystemExit):
                with own_code(
                    "a part of your own", ", ".join(map(str, fed)) or "a batch without 'lq_path'", TrainingError
                ):
                    raise

        return wrapper

    model.feed_data = told(feed_data)
    for name in ("optimize_parameters", "validation"):
        setattr(model, name, told(getattr(model, name)))
    return model


def explain_loading_errors() -> tuple[object, str, object]:
    """A replacement for ``BaseModel.load_network``: says in one message what does not fit.

    It reads .safetensors and checkpoints of other programs as well, as inference does.
    """
    import pickle

    from basicsr.models.base_model import BaseModel

    from unirain_plugin.checkpoints.states import check_sums, unread_reason

    load = BaseModel.load_network

    def load_network(
        self: object, net: object, load_path: str, strict: bool = True, param_key: str | None = "params"
    ) -> None:
        try:
            if str(load_path).lower().endswith(".safetensors"):
                _load_weights(self, net, str(load_path), strict)
                return
            check_sums(load_path)
            try:
                load(self, net, load_path, strict, param_key)
            except KeyError as error:
                if param_key not in ("params", "params_ema"):  # another part was asked for
                    raise
                try:
                    _load_weights(self, net, str(load_path), strict)
                except CheckpointError:
                    raise error from None
        except UniRainError:  # our networks explain themselves
            raise
        except Exception as error:
            if isinstance(error, KeyError):
                reason = f"it has no entry {error} (path: param_key_g)"
            elif isinstance(error, (pickle.UnpicklingError, EOFError)):
                reason = "it is no checkpoint, or holds more than tensors and plain values"
            else:  # a state dict that does not fit tells every key, a line each
                lines = [line.strip() for line in str(error).splitlines()]
                reason = " ".join(lines[:4]) + (f" … ({len(lines) - 4} more)" if len(lines) > 4 else "")
                reason = unread_reason(error) if "weights_only" in reason else reason
            name = type(self.get_bare_model(net)).__name__
            raise CheckpointError(f"{load_path}: these weights cannot be loaded into {name}: {reason}") from error

    return BaseModel, "load_network", load_network


def _load_weights(model: object, net: object, path: str, strict: bool) -> None:
    from basicsr.utils import get_root_logger

    from unirain_plugin.checkpoints.weights import read_weights

    net, file = model.get_bare_model(net), read_weights(path)
    state = file.state_for(net.state_dict())
    part = f", part {file.parts[0]}" if file.parts else ""
    get_root_logger().info(f"Loading {type(net).__name__} model from {path}{part}.")
    model._print_different_keys_loading(net, state, strict)
    net.load_state_dict(state, strict=strict)


class LazyPrefetcher:
    """Replaces ``CPUPrefetcher``, which enters the training loader once in vain before training begins.

    That starts all workers twice, and with ``prefetch_mode: cpu`` leaves a thread behind that reads from them.
    """

    def __init__(self, loader: Iterable[object]) -> None:
        self.loader = loader
        self.items: Iterator[object] = iter(())

    def next(self) -> object:
        return next(self.items, None)

    def reset(self) -> None:
        self.items = iter(self.loader)

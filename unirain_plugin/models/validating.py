"""Validation image by image: names of saved images, the share of each rank, figures per rain type, tiles when large."""

import itertools
import logging
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, tensor2img
from basicsr.utils.dist_util import get_dist_info
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from unirain_plugin.checkpoints.states import atomic_save
from unirain_plugin.errors import OptionError
from unirain_plugin.models.checkpointing import network_content
from unirain_plugin.models.figures import BestFigure, MetricSuite, mean_of
from unirain_plugin.models.routing import RoutingMeter, Shares, draw_routing, mean_shares
from unirain_plugin.models.settings import Settings
from unirain_plugin.models.training_log import validation_text, write_validation
from unirain_plugin.models.training_step import from_all_ranks
from unirain_plugin.rain_types import RAIN_TYPES, rain_type_ids
from unirain_plugin.support.files import safe_path, write_png
from unirain_plugin.support.random_streams import preserved_streams
from unirain_plugin.support.tiling import checked_output, restore_in_tiles


def image_paths(dataset: Any) -> list[tuple[str, int | None]]:
    """Path or key and label of every image of a set in its order; empty for a set that does not list them."""
    if hasattr(dataset, "lq_names"):
        return dataset.lq_names()
    entries = getattr(dataset, "paths", None)
    if not isinstance(entries, Sequence):
        return []
    return [(str(entry["lq_path"] if isinstance(entry, Mapping) else entry), None) for entry in entries]


def unique_names(paths: Sequence[str]) -> list[str]:
    """A name for each path: without suffix, and without the folders that all have in common; unique."""
    if len({os.path.isabs(path) for path in paths}) > 1:  # those of some manifests
        paths = [os.path.abspath(path) for path in paths]
    common = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    below = [os.path.relpath(path, common) if common else os.path.normpath(f"/{path}")[1:] for path in paths]
    return _distinct([safe_path(os.path.splitext(path)[0]) for path in below])


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
    groups: dict[int | None, list[str]] = defaultdict(list)
    for path, label in image_paths(dataset):
        groups[label].append(path)
    named = {label: iter(unique_names(paths)) for label, paths in groups.items()}
    return [next(named[label]) for _, label in image_paths(dataset)]


def validates_several(opt: Mapping[str, Any]) -> bool:
    """Whether a training run validates several sets, whose images of one name must not overwrite each other."""
    return sum(key.split("_")[0] == "val" for key in opt.get("datasets") or ()) > 1


def saved_path(opt: Mapping[str, Any], dataset: str, name: str, rain_type: str | None, iteration: Any) -> Path:
    """Where the image ``name`` (with ``/``) is saved: as in the toolbox, with the rain type where there is one."""
    root, dataset = Path(opt["path"]["visualization"]), safe_path(dataset)
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
            yield {**item, "lq_path": [f"{name}.png"], "read_from": item["lq_path"]}


def path_in_saved_names() -> tuple[object, str, object]:
    """A replacement for ``BaseModel.validation``: the toolbox's models save by stem, and lose all but one of a stem."""
    from basicsr.models.base_model import BaseModel

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


@dataclass(frozen=True)
class ImageResult:
    """What the validation of one image gave."""

    index: int  # place in the data set
    rain_type: int | None  # label, or None where the data set has no labels
    metrics: Mapping[str, float]  # metric name → value; NaN where the image has none
    loss: float = math.nan  # the plain training loss; NaN if it was not asked for
    shares: Shares = field(default_factory=dict)  # the experts' shares, per layer


def images_of_rank(dataloader: DataLoader, rank: int, world_size: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (index, batch of one) of every ``world_size``-th image, without loading the others."""
    if world_size == 1:
        yield from enumerate(dataloader)
        return
    indices = range(rank, len(dataloader.dataset), world_size)
    subset, collate = Subset(dataloader.dataset, indices), dataloader.collate_fn
    yield from zip(indices, DataLoader(subset, collate_fn=collate, pin_memory=dataloader.pin_memory), strict=True)


def type_names(dataset: Any) -> dict[int, str]:
    """Label → name for a data set: its own ``rain_types``, those in its options, or the paper's four."""
    options = getattr(dataset, "opt", None) or {}
    names = getattr(dataset, "rain_types", None) or options.get("rain_types") or RAIN_TYPES
    return {label: name for name, label in rain_type_ids(names).items()}


class ValidationResult:
    """The figures of one validation set, from the results of its images, in their order.

    For a labelled set a metric's value is the mean of the types' means (the paper's "average" column), for an
    unlabelled one the mean of all images, as in the toolbox; of finite values, as the infinite PSNR of equal images
    would hide all others. ``names`` gives a label's type, ``better`` ``higher`` or ``lower`` for each metric.
    """

    def __init__(
        self, dataset: str, images: Sequence[ImageResult], names: Mapping[int, str], better: Mapping[str, str]
    ) -> None:
        self.dataset = dataset
        self.better = better
        self._groups: dict[str, list[ImageResult]] = {}
        self._images = images
        for label in sorted({image.rain_type for image in images if image.rain_type is not None}):
            name = names.get(label, f"type{label}")
            self._groups[name] = [image for image in images if image.rain_type == label]

    @property
    def counts(self) -> dict[str, int]:
        """Images of each type; empty for an unlabelled set."""
        return {name: len(images) for name, images in self._groups.items()}

    def values(self, metric: str) -> dict[str, list[float]]:
        """A metric of each image, by type."""
        return {name: [image.metrics[metric] for image in images] for name, images in self._groups.items()}

    def by_type(self, metric: str) -> dict[str, float]:
        """Mean of a metric over the images of each type."""
        return {name: mean_of(values) for name, values in self.values(metric).items()}

    def mean(self, metric: str) -> float:
        """Mean over types, or over images if the set has no labels."""
        if self._groups:
            return mean_of(self.by_type(metric).values())
        return mean_of(image.metrics[metric] for image in self._images)

    def worst(self, metric: str) -> tuple[str, float] | None:
        """The type with the worst mean, and that mean; None without labels or values."""
        known = [(name, value) for name, value in self.by_type(metric).items() if not math.isnan(value)]
        if not known:
            return None
        choose = min if self.better[metric] == "higher" else max
        return choose(known, key=lambda item: item[1])

    def figures(self) -> dict[str, float]:
        """All figures by name: ``psnr``, and for labelled sets ``psnr/drs``, …, ``psnr/worst``."""
        figures: dict[str, float] = {}
        for metric in self.better:
            figures[metric] = self.mean(metric)
            figures.update({f"{metric}/{name}": value for name, value in self.by_type(metric).items()})
            if worst := self.worst(metric):
                figures[f"{metric}/worst"] = worst[1]
        return figures

    def losses(self) -> dict[str, float]:
        """Mean training loss of each type; types without a loss are left out."""
        known = {n: [i.loss for i in images if not math.isnan(i.loss)] for n, images in self._groups.items()}
        return {name: sum(losses) / len(losses) for name, losses in known.items() if losses}

    def left_out(self, metric: str) -> str:
        """How many images, of which type, the means of a metric leave out, as text; empty if none."""
        groups = self._groups or {"images": self._images}
        counts = {name: sum(not math.isfinite(i.metrics[metric]) for i in images) for name, images in groups.items()}
        return ", ".join(f"{count} of {len(groups[name])} {name}" for name, count in counts.items() if count)

    def routing(self) -> dict[str, Shares]:
        """Type name → the experts' mean shares; one type ``all`` without labels; empty without experts."""
        groups = self._groups or {"all": list(self._images)}
        shares = {name: mean_shares([image.shares for image in images]) for name, images in groups.items()}
        return {name: layers for name, layers in shares.items() if layers}

    def table(self) -> str:
        """The figures per type as lines of text; empty for an unlabelled set."""
        if not self._groups or not self.better:
            return ""
        width, columns = max(5, *map(len, self._groups)), {metric: max(10, len(metric)) for metric in self.better}

        def line(name: str, count: object, values: Iterable[object]) -> str:
            cells = (f" {value:>{size}}" for value, size in zip(values, columns.values(), strict=True))
            return f"\t {name:<{width}} {count:>7}{''.join(cells)}"

        worst = [self.worst(metric) for metric in self.better]
        lines = [
            line("type", "images", columns),
            *(line(name, n, [f"{self.by_type(m)[name]:.4f}" for m in columns]) for name, n in self.counts.items()),
            line("mean", len(self._images), [f"{self.mean(m):.4f}" for m in columns]),
            line("worst", "", [w[0] if w else "-" for w in worst]),
        ]
        return "\n".join(lines) + "\n"


class PerTypeValidation(SRModel):
    """Replaces the toolbox's two validation hooks; not registered itself.

    Then ``metric_results`` holds the figures: ``psnr`` and, for a labelled set, ``psnr/drs``, …, ``psnr/worst``;
    ``validation_results`` keeps the last :class:`ValidationResult` of each set by its name.
    """

    settings: Settings

    def init_validation(self) -> None:
        """Prepare; to be called when ``settings`` is set."""
        silence_warning_of_several_sets()
        self.metrics = MetricSuite(self.settings.metrics) if self.settings.metrics else None
        self.best_figure: BestFigure | None = None
        self.validation_results: dict[str, ValidationResult] = {}
        self.worst_type: str | None = None
        self._loss_dataset: str | None = None
        self._drawn: dict[str, int] = {}

    @property
    def validates_loss(self) -> bool:
        """Whether the loss is reweighted by validation losses (``pixel_opt: source: val``)."""
        pixel = self.opt["train"].get("pixel_opt") or {} if self.is_train else {}
        return pixel.get("source") == "val" and hasattr(self.cri_pix, "update_from_validation")

    def evaluated_network(self) -> nn.Module:
        """The network that is validated: the average if there is one. Never wrapped: a wrapper may talk to ranks."""
        return self.net_g_ema if hasattr(self, "net_g_ema") else self.get_bare_model(self.net_g)

    def forget_data(self) -> None:
        """Let go of the current batch and its output."""
        for name in ("lq", "gt", "output"):
            self.__dict__.pop(name, None)

    def test(self, after_forward: Callable[[], None] = lambda: None) -> None:
        """Restore ``lq`` in full precision, large images in tiles; ``after_forward`` is called after each forward."""
        network = self.evaluated_network()

        def restore(image: Tensor) -> Tensor:
            output = checked_output(network(image))
            after_forward()
            return output

        settings = self.settings.val
        tile = settings.tile_for(*self.lq.shape[-2:])
        with _evaluating(network, bool(self.settings.train.compile)):
            if tile:
                self.output = restore_in_tiles(restore, self.lq, tile, settings.tile_overlap)
            else:
                self.output = restore(self.lq)

    def nondist_validation(self, loader: DataLoader, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        """Validate with all ranks, each its share of the images; the figures are those of a single process."""
        rank, world_size = get_dist_info()
        with preserved_streams():
            images = list(self._images(loader, current_iter, save_img, rank, world_size))
        images = from_all_ranks(images)
        images.sort(key=lambda result: result.index)  # so that sums are those of a single process
        name = loader.dataset.opt["name"]
        result = ValidationResult(name, images, type_names(loader.dataset), self.settings.better)
        self.validation_results[name] = result
        if self.metrics:
            self._publish(result, current_iter, tb_logger)
        if self.is_train:
            self._learn_from(result, current_iter)
        if rank == 0:
            self._draw_routing(result, current_iter, tb_logger)

    dist_validation = nondist_validation

    def _images(
        self, loader: DataLoader, current_iter: Any, save_img: bool, rank: int, world_size: int
    ) -> Iterator[ImageResult]:
        """Restore, measure and save this rank's share of a data set; ``lq``, ``gt`` and ``output`` are gone then."""
        dataset, names = loader.dataset.opt["name"], type_names(loader.dataset)
        saved = names_by_type(loader.dataset) if save_img else []
        meter = RoutingMeter(self.evaluated_network())
        total = len(range(rank, len(loader.dataset), world_size))
        show = bool((self.opt.get("val") or {}).get("pbar")) and rank == 0
        images = images_of_rank(loader, rank, world_size)
        title = f"Validation {dataset}"
        for index, data in tqdm(images, title, total, unit="image", disable=not show, leave=False):
            label = int(data["rain_type"][0]) if "rain_type" in data else None
            self.feed_data(data)
            self.test(meter.observe)
            path = data["lq_path"][0]
            if not torch.isfinite(self.output).all():
                get_root_logger().warning(f"{title}: the output for {path} is not finite.")
            loss = math.nan
            if self.validates_loss and hasattr(self, "gt"):
                with torch.no_grad():  # first: tensor2img clamps the output in place
                    loss = float(self.cri_pix(self.output, self.gt))
            image = tensor2img([self.output])
            if save_img:
                name = saved[index] if saved else PurePath(path).stem
                write_png(saved_path(self.opt, dataset, name, names.get(label), current_iter), image)
            target = tensor2img([self.gt]) if self.metrics and hasattr(self, "gt") else None
            metrics = self.metrics(image, target, path) if self.metrics else {}
            yield ImageResult(index, label, metrics, loss, meter.take())
            self.forget_data()

    def _publish(self, result: ValidationResult, current_iter: Any, tb_logger: Any) -> None:
        self.metric_results = result.figures()
        self._initialize_best_metric_results(result.dataset)
        for metric in result.better:
            self._update_best_metric_result(result.dataset, metric, self.metric_results[metric], current_iter)
        get_root_logger().info(validation_text(result, self.best_metric_results[result.dataset]))
        if worst := result.worst(next(iter(result.better))):
            self.worst_type = f"{worst[0]} {worst[1]:.2f}"
        if tb_logger:
            write_validation(tb_logger, result, current_iter)

    def _learn_from(self, result: ValidationResult, current_iter: int) -> None:
        """Keep the best network; hand the losses to a loss that is reweighted by them."""
        best = self.best_figure
        if best and best.improved(result.dataset, self.metric_results, current_iter):
            if self.opt["rank"] == 0:  # in the form of the toolbox's checkpoints
                atomic_save(network_content(self), Path(self.opt["path"]["models"]) / "net_g_best.pth")
            text = f"Best {best.settings.metric} so far: {best.value:.4f} @ {current_iter} iter; saved."
            get_root_logger().info(text)
        if self.validates_loss:
            self._loss_dataset = self._loss_dataset or result.dataset  # several sets would count one update twice
            if result.dataset == self._loss_dataset:
                if not result.losses():
                    raise OptionError(f"train: pixel_opt: source: val: the set '{result.dataset}' has no rain types.")
                self.cri_pix.update_from_validation(result.losses())

    def _draw_routing(self, result: ValidationResult, current_iter: Any, tb_logger: Any) -> None:
        """Save an image of which experts serve which type; in training once in ``logger: routing_freq`` iterations."""
        if not result.routing():
            return
        if self.is_train:
            period = current_iter // (self.settings.logger.routing_freq or 1)
            if period == self._drawn.get(result.dataset, 0):
                return
            self._drawn[result.dataset] = period
        path = Path(self.opt["path"]["visualization"]) / "routing" / f"{safe_path(result.dataset)}_{current_iter}.png"
        image = draw_routing(result.routing())
        write_png(path, image[..., ::-1])
        if tb_logger:
            tb_logger.add_image(f"routing/{result.dataset}", image, current_iter, dataformats="HWC")


def silence_warning_of_several_sets() -> None:
    """The toolbox says at every validation that several sets are for SRModel only, also where the model is one."""
    logging.getLogger("basicsr").addFilter(_is_no_warning_of_several_sets)


def _is_no_warning_of_several_sets(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Multiple validation datasets are *only* supported by SRModel")


@contextmanager
def _evaluating(network: nn.Module, compiled: bool) -> Iterator[None]:
    """Evaluation mode without gradients and without compilation (every image size would compile anew)."""
    was_training = network.training
    network.eval()
    eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    try:
        with torch.no_grad(), eager:
            yield
    finally:
        network.train(was_training)

"""Pairs of several rain types in one data set: RainRAG's folders, LMDBs, or a manifest of distilled pairs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset, get_worker_info

from unirain_plugin.data.dataset_options import LOADER_KEYS, OWN_KEYS, parse_dataset_options
from unirain_plugin.data.draws import SampleIndex
from unirain_plugin.data.images import EncodedImage
from unirain_plugin.data.pairs import Pair, check_sizes
from unirain_plugin.data.sampling import SamplePlan
from unirain_plugin.data.sources import open_source
from unirain_plugin.rain_types import rain_type_ids


@dataclass(frozen=True, slots=True)
class Augmentation:
    """A crop of ``size``² at (``top``, ``left``) of the (padded) image, None: all of it.

    Then flips left and right, top and bottom, and rows and columns swapped, in this order, as the toolbox does it.
    """

    top: int = 0
    left: int = 0
    size: int | None = None
    hflip: bool = False
    vflip: bool = False
    rot90: bool = False

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Flip and rotate a crop of shape (H, W, C). Returns a view: no pixel is copied."""
        if self.hflip:
            image = image[:, ::-1]
        if self.vflip:
            image = image[::-1]
        return image.transpose(1, 0, 2) if self.rot90 else image


def draw_augmentation(
    rng: np.random.Generator, height: int, width: int, size: int, hflip: bool, rotation: bool
) -> Augmentation:
    """Draw a crop of ``size``² and its flips: all numbers, so switching one off leaves the others as they were."""
    top = int(rng.integers(height - size + 1))
    left = int(rng.integers(width - size + 1))
    coins = rng.random(3) < 0.5
    flips = (bool(wanted and coin) for wanted, coin in zip((hflip, rotation, rotation), coins, strict=True))
    return Augmentation(top, left, size, *flips)


@DATASET_REGISTRY.register()
class DistilledMixedPairedDataset(Dataset):
    """Pairs of rainy (``lq``) and clean (``gt``) images with their rain type.

    An item is a dict: ``lq`` and ``gt``, float32 RGB tensors (3, H, W) in [0, 1] (before ``mean`` / ``std``);
    ``rain_type``, the integer label of :func:`unirain_plugin.rain_types.rain_type_ids`; ``lq_path`` and ``gt_path``.
    Training items are crops of ``gt_size``²; ``phase: val`` and ``test`` give whole images. Pixels are those of the
    toolbox's ``PairedImageDataset`` for the same crop, but only the crop is converted to float, and where the format
    allows it only the rows above its lower end are decoded, of seekable LMDBs only its own.

    With a :class:`SampleIndex` the augmentation depends on (``seed``, draw) alone, and no global random stream is read
    (``uses_sample_index``). With a plain ``int``, as the toolbox's ``EnlargedSampler`` yields it, its seed is drawn
    from torch's stream, which differs between workers and epochs (those of ``random`` and ``numpy`` repeat).
    """

    OPTIONS: frozenset[str] = OWN_KEYS | LOADER_KEYS
    uses_sample_index = True

    @classmethod
    def check_options(cls, section: Mapping[str, Any]) -> None:
        """Check a section of an option file without looking at the disk; raises OptionError."""
        parse_dataset_options(section)

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__()
        self.opt = dict(opt)
        self.options = parse_dataset_options(opt)
        self._pairs, self._storage, types = open_source(self.options)
        self.rain_types = rain_type_ids(types)
        sampling = self.options.sampling if self.options.is_train else "natural"
        self._plan_of_epoch = SamplePlan(self._pairs, sampling, self.options.pyramid)
        self._padding_told = torch.zeros((), dtype=torch.bool).share_memory_()  # by any of the loader's workers
        mean_std = self.options.mean, self.options.std
        values = (mean_std[0] or (0.0,) * 3, mean_std[1] or (1.0,) * 3)
        self._mean_std = [torch.tensor(value).view(3, 1, 1) for value in values] if any(mean_std) else None

    def __len__(self) -> int:
        return len(self._plan_of_epoch)

    def lq_names(self) -> list[tuple[str, int]]:
        """Where every rainy image lies (file, or LMDB and key), and its label, outside of training."""
        pairs = (self._pairs[self._plan_of_epoch.pair_number(index, None)] for index in range(len(self)))
        return [(self._storage.locate(pair, "lq"), self.rain_types[pair.rain_type]) for pair in pairs]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one sample; a DataError names the file that is missing, broken, or unlike its partner in size."""
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # one worker, one thread: OpenCV's pool in every worker would fight for the cores
        rng = None
        if self.options.is_train:
            draw = index.draw if isinstance(index, SampleIndex) else int(torch.randint(2**63 - 1, ()))
            rng = np.random.default_rng((self.options.seed, draw))
        pair = self._pairs[self._plan_of_epoch.pair_number(int(index), rng)]
        self.reading = self._storage.locate(pair, "lq")  # for errors of a subclass
        lq, gt = (self._open(pair, side) for side in ("lq", "gt"))
        check_sizes(lq, gt, pair.size, str(self.options.manifest or "meta_info.txt"))
        plan = self._augmentation(lq, rng)
        return {
            "lq": self._tensor(lq, plan),
            "gt": self._tensor(gt, plan),
            "rain_type": self.rain_types[pair.rain_type],
            "lq_path": lq.name,
            "gt_path": gt.name,
        }

    def _open(self, pair: Pair, side: str) -> EncodedImage:
        parts = self.options.is_train and self.options.decode_region
        data, index = self._storage.read_part(pair, side) if parts else (self._storage.read(pair, side), None)
        name = self._storage.locate(pair, side)
        return EncodedImage(data, name, self.options.convert, self.options.max_pixels, index)

    def _augmentation(self, image: EncodedImage, rng: np.random.Generator | None) -> Augmentation:
        if rng is None:
            return Augmentation()
        size = self.options.gt_size
        if min(image.height, image.width) < size and not self._padding_told:
            self._padding_told.fill_(True)
            edges = f"{image.name} is {image.height}×{image.width}, smaller than gt_size {size}"
            text = f"{self.options.name}: {edges}: it is reflect-padded, as are all such images (said once)."
            get_root_logger().warning(text)
        height, width = max(image.height, size), max(image.width, size)
        return draw_augmentation(rng, height, width, size, self.options.use_hflip, self.options.use_rot)

    def _tensor(self, image: EncodedImage, plan: Augmentation) -> torch.Tensor:
        if plan.size is None:
            pixels = image.decode()
        else:
            stop = plan.top + plan.size
            pixels = image.decode_rows(stop, plan.top) if self.options.decode_region else image.decode()[plan.top :]
            missing = [max(0, plan.size - edge) for edge in pixels.shape[:2]]
            if any(missing):
                pixels = cv2.copyMakeBorder(pixels, 0, missing[0], 0, missing[1], cv2.BORDER_REFLECT_101)
            pixels = pixels[: plan.size, plan.left : plan.left + plan.size]
        pixels = plan.apply(pixels)
        values = np.empty((3, *pixels.shape[:2]), np.float32)
        np.divide(pixels.transpose(2, 0, 1)[::-1], np.float32(255), out=values)  # bit for bit as the toolbox does it
        tensor = torch.from_numpy(values)
        if self._mean_std is not None:
            mean, std = self._mean_std
            tensor.sub_(mean).div_(std)
        return tensor

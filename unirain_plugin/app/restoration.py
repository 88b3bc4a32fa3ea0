"""What the app does with an uploaded image; knows nothing of gradio."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from torch import nn

from unirain_plugin.errors import DataError, OptionError, UniRainError
from unirain_plugin.inference.images import StoredImage, read_image, write_image
from unirain_plugin.inference.loading import load
from unirain_plugin.inference.restoring import RestoreOptions, restore, used_sizes
from unirain_plugin.support.files import safe_path, write_errors

PREVIEW = 1600  # longest edge in pixels of what the slider shows; the result to download has every pixel

_KEPT = 3600  # seconds that a result stays on the server's disk


class Restored(NamedTuple):
    """A finished image: upright RGB previews of input and result, of one size; the whole result (PNG); a line on it."""

    before: np.ndarray
    after: np.ndarray
    file: Path
    summary: str


class Restorer:
    """Restores images with one of several networks, of which the one used last stays in memory.

    ``network``: option file with the networks' ``network_g``, or None where the weights tell it; ``max_pixels``: of an
    image; ``folder``: of the results, of which those older than an hour are removed.
    """

    def __init__(self, weights: Sequence[Path], network: str | None, max_pixels: int, folder: Path) -> None:
        self.weights = list(weights)
        self._network = network
        self._max_pixels = max_pixels
        self._folder = folder
        self._loaded: tuple[tuple[str, str, float], nn.Module] | None = None

    def net(self, weights: str, device: str) -> nn.Module:
        """The network of these weights, which must be among those that may be chosen, on this device."""
        if weights not in map(str, self.weights):
            raise OptionError(f"weights: '{Path(weights).name}' is not among those that this app was started with.")
        stamp = os.stat(weights).st_mtime if os.path.exists(weights) else 0.0
        key = (weights, device, stamp)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # before the next one takes memory
            self._loaded = (key, load(weights, self._network, device))
        return self._loaded[1]

    def open(self, path: Path) -> StoredImage:
        """Read an uploaded image, whose size is checked before it is decoded; errors name it without its folder."""
        with _told_by_name(path):
            return read_image(path, self._max_pixels)

    def restore(
        self, path: Path, weights: str, options: RestoreOptions, device: str, note: Callable[[str], None]
    ) -> Restored:
        """Restore an uploaded image with one of :attr:`weights`; ``note`` is told what is being done."""
        note("reading the image")
        before = self.open(path)
        note("loading the weights")
        net = self.net(weights, device)
        height, width = before.pixels.shape[:2]
        note(f"restoring {width} × {height} pixels")
        started = time.monotonic()
        after = before.with_pixels(restore(net, before.pixels, **vars(options)))
        seconds = time.monotonic() - started
        note("writing the result")
        self._remove_old()
        with write_errors("the result"):
            target = Path(tempfile.mkdtemp(dir=self._folder)) / f"{safe_path(path.stem)}_restored.png"
        with _told_by_name(target):
            write_image(target, after)
        where = next(net.parameters()).device
        ensemble = ", ensemble of 8" if options.ensemble else ""
        sizes = "".join(f", {size} pixels" for size in used_sizes(options.sizes or (), height, width))
        summary = f"{width} × {height} pixels in {seconds:.1f} s on {where}, {options.precision}{ensemble}{sizes}"
        return Restored(preview(before.pixels), preview(after.pixels), target, summary)

    def _remove_old(self) -> None:
        for folder in self._folder.iterdir():
            if time.time() - folder.stat().st_mtime > _KEPT:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _told_by_name(path: Path) -> Iterator[None]:
    """Errors name a file without its folder, which is no user's affair."""
    try:
        yield
    except (UniRainError, cv2.error) as error:
        raise DataError(str(error).replace(str(path), path.name)) from None


def preview(pixels: np.ndarray, longest_edge: int = PREVIEW) -> np.ndarray:
    """What the browser shows: (H, W, 3) uint8, made smaller if need be, transparent parts on mid-grey.

    ``pixels``: (H, W, C) uint8 or uint16 with 1 to 4 channels, as :class:`StoredImage` holds them.
    """
    scale = min(1.0, longest_edge / max(pixels.shape[:2]))
    if scale < 1:
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    channels = pixels.shape[2]
    colour = pixels[..., :1].repeat(3, axis=2) if channels < 3 else pixels[..., :3]
    if channels in (2, 4):
        alpha = pixels[..., -1:].astype(np.float32) / 255
        colour = (colour * alpha + 128 * (1 - alpha)).round().astype(np.uint8)
    return np.ascontiguousarray(colour)

"""Restoration of one image, given as an array or a tensor, at one size or several."""

import contextlib
import hashlib
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn

from unirain_plugin.checkpoints.weights import check_context, check_sizes
from unirain_plugin.errors import OptionError, UniRainError, did_you_mean
from unirain_plugin.inference.images import read_image
from unirain_plugin.inference.jobs import VideoSettings
from unirain_plugin.inference.streamed import RESERVE, MapStore, restore_streamed
from unirain_plugin.support.packages import code_hashes, is_own
from unirain_plugin.support.resources import free_memory
from unirain_plugin.support.tiling import checked_output, restore_in_tiles
from unirain_plugin.version import __version__

DEFAULT_TILE = 512
_MODES = ("RGB", "RGBA", "L", "LA", "I;16")
LARGE_RAIN = (640, 427)
"""Longer edges that serve the weights the package ships."""
SMALLER = 0.75
"""A size is used where it is less than this share of the longer edge: little below full size shows nothing new."""
NEIGHBOURHOOD = 80
"""A neighbourhood, in which corrections are compared, reaches 1 / this of the longer edge to each side."""

CONFIDENCE = 0.95
"""How far the blend goes from the correction at full size towards that from smaller sizes, 0 to 1.

Chosen with the package's weights on their held-out photographs: clean scenery that is taken for rain when shrunk is
damaged 0.4 dB less than with 1, and rendered rain gains as much (shares from 0.85 to 1.05 lie within 0.03 dB).
"""


def used_sizes(sizes: Sequence[int], height: int, width: int) -> list[int]:
    """Those of the sizes at which an image is restored as well: the ones below 3/4 of its longer edge."""
    return [size for size in sizes if size < SMALLER * max(height, width)]


def restore_at_sizes(restore: Callable[[Tensor], Tensor], image: Tensor, sizes: Sequence[int]) -> Tensor:
    """Blend the correction at full size with the mean of those at smaller sizes; R(x) itself where none is used.

    A drop covers as large a part of an image of 4000 pixels as of one of 400, but a network trained on crops knows rain
    up to some size in pixels. So the image is restored shrunk as well, and what changes there is enlarged and blended
    with what changes at full size, by where either changes more; only the correction is resampled. Our own.

    y = x + d_f + c - m(c), c = 0.95 · e_s / (e_s + e_f) · (d_s - d_f), with d_f = R(x) - x, d_s the mean over the sizes
    of the enlarged R(shrunk x) - shrunk x, e the mean of d² over a neighbourhood and the channels, m the mean over the
    image, channel by channel, and 0.95 :data:`CONFIDENCE`.

    ``restore`` is R, which maps ``(1, 3, h, w)`` to the same shape; ``image`` x, ``(1, 3, H, W)`` float32 in [0, 1],
    and so is y, not clamped; ``sizes`` are longer edges in pixels, those from 3/4 of the image's on being passed over.
    """
    full = restore(image)
    height, width = image.shape[2:]
    factors = [size / max(height, width) for size in used_sizes(sizes, height, width)]
    if not factors or full.shape != image.shape:  # of another shape: the caller tells
        return full
    fine = full - image
    coarse = torch.zeros_like(image)
    for factor in factors:
        shape = [max(round(edge * factor), 1) for edge in (height, width)]
        small = F.interpolate(image, shape, mode="bilinear", antialias=True)
        coarse += F.interpolate(restore(small) - small, (height, width), mode="bicubic") / len(factors)
    reach = max(height, width) // NEIGHBOURHOOD
    share = _strength(coarse, reach)
    share = share / (share + _strength(fine, reach))
    change = CONFIDENCE * share * (coarse - fine)
    return image + fine + change - change.mean((2, 3), keepdim=True)


def _strength(correction: Tensor, reach: int) -> Tensor:
    """Mean square over the channels and ``reach`` pixels to each side, ``(1, 1, H, W)``; above 0."""
    x = correction.square().mean(1)[0].numpy()
    total, count = (
        cv2.boxFilter(each, -1, (2 * reach + 1, 2 * reach + 1), normalize=False, borderType=cv2.BORDER_CONSTANT)
        for each in (x, np.ones_like(x))
    )
    return torch.from_numpy(total / count)[None, None] + 1e-9


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "auto": None}


@dataclass(frozen=True)
class RestoreOptions:
    """How an image is restored: the keywords of :func:`restore`, which tells of each.

    ``tile`` is the area computed at a time. UniRain needs no ``overlap``: it is evaluated layer by layer, exactly as on
    the whole image. Other networks are run on overlapping tiles and blended, as are the parts of ``context``. An ONNX
    file of UniRain takes the whole image as long as ``tile`` is the default and there is ``memory``, beyond which
    UniRain's feature maps go to a scratch file.
    """

    tile: int = DEFAULT_TILE
    overlap: int = 32
    precision: str = "fp32"
    ensemble: bool = False
    memory: float | None = None
    sizes: tuple[int, ...] | None = None
    context: int | None = None

    def __post_init__(self) -> None:
        if self.tile != 0 and self.tile < 64:
            raise OptionError(f"tile: got {self.tile}; expected 0 (the whole image) or at least 64 pixels.")
        if self.overlap < 0 or (self.tile and self.overlap > self.tile // 2):
            raise OptionError(f"overlap: got {self.overlap}; expected 0 to half of the tile ({self.tile // 2}).")
        if self.precision not in PRECISIONS:
            hint = did_you_mean(self.precision, PRECISIONS)
            raise OptionError(f"precision: got '{self.precision}'; expected {', '.join(PRECISIONS)}.{hint}")
        if self.memory is not None and not self.memory >= 0:  # nor NaN
            raise OptionError(f"memory: got {self.memory}; expected GiB ≥ 0.")
        check_sizes(self.sizes or ())
        check_context(self.context or 0)

    def check_device(self, device: torch.device) -> None:
        """Refuse what the device cannot compute in: an OptionError for fp16 on the CPU."""
        if self.precision == "fp16" and device.type == "cpu":
            raise OptionError("precision: fp16 is for accelerators; use bf16 or fp32 on the CPU.")

    def check_network(self, net: nn.Module) -> None:
        """Refuse what the network, on its device, cannot compute in: also another precision than an ONNX network's."""
        self.check_device(device_of(net))
        only = getattr(net, "precision", self.precision)
        if self.precision not in (only, "auto"):
            raise OptionError(f"precision: got '{self.precision}', but {net.path} computes in {only} only.")

    def dtype(self, device: torch.device) -> torch.dtype:
        if self.precision != "auto":
            return PRECISIONS[self.precision]
        if device.type == "cuda":
            able = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            processor = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch
            able = device.type == "cpu" and any(processor.get(name) for name in ("avx512_bf16", "amx_bf16"))
        return torch.bfloat16 if able else torch.float32


def device_of(net: nn.Module) -> torch.device:
    """Where a network's parameters lie; the CPU where it has none."""
    return next((p.device for p in net.parameters()), torch.device("cpu"))


def restore(
    net: nn.Module,
    image: np.ndarray | Image.Image | str | os.PathLike[str],
    *,
    tile: int = DEFAULT_TILE,
    overlap: int = 32,
    precision: str = "fp32",
    ensemble: bool = False,
    memory: float | None = None,
    sizes: Sequence[int] | None = None,
    context: int | None = None,
) -> np.ndarray | Image.Image:
    """Remove the rain from an image of any size.

    Example::

        from unirain_plugin import load, restore

        clean = restore(load(), rainy)  # or load("UniRain.safetensors", device="cuda")

    Args:
        net: A network that :func:`~unirain_plugin.load` returned, or any that maps (N, 3, H, W) to this shape.
        image: (H, W, 3) RGB, uint8, uint16, or floating in [0, 1]; (H, W, 4) with alpha, which is kept; (H, W) grey.
            (OpenCV's arrays are BGR: pass ``image[..., ::-1]``.) Or an image of Pillow, or the name of an image file.
        tile: Edge in pixels of the square whose area is computed at a time, ≥ 64; 0 for the whole image at once.
        overlap: Pixels that the parts of an image share, and the tiles of networks other than UniRain; 0 to tile / 2.
        precision: ``fp32``, ``bf16``, ``fp16`` (not on the CPU), or ``auto``: bf16 where the device computes in it.
        ensemble: Average over the eight flips and quarter turns: eight times the time.
        memory: GiB for feature maps in memory; None for half of what is free.
        sizes: Also restore larger images at these longer edges, such as ``(640, 427)``, and blend; ``()`` for the
            network's own result (not in parts either), None for what its weights' file names.
        context: Restore larger images in overlapping parts of this edge in pixels, each as an image of its own; 0 for
            the whole image, None for what the weights' file names.

    Returns an array of the same shape and dtype; floating ones are clamped to [0, 1]. Of Pillow's images one of the
    same mode (palettes as RGB or RGBA), upright. Of a file an array of its pixels, upright, (H, W, C), uint8 or uint16.
    What else an image holds is kept by ``scripts/inference.py``.

    An OptionError if the image or an option is not of the kind described; a DataError if the file is missing, broken,
    or of a kind that cannot be restored.
    """
    given = image
    if isinstance(given, Image.Image):
        image = ImageOps.exif_transpose(image)  # the result carries no EXIF that would turn it
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        if image.mode not in _MODES:
            raise OptionError(f"image: got Pillow's mode '{image.mode}'; expected {', '.join(_MODES)} or P.")
        image = np.asarray(image)
    elif isinstance(given, (str, os.PathLike)):
        image = read_image(given).pixels
    chosen = None if sizes is None else tuple(sizes)
    options = RestoreOptions(tile, overlap, precision, ensemble, memory, chosen, context)
    colour, alpha, grey = _split(image)
    tensor = torch.from_numpy(_to_float(colour)).permute(2, 0, 1)[None]
    out = restore_tensor(net, tensor, options)[0].permute(1, 2, 0).clamp_(0, 1).numpy()
    if grey:
        out = out.mean(axis=2, keepdims=True)
    if image.dtype in (np.uint8, np.uint16):
        out = (out * np.iinfo(image.dtype).max).round()
    result = out.astype(image.dtype)
    if alpha is not None:
        result = np.concatenate([result, alpha], axis=2)
    result = result.reshape(image.shape)
    return Image.fromarray(result) if isinstance(given, Image.Image) else result


def restore_tensor(net: nn.Module, image: Tensor, options: RestoreOptions | None = None) -> Tensor:
    """Restore one image, ``(1, 3, H, W)`` float32 in the host's memory, RGB in [0, 1]; so is the result, not clamped.

    An OptionError for fp16 on the CPU or a network that changes the size; a UniRainError if it is not finite, or memory
    runs out.
    """
    options = options or RestoreOptions()
    device = device_of(net)
    options.check_device(device)
    net.eval()
    sizes = getattr(net, "restore_sizes", ()) if options.sizes is None else options.sizes
    context = context_of(net, options)

    def once(x: Tensor) -> Tensor:
        return restore_in_context(lambda part: _evaluate(net, part, options, device), x, context, options.overlap)

    try:
        out = restore_at_sizes(partial(_ensemble, once) if options.ensemble else once, image, sizes)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # of the CPU's memory torch tells by the name of its allocator only
        told = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)
        if isinstance(error, UniRainError) or not told:
            raise
        where = f"out of memory on {device} at {image.shape[3]}×{image.shape[2]} pixels"
        tile = options.tile or "the whole image"
        raise UniRainError(f"{where}; use a smaller tile than {tile}, or precision bf16.") from error
    if out.shape != image.shape:
        shapes = f"{tuple(image.shape)} to {tuple(out.shape)}"
        raise OptionError(f"the network maps {shapes}; expected one that keeps the size (scale 1).")
    if not bool(torch.isfinite(out).all()):
        raise UniRainError(f"the network's output is not finite in precision {options.precision}; use fp32.")
    return out


def _ensemble(restore: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    total = None
    for turns in range(4):
        for flip in (False, True):
            x = torch.rot90(image.flip(3) if flip else image, turns, (2, 3)).contiguous()
            y = torch.rot90(restore(x), -turns, (2, 3))
            y = y.flip(3) if flip else y
            total = y.contiguous() if total is None else total.add_(y)
    return total / 8


def context_of(net: nn.Module, options: RestoreOptions) -> int:
    """Edge of the parts of larger images: the options', else the weights' (not with ``sizes=()``); 0 for none."""
    if options.context is not None:
        return options.context
    return 0 if options.sizes == () else getattr(net, "restore_context", 0)


def restore_in_context(restore: Callable[[Tensor], Tensor], image: Tensor, context: int, overlap: int) -> Tensor:
    """Restore a larger image in overlapping parts, each as an image of its own, and blend them.

    Attention and routing decide by means over all pixels. A network that was trained on crops knows the means of crops:
    in a photograph of a thousand pixels, of which some hold rain, they are others, and it takes less rain away. After
    Chu et al., "Improving Image Restoration by Revisiting Global Information Aggregation" (ECCV 2022), who compute
    attention in windows instead.

    ``restore`` maps ``(1, 3, h, w)`` to the same shape, as ``image``. ``context`` is the edge of a part in pixels, 0:
    the whole image. An edge of the image of up to 4/3 of it is not cut, as two parts of it would be nearly the same; a
    longer one into even parts, two thirds to 4/3 of ``context`` long, whose number makes them come nearest to it.
    Neighbouring parts share ``overlap`` pixels, a few more at most (at most half of ``context``).
    """
    overlap = min(overlap, context // 2)

    def part(edge: int) -> int:
        if not context or 3 * edge <= 4 * context:
            return edge
        count = max(round((edge - overlap) / (context - overlap)), 2)
        return 8 * math.ceil((edge + (count - 1) * overlap) / count / 8)  # the network pads to whole eights

    parts = tuple(map(part, image.shape[2:]))
    return restore(image) if parts == image.shape[2:] else restore_in_tiles(restore, image, parts, overlap)


def _evaluate(net: nn.Module, image: Tensor, options: RestoreOptions, device: torch.device) -> Tensor:
    dtype = options.dtype(device)
    autocast = torch.autocast(device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()

    def forward(x: Tensor) -> Tensor:
        return checked_output(net(x.to(device))).float().cpu()

    with torch.no_grad(), autocast:
        height, width = image.shape[2:]
        if options.tile == 0 or height * width <= options.tile**2:
            return forward(image)
        limit = RESERVE * free_memory() if options.memory is None else options.memory * 2**30
        if type(net).__module__ == "unirain_plugin.archs.unirain_arch":  # ours can be evaluated layer by layer
            return restore_streamed(net, image, MapStore(device, options.tile, limit))
        needed = height * width * (getattr(net, "bytes_a_pixel", int)() or 0)
        if needed and options.tile == DEFAULT_TILE and needed <= limit:
            return forward(image)
        if needed:
            warnings.warn(
                f"{net.path}: {width}×{height} pixels are restored in tiles of {options.tile}. Attention and routing "
                "see the whole image, so results differ from those of the weights by some levels (up to 26 of 255 have "
                f"been seen). The whole image (tile 0) takes about {needed / 2**30:.1f} GiB.",
                stacklevel=2,
            )
        return restore_in_tiles(forward, image, options.tile, options.overlap)


def videos_with(net: nn.Module, options: RestoreOptions, videos: VideoSettings) -> VideoSettings:
    """Settings of videos that are restored with a network: how many frames at once, and what results depend on."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().reshape(-1).view(torch.uint8).numpy())
    given, context = {**vars(options)}, context_of(net, options)
    del given["context"]
    module = sys.modules[type(net).__module__]
    own = [module.__name__] if is_own(getattr(module, "__file__", None) or "<") else []
    sizes, built = list(getattr(net, "restore_sizes", ())), getattr(net, "architecture", None)
    made_from = [__version__, built, code_hashes(own), digest.hexdigest(), sizes, given, context]
    on_cpu = all(value.device.type == "cpu" for value in net.parameters())
    # On a CPU, frames side by side use the cores better than one frame over all; beside an accelerator, the host's part
    # of one frame runs while another is computed.
    return replace(videos, at_once=torch.get_num_threads() if on_cpu else 2, made_from=made_from)


def _split(image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Three colour channels, alpha if any, and whether the image is grey."""
    if not isinstance(image, np.ndarray) or image.ndim not in (2, 3) or 0 in image.shape:
        found = f"shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        expected = "an array (H, W, 3), (H, W, 4) or (H, W), an image of Pillow or the name of a file"
        raise OptionError(f"image: got {found}; expected {expected}.")
    if image.ndim == 2:
        image = image[..., None]
    channels = image.shape[2]
    if channels not in (1, 2, 3, 4):
        raise OptionError(f"image: got {channels} channels; expected RGB (3), RGB and alpha (4) or grey (1, 2).")
    grey = channels < 3
    colour = image[..., :1].repeat(3, axis=2) if grey else image[..., :3]
    return colour, image[..., -1:] if channels in (2, 4) else None, grey


def _to_float(image: np.ndarray) -> np.ndarray:
    if image.dtype in (np.uint8, np.uint16):
        return image.astype(np.float32) / np.iinfo(image.dtype).max
    if not np.issubdtype(image.dtype, np.floating):
        raise OptionError(f"image: got dtype {image.dtype}; expected uint8, uint16 or floating in [0, 1].")
    image = np.ascontiguousarray(image, dtype=np.float32)
    low, high = float(image.min()), float(image.max())
    if not (low >= -0.01 and high <= 1.01):  # also catches NaN
        raise OptionError(f"image: floating values from {low:g} to {high:g}; expected [0, 1].")
    return image

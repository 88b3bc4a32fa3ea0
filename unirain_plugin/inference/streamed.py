"""UniRain on an image of any size, exactly: layer by layer, each layer piece by piece.

Tiles that are restored on their own see other images than the whole: channel attention mixes channels by sums over
all pixels, and the hard mixtures route by means over all pixels. So nothing is cut before the network but every layer
is computed in bands, twice where it needs to know the whole: first the sums (attention's q·kᵀ and norms, the routers'
means), then the values with these. Every other layer reaches one pixel far, and a band carries that halo. The result is
that of the whole image up to the order of float sums: no overlap, no blending, no seam, and nothing computed twice
but the halo rows and a normalisation.

A feature map is ``(H, W, C)``, one for each level, changed in place. It lies in the host's memory (or in a scratch
file, or on the accelerator where there is ample room), and is read and changed in bands of whole rows; only a band at a
time is on the computing device.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirain_plugin.archs.blocks import TransformerBlock, pad_to_multiple
from unirain_plugin.archs.kernels import can_stream, compute_dtype, depthwise_3x3, expanded_strips, wants_slow_bfloat16
from unirain_plugin.archs.mixtures import (
    HardMoE,
    SoftMoE,
    choose_top_k,
    dispatch_dense,
    dispatch_images,
    pool_windows,
    spread_windows,
)
from unirain_plugin.archs.unirain_arch import UniRain
from unirain_plugin.errors import DataError
from unirain_plugin.support.resources import free_memory

RESERVE = 0.5
"""Share of the free memory that maps may take before they go to a scratch file."""

_CPU_AREA = 2**17
"""Pixels of a band on the CPU at most: larger bands are not faster there, and several copies of one are alive."""

MapFunction = Callable[[Tensor, int], Tensor]
"""Maps ``(1, rows, W, C)`` and the number of its first row in the map to ``(1, rows, W, C')``."""


class MapStore:
    """Allocates maps and tells how to cut them.

    Args:
        device: Where pieces are computed.
        piece: Edge in pixels of the square whose area a band has about.
        limit: Bytes of maps that are kept in memory; None for half of what is free. Beyond it maps lie in files of
            the temporary folder (``TMPDIR``), which exist only as long as they are used.
    """

    def __init__(self, device: torch.device, piece: int, limit: int | None = None) -> None:
        self.device = device
        self.area = piece * piece if device.type != "cpu" else min(piece * piece, _CPU_AREA)
        self.limit = int(RESERVE * free_memory()) if limit is None else limit
        self.on_device = int(RESERVE * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0

    def allocate(self, size: int, dtype: torch.dtype) -> Tensor:
        """Uninitialised room for a map of ``size`` values, flat; :func:`shaped` gives it a shape.

        Raises:
            DataError: If a scratch file is needed and the disk is full.
        """
        needed = size * dtype.itemsize
        if needed <= self.on_device:
            self.on_device -= needed
            return torch.empty(size, dtype=dtype, device=self.device)
        if needed <= self.limit:
            self.limit -= needed
            return torch.empty(size, dtype=dtype)
        descriptor, name = tempfile.mkstemp(prefix="unirain-map-")
        try:
            if hasattr(os, "posix_fallocate"):  # else a full disk kills the process when the map is written
                os.posix_fallocate(descriptor, 0, needed)
            return torch.from_file(name, shared=True, size=size, dtype=dtype)
        except OSError as error:
            folder = os.path.dirname(name)
            raise DataError(
                f"{folder}: no room for {needed / 2**30:.2f} GiB of a large image's feature maps ({error.strerror}); "
                "free some, or name another folder by TMPDIR."
            ) from None
        finally:
            os.close(descriptor)
            Path(name).unlink()  # the mapping keeps the content until the map is freed

    def bands(self, height: int, width: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
        """Rows ``(top, bottom)`` of the bands; every top is a multiple of ``multiple``."""
        rows = max(self.area // width // multiple, 1) * multiple
        for top in range(0, height, rows):
            yield top, min(top + rows, height)

    def read(self, source: Tensor, top: int, bottom: int, halo: int = 0) -> tuple[Tensor, int]:
        """A band on the computing device, with up to ``halo`` more rows on both sides where the map has them.

        Returns:
            ``(1, rows, W, C)``, and how many of its rows lie above ``top``.
        """
        above = min(halo, top)
        return source[None, top - above : bottom + halo].to(self.device, copy=True), above

    def update(self, target: Tensor, function: MapFunction, multiple: int = 1) -> None:
        """``target += function(target)`` in place, for a function that looks one row up and down.

        The row above a band has been changed already when the band is computed, so its old values are carried along.
        """
        height, width, _ = target.shape
        carried: Tensor | None = None
        for top, bottom in self.bands(height, width, multiple):
            piece, _ = self.read(target, top, min(bottom + 1, height))
            inner = piece[:, : bottom - top]
            last = inner[:, -1:]
            if carried is not None:
                piece = torch.cat([carried, piece], 1)
            above = 0 if carried is None else 1
            change = function(piece, top - above)[:, above : above + bottom - top]
            carried = last.clone()
            target[top:bottom] = (inner + change)[0].to(target.device)


def shaped(room: Tensor, height: int, width: int, channels: int) -> Tensor:
    """The map ``(H, W, C)`` at the beginning of a room."""
    return room[: height * width * channels].view(height, width, channels)


def restore_streamed(net: UniRain, image: Tensor, store: MapStore) -> Tensor:
    """The network's output for one image.

    Autocast, where it is on, applies as to the network itself.

    Args:
        net: The network, in evaluation mode, on the store's device.
        image: ``(1, 3, H, W)`` float32 in the host's memory, RGB in [0, 1].
        store: Where and in what pieces.

    Returns:
        ``(1, 3, H, W)`` float32 in the host's memory, not clamped.
    """
    slow = wants_slow_bfloat16(image)
    with torch.no_grad(), torch.autocast("cpu", enabled=False) if slow else contextlib.nullcontext():
        return _Streamed(net, store).run(image)


class _Streamed:
    """One evaluation. Maps are ``(H, W, C)``, pieces of them ``(1, rows, W, C)``."""

    def __init__(self, net: UniRain, store: MapStore) -> None:
        self.net, self.store = net, store

    def run(self, image: Tensor) -> Tensor:
        net = self.net
        padded = pad_to_multiple(image, net.stride)[0].permute(1, 2, 0)
        # A decoder's map takes the place of the encoder's, which it is fused from: one room a level, of which a
        # narrow encoder's map uses only the beginning.
        widths = [fuse.skip.out_features for fuse in net.fuse] + [net.options.channels(len(net.fuse))]
        x, room = self._embed(padded, widths[0])
        rooms, maps = [room], [x]
        for level, stage in enumerate(net.encoder):
            if level:
                x, room = self._down(level, x, widths[level])
                rooms.append(room)
                maps.append(x)
            for block in stage:
                self._block(block, x)
        del room, rooms[-1], maps[-1]
        for level in reversed(range(len(net.decoder))):
            x = self._fuse(level, rooms.pop(), maps.pop(), x)
            for block in net.decoder[level]:
                self._block(block, x)
        for block in net.refinement:
            self._block(block, x)
        return self._output(padded, x)[..., : image.shape[2], : image.shape[3]]

    def _embed(self, padded: Tensor, width: int) -> tuple[Tensor, Tensor]:
        height, columns, _ = padded.shape
        out = room = None
        for top, bottom in self.store.bands(height, columns):
            piece, above = self.store.read(padded, top, bottom, halo=1)
            y = self.net.embed(piece)[0, above : above + bottom - top]
            if out is None:
                room = self.store.allocate(height * columns * max(width, y.shape[-1]), y.dtype)
                out = shaped(room, height, columns, y.shape[-1])
            out[top:bottom] = y.to(out.device)
        return out, room

    def _down(self, level: int, x: Tensor, width: int) -> tuple[Tensor, Tensor]:
        height, columns, _ = x.shape
        channels = self.net.options.channels(level)
        room = self.store.allocate(height // 2 * (columns // 2) * max(width, channels), x.dtype)
        out = shaped(room, height // 2, columns // 2, channels)
        for top, bottom in self.store.bands(height, columns, 2):
            piece, above = self.store.read(x, top, bottom, halo=2)
            y = self.net.down[level - 1](piece)[0, above // 2 :]
            out[top // 2 : bottom // 2] = y[: (bottom - top) // 2].to(out.device)
        return out, room

    def _fuse(self, level: int, room: Tensor, skip: Tensor, x: Tensor) -> Tensor:
        fuse = self.net.fuse[level]
        height, columns, _ = skip.shape
        out = shaped(room, height, columns, fuse.skip.out_features)
        # From the bottom up: rows of the wider result cover rows of the encoder's map that have been used already.
        for top, bottom in reversed(list(self.store.bands(height, columns, 2))):
            piece, above = self.store.read(x, top // 2, bottom // 2, halo=1)
            up = self.net.up[level](piece)[:, 2 * above : 2 * above + bottom - top]
            y = fuse(self.store.read(skip, top, bottom)[0], up)
            out[top:bottom] = y[0].to(out.device)
        return out

    def _output(self, padded: Tensor, x: Tensor) -> Tensor:
        out = torch.empty_like(padded, memory_format=torch.contiguous_format)
        for top, bottom in self.store.bands(*x.shape[:2]):
            piece, above = self.store.read(x, top, bottom, halo=1)
            y = self.net.output(piece)[0, above : above + bottom - top]
            out[top:bottom] = padded[top:bottom] + y.to("cpu", torch.float32)
        return out.permute(2, 0, 1)[None]

    def _block(self, block: TransformerBlock, x: Tensor) -> None:
        routing = _Routing(block.feed_forward, x.shape[0], x.shape[1])
        self._attention(block, x, routing)
        self.store.update(x, lambda piece, first: routing.evaluate(block.norm2(piece), first), routing.multiple)

    def _attention(self, block: TransformerBlock, x: Tensor, routing: _Routing) -> None:
        attention, channels = block.attention, x.shape[-1]
        products = squares = 0.0
        for top, bottom in self.store.bands(*x.shape[:2]):
            piece, above = self.store.read(x, top, bottom, halo=1)
            rows = slice(above, above + bottom - top)
            qk = attention.qkv[: 2 * channels], attention.depthwise[: 2 * channels]
            for z in _expanded(block.norm1(piece), *qk, rows):
                z = z.reshape(-1, 2 * channels)
                z = z.float() if z.dtype == torch.float16 else z  # sums over many pixels would overflow
                q, k = z.unflatten(-1, (2, attention.heads, -1)).unbind(1)
                products = products + (q.permute(1, 2, 0) @ k.transpose(0, 1)).float()
                squares = squares + z.square().sum(0, dtype=torch.float32)
        mix = attention.mixing(products[None], squares[None])[0]
        value = attention.qkv[2 * channels :], attention.depthwise[2 * channels :]

        def mixed_values(piece: Tensor, first: int) -> Tensor:
            every_row = slice(0, piece.shape[1])
            strips = [v @ mix.to(v.dtype) for v in _expanded(block.norm1(piece), *value, every_row)]
            return torch.cat(strips)[None]

        self.store.update(x, mixed_values)
        if routing.needs_overview:
            for top, bottom in self.store.bands(*x.shape[:2], routing.multiple):
                routing.observe(block.norm2(self.store.read(x, top, bottom)[0]))


def _expanded(x: Tensor, expand: Tensor, depthwise: Tensor, rows: slice) -> Iterator[Tensor]:
    """D(W · x) of the given rows of a piece, in one or several strips ``(rows, W, channels)``."""
    if not can_stream(x):
        yield depthwise_3x3(F.linear(x, expand), depthwise)[0, rows]
        return
    dtype = compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        x, expand, depthwise = (t.to(dtype) for t in (x, expand, depthwise))
        for top, bottom, z in expanded_strips(x[0], expand, depthwise):
            start, stop = max(rows.start, top), min(rows.stop, bottom)
            if start < stop:
                yield z[start - top : stop - top]


class _Routing:
    """The feed-forward of a block with its routing decided once, from the whole map.

    Args:
        layer: The feed-forward, a mixture or dense.
        height: Rows of the map.
        width: Columns of the map.
    """

    def __init__(self, layer: nn.Module, height: int, width: int) -> None:
        self.layer, self.size = layer, (height, width)
        kind = getattr(layer, "routing", "none")
        self.needs_overview = kind in ("image", "window")
        self.by_window = kind == "window"
        self.multiple = layer.window if self.by_window else 1
        self._means: list[Tensor] = []
        self._decision: tuple[Tensor, Tensor] | None = None

    def observe(self, x: Tensor) -> None:
        """Take in the next rows of the normalised map, ``(1, rows, W, C)``, from the top down."""
        if self.by_window:
            self._means.append(pool_windows(x, self.layer.window))
        else:
            self._means.append(x.sum((0, 1, 2), dtype=torch.float32))

    def evaluate(self, x: Tensor, first: int) -> Tensor:
        """The feed-forward of the rows from ``first`` on: ``(1, rows, W, C)`` to the same shape."""
        if not self.needs_overview:
            return self.layer(x)[0]
        if self._decision is None:
            self._decision = self._decide()
        chosen, weights = self._decision
        if self.by_window:
            weights = self._rows(weights, first, x.shape[1])
        if isinstance(self.layer, SoftMoE):
            return self.layer.experts.forward_all(x, weights)
        if self.by_window:
            return dispatch_dense(x, self.layer.experts, weights)
        return dispatch_images(x, self.layer.experts, chosen, weights)

    def _decide(self) -> tuple[Tensor, Tensor]:
        """Chosen experts ``(1, U, K)`` and weights: ``(1, U, K)`` for images, else ``(1, rows, columns, E)``."""
        if self.by_window:
            means = torch.cat(self._means, 1)
        else:
            means = torch.stack(self._means).sum(0).div(self.size[0] * self.size[1]).view(1, 1, 1, -1)
        logits = self.layer.router(means)
        if not isinstance(self.layer, HardMoE):
            probabilities = logits.softmax(-1)
            return probabilities, probabilities
        chosen, weights, _ = choose_top_k(logits.flatten(1, 2), self.layer.top_k)
        if self.by_window:
            mask = torch.zeros_like(logits).flatten(1, 2).scatter(-1, chosen, weights)
            weights = mask.view_as(logits)
        return chosen, weights

    def _rows(self, weights: Tensor, first: int, rows: int) -> Tensor:
        """The windows' weights at the pixels of some rows: ``(1, rows, W, E)``."""
        window = self.layer.window
        start, stop = first // window, (first + rows - 1) // window + 1
        spread = spread_windows(weights[:, start:stop], window, self.size[0], self.size[1])
        offset = first - start * window
        return spread[:, offset : offset + rows]

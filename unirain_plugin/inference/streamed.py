"""UniRain on an image of any size, exactly: layer by layer, each layer piece by piece.

Tiles that are restored on their own see other images than the whole: channel attention mixes channels by sums over
all pixels, and the hard mixtures route by means over all pixels. So nothing is cut before the network but every layer
is computed in pieces, twice where it needs to know the whole: first the sums (attention's q·kᵀ and norms, the
routers' means), then the values with these. The result is that of the whole image up to the order of float sums: no
overlap, no blending, no seam.

A feature map is ``(H, W, C)``, one for each level, changed in place. It lies in the host's memory (or in a scratch
file, or on the accelerator where there is ample room); only a piece at a time is on the computing device.

Each layer begins with D(W · norm(x)), a 1×1 and a 3×3 depth-wise convolution. On the CPU its pieces are strips, some
rows of a block of columns, whose W · norm(x), the widest map by far, stays in the cache. The strips of a block run from
the top down and hand on the two rows that neighbours share.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirain_plugin.archs.blocks import TransformerBlock, pad_to_multiple
from unirain_plugin.archs.kernels import compute_dtype, linear, wants_slow_bfloat16
from unirain_plugin.archs.mixtures import HardMoE, choose_top_k, pool_windows, spread_windows
from unirain_plugin.archs.unirain_arch import UniRain
from unirain_plugin.errors import DataError
from unirain_plugin.support.resources import free_memory

RESERVE = 0.5
"""Share of the free memory that maps may take before they go to a scratch file."""

_BAND_BYTES = 2**24
"""Bytes of a band of rows on the CPU, of which a convolution computes those at the edge twice."""
_STRIP_BYTES, _STRIP_COLUMNS, _LEAST_ROWS = 2**21, 96, 4
"""Size of a strip on the CPU, where its rows are not fewer than the least."""

Block = tuple[slice, slice]
"""Rows and columns of a map."""


class MapStore:
    """Allocates maps and tells how to cut them.

    Args:
        device: Where pieces are computed.
        piece: Edge in pixels of the square whose area a piece has at most; on the CPU pieces fit the cache as well.
        limit: Bytes of maps that are kept in memory; None for half of what is free. Beyond it maps lie in files of
            the temporary folder (``TMPDIR``), which exist only as long as they are used.
    """

    def __init__(self, device: torch.device, piece: int, limit: int | None = None) -> None:
        self.device = device
        self.area = piece * piece
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

    def bands(self, height: int, width: int, channels: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
        """Rows ``(top, bottom)`` of pieces with at most so many channels; every top is a multiple of ``multiple``."""
        area = min(self.area, _BAND_BYTES // (4 * channels)) if self.device.type == "cpu" else self.area
        yield from _evenly(height, area // width, multiple)

    def strips(self, height: int, width: int, channels: int) -> Iterator[Block]:
        """Rows and columns of the pieces for D(W · norm(x)), from the top down, block of columns by block."""
        columns, rows = width, self.area // width
        if self.device.type == "cpu":
            columns = min(_STRIP_COLUMNS, width)
            fitting = max(_STRIP_BYTES // (4 * columns * channels), _LEAST_ROWS)
            rows = min(self.area // columns, fitting)
        for left, right in _evenly(width, columns):
            for top, bottom in _evenly(height, rows):
                yield slice(top, bottom), slice(left, right)

    def read(self, source: Tensor, top: int, bottom: int, halo: int = 0) -> tuple[Tensor, int]:
        """A piece on the computing device, with up to ``halo`` more rows on both sides where the map has them.

        Returns:
            ``(1, rows, W, C)``, not to be changed, and how many of its rows lie above ``top``.
        """
        above = min(halo, top)
        return source[None, top - above : bottom + halo].to(self.device), above


def _evenly(size: int, most: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Cut ``size`` into parts of about the same length, which begin at a multiple of ``multiple``."""
    count = -(-size // (max(most // multiple, 1) * multiple))
    length = -(-size // (count * multiple)) * multiple
    for start in range(0, size, length):
        yield start, min(start + length, size)


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
    like = torch.empty(0, dtype=image.dtype, device=store.device)
    dtype = image.dtype if wants_slow_bfloat16(like) else compute_dtype(like)
    with torch.no_grad(), torch.autocast(store.device.type, dtype, enabled=dtype != image.dtype):
        return _Streamed(net, store, dtype).run(image)


class _Streamed:
    """One evaluation. Maps are ``(H, W, C)``, pieces of them ``(1, rows, W, C)``."""

    def __init__(self, net: UniRain, store: MapStore, dtype: torch.dtype) -> None:
        self.net, self.store, self.dtype = net, store, dtype

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
        for top, bottom in self.store.bands(height, columns, self.net.embed.weight.shape[0]):
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
        for top, bottom in self.store.bands(height, columns, 2 * x.shape[-1], 2):
            piece, above = self.store.read(x, top, bottom, halo=2)
            y = self.net.down[level - 1](piece)[0, above // 2 :]
            out[top // 2 : bottom // 2] = y[: (bottom - top) // 2].to(out.device)
        return out, room

    def _fuse(self, level: int, room: Tensor, skip: Tensor, x: Tensor) -> Tensor:
        fuse = self.net.fuse[level]
        height, columns, _ = skip.shape
        out = shaped(room, height, columns, fuse.skip.out_features)
        # From the bottom up: rows of the wider result cover rows of the encoder's map that have been used already.
        for top, bottom in reversed(list(self.store.bands(height, columns, out.shape[-1], 2))):
            piece, above = self.store.read(x, top // 2, bottom // 2, halo=1)
            up = self.net.up[level](piece)[:, 2 * above : 2 * above + bottom - top]
            y = fuse(self.store.read(skip, top, bottom)[0], up)
            out[top:bottom] = y[0].to(out.device)
        return out

    def _output(self, padded: Tensor, x: Tensor) -> Tensor:
        out = torch.empty_like(padded, memory_format=torch.contiguous_format)
        for top, bottom in self.store.bands(*x.shape):
            piece, above = self.store.read(x, top, bottom, halo=1)
            y = self.net.output(piece)[0, above : above + bottom - top]
            out[top:bottom] = padded[top:bottom] + y.to("cpu", torch.float32)
        return out.permute(2, 0, 1)[None]

    def _block(self, block: TransformerBlock, x: Tensor) -> None:
        with torch.autocast(self.store.device.type, enabled=False):
            self._attention(block, x)
            self._feed_forward(block, x)

    def _attention(self, block: TransformerBlock, x: Tensor) -> None:
        attention, channels = block.attention, x.shape[-1]
        both = 2 * channels
        products = squares = 0.0
        for _, z in self._strips(x, block.norm1, attention.qkv[:both], attention.depthwise[:both]):
            z = z.reshape(-1, both)
            z = z.float() if z.dtype == torch.float16 else z  # sums over many pixels would overflow
            q, k = z.unflatten(-1, (2, attention.heads, -1)).unbind(1)
            products = products + (q.permute(1, 2, 0) @ k.transpose(0, 1)).float()
            squares = squares + z.square().sum(0, dtype=torch.float32)
        mix = attention.mixing(products[None], squares[None])[0].t().to(self.dtype)
        for block_of_x, v in self._strips(x, block.norm1, attention.qkv[both:], attention.depthwise[both:]):
            x[block_of_x] += linear(v, mix).to(x.device)

    def _feed_forward(self, block: TransformerBlock, x: Tensor) -> None:
        routing = _Routing(block.feed_forward, *x.shape[:2])
        if routing.needs_overview:
            for top, bottom in self.store.bands(*x.shape, routing.multiple):
                routing.observe(block.norm2(self.store.read(x, top, bottom)[0]))
        experts, chosen = getattr(block.feed_forward, "experts", block.feed_forward), routing.decide()
        index = torch.tensor(chosen, device=self.store.device)
        expand = experts.expand[index].unflatten(1, (2, -1)).transpose(0, 1).flatten(0, 2)
        depthwise = experts.depthwise.unflatten(0, (experts.num_experts, 2, -1))[index].transpose(0, 1).flatten(0, 2)
        project = experts.project[index].transpose(0, 1).flatten(1).to(self.dtype)
        for block_of_x, z in self._strips(x, block.norm2, expand, depthwise, routing.see):
            product = torch.mul(*z.chunk(2, -1))
            if (weights := routing.weights(*block_of_x)) is not None:
                product.unflatten(-1, (len(chosen), -1)).mul_(weights.to(self.dtype).unsqueeze(-1))
            x[block_of_x] += linear(product, project).to(x.device)

    def _strips(
        self,
        x: Tensor,
        norm: nn.Module,
        expand: Tensor,
        depthwise: Tensor,
        see: Callable[[Tensor], None] | None = None,
    ) -> Iterator[tuple[Block, Tensor]]:
        """Yield where, and D(W · norm(x)) there, ``(rows, columns, channels)``; x may be changed there at once.

        ``see`` is shown norm(x), each pixel once, ahead of the strip that it belongs to.
        """
        height, width, _ = x.shape
        channels = len(expand)
        expand, depthwise = expand.t().to(self.dtype), depthwise.to(self.dtype)
        edge = x.new_empty(height, x.shape[-1], device=self.store.device)  # the column left of the block, as it was
        for rows, columns in self.store.strips(height, width, channels):
            top, bottom, left, right = rows.start, rows.stop, columns.start, columns.stop
            first, last = top + 1 if top else 0, min(bottom + 1, height)
            outside = int(left == 0), int(right == width)
            piece = x[first:last, left - 1 + outside[0] : right + 1 - outside[1]].to(self.store.device, copy=True)
            if left:
                piece[:, 0] = edge[first:last]
            edge[first:last] = piece[:, -1 if outside[1] else -2]
            pixels = norm(piece).to(self.dtype)
            if see:
                see(pixels[:, 1 - outside[0] : right - left + 1 - outside[0]])
            if any(outside):  # zeros stay zeros in W · x, which has no bias
                pixels = F.pad(pixels, (0, 0, *outside))
            if top == 0:  # row i of the room is the map's row top - 1 + i; rows outside the map are 0
                room = pixels.new_zeros(1, bottom + 2, right - left + 2, channels)
            else:
                room[0, :2] = room[0, -2:].clone()
            torch.mm(pixels.flatten(0, 1), expand, out=room[0, first - top + 1 : last - top + 1].flatten(0, 1))
            if bottom == height:
                room[0, bottom - top + 1] = 0
            z = F.conv2d(room[:, : bottom - top + 2].permute(0, 3, 1, 2), depthwise, groups=channels)
            yield (rows, columns), z[0].permute(1, 2, 0)


class _Routing:
    """The routing of a feed-forward, decided from the whole map where it is by image or window.

    Args:
        layer: The feed-forward, a mixture or dense.
        height: Rows of the map.
        width: Columns of the map.
    """

    def __init__(self, layer: nn.Module, height: int, width: int) -> None:
        self.layer, self.size = layer, (height, width)
        self.kind = getattr(layer, "routing", "none")
        self.needs_overview = self.kind in ("image", "window")
        self.multiple = layer.window if self.kind == "window" else 1
        self._means: list[Tensor] = []
        self._weights: Tensor | None = None

    def observe(self, x: Tensor) -> None:
        """Take in the next rows of the normalised map, ``(1, rows, W, C)``, from the top down."""
        if self.kind == "window":
            self._means.append(pool_windows(x, self.layer.window))
        else:
            self._means.append(x.sum((0, 1, 2), dtype=torch.float32))

    def decide(self) -> list[int]:
        """The experts that run, from what was observed."""
        if not self.needs_overview:
            return list(range(getattr(self.layer, "experts", self.layer).num_experts))
        if self.kind == "window":
            means = torch.cat(self._means, 1)
        else:
            means = torch.stack(self._means).sum(0).div(self.size[0] * self.size[1]).view(1, 1, 1, -1)
        logits = self.layer.router(means)
        experts = list(range(logits.shape[-1]))
        if not isinstance(self.layer, HardMoE):
            self._weights = logits.softmax(-1)[0]
            return experts
        chosen, weights, _ = choose_top_k(logits.flatten(1, 2), self.layer.top_k)
        if self.kind == "window":
            mask = torch.zeros_like(logits).flatten(1, 2).scatter(-1, chosen, weights)
            self._weights = mask.view_as(logits)[0]
            return experts
        self._weights = weights if self.layer.top_k > 1 else None  # the weight of a single expert is 1
        return chosen.flatten().tolist()

    def see(self, x: Tensor) -> None:
        """Where routing is by pixel: more of the normalised map, ``(rows, columns, C)``, below what was seen."""
        if self.kind == "pixel":
            new = self.layer.router(x).softmax(-1)
            self._weights = new if self._weights is None else torch.cat([self._weights, new])

    def weights(self, rows: slice, columns: slice) -> Tensor | None:
        """The experts' weights in a block, ``(rows, columns, E)`` or broadcastable; None where they are 1."""
        if self.kind == "pixel":
            weights, rest = self._weights.tensor_split([rows.stop - rows.start])
            self._weights = rest if len(rest) else None
            return weights
        if self.kind != "window":
            return self._weights
        window = self.layer.window
        start, stop = rows.start // window, (rows.stop - 1) // window + 1
        spread = spread_windows(self._weights[None, start:stop], window, *self.size)
        offset = start * window
        return spread[0, rows.start - offset : rows.stop - offset, columns]

"""UniRain on an image of any size, exactly: layer by layer, each layer piece by piece.

Tiles that are restored on their own see other images than the whole: channel attention mixes channels by sums over all
pixels, and the hard mixtures route by means over them. So every layer is computed in pieces, twice where it needs to
know the whole: first the sums, then the values with these. The result is that of the whole image up to the order of
float sums.

A feature map is ``(H, W, C)``, one for each level, changed in place; while a level's blocks run, there is one more for
attention's v, if that is not too large. Maps lie in the host's memory (or in a scratch file, or on the accelerator if
there is ample room); only a piece at a time is on the computing device. Its D(W · norm(x)) is made in strips (see
:mod:`~unirain_plugin.archs.kernels`), on the CPU of a block of columns.
"""

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from math import inf
from pathlib import Path

import torch
from torch import Tensor, nn

from unirain_plugin.archs import kernels
from unirain_plugin.archs.blocks import TransformerBlock, pad_to_multiple
from unirain_plugin.archs.kernels import Place, Strip, linear
from unirain_plugin.archs.mixtures import HardMoE, choose_top_k, pool_windows, spread_windows
from unirain_plugin.archs.unirain_arch import UniRain
from unirain_plugin.errors import DataError

RESERVE = 0.5
"""Share of the free memory that maps may take."""

_BAND_BYTES = 2**24  # bytes of a band of rows on the CPU, of which a convolution computes those at the edge twice
_STRIP_BYTES, _LEAST_ROWS = 2**23, 8
"""Bytes of a strip on the CPU (half of them: 1.04 of the time), and its rows, for which maps are cut into blocks of
columns."""
_SPARE_BYTES = 2**30  # bytes of a map of v that is kept; a larger one is computed a second time (1.1 of the time)


class MapStore:
    """Allocates maps and tells how to cut them into pieces, which are computed on ``device``.

    ``piece`` is the edge of the square whose area a piece has at most; on the CPU pieces fit the cache as well. Beyond
    ``limit`` bytes, maps lie in files of the temporary folder (``TMPDIR``), which exist only as long as they are used.
    """

    def __init__(self, device: torch.device, piece: int, limit: float = inf) -> None:
        self.device = device
        self.area = piece * piece
        self.free = {torch.device("cpu"): limit}
        if device.type == "cuda":
            self.free = {device: int(RESERVE * torch.cuda.mem_get_info(device)[0]), **self.free}

    def allocate(self, size: int, dtype: torch.dtype) -> Tensor:
        """Uninitialised room for ``size`` values, flat (:func:`shaped`); DataError if a scratch file's disk is full."""
        needed = size * dtype.itemsize
        for device, free in self.free.items():
            if needed <= free:
                room = torch.empty(size, dtype=dtype, device=device)
                self.free[device] -= needed
                weakref.finalize(room, self._take_back, device, needed)
                return room
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

    def spare(self, x: Tensor) -> Tensor | None:
        """Room for another map of this size, flat; None where that would take much memory or a file."""
        fits = x.nbytes <= min(_SPARE_BYTES, max(self.free.values()))
        return self.allocate(x.numel(), x.dtype) if fits else None

    def strips(self, width: int, channels: int) -> tuple[Iterator[tuple[int, int]], int]:
        """How D(W · norm(x)) is cut: the blocks of columns, and the bytes of a strip of so many channels."""
        needed = self.area * channels * 4
        if self.device.type != "cpu":
            return _evenly(width, width), needed
        return _evenly(width, _STRIP_BYTES // (4 * channels * _LEAST_ROWS)), min(_STRIP_BYTES, needed)

    def read(self, source: Tensor, top: int, bottom: int, halo: int = 0) -> tuple[Tensor, int]:
        """A piece ``(1, rows, W, C)`` on the device, not to be changed, and the number of its rows above ``top``.

        It has up to ``halo`` more rows on both sides where the map has them.
        """
        above = min(halo, top)
        return source[None, top - above : bottom + halo].to(self.device), above

    def _take_back(self, device: torch.device, size: int) -> None:
        self.free[device] += size


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
    """The network's output for one image, ``(1, 3, H, W)`` float32 in the host's memory, RGB in [0, 1]; not clamped.

    The network is in evaluation mode, on the store's device; autocast, where it is on, applies as to it.
    """
    like = torch.empty(0, dtype=image.dtype, device=store.device)
    dtype = image.dtype if kernels.wants_slow_bfloat16(like) else kernels.compute_dtype(like)
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
            self._stage(stage, x)
        del room, rooms[-1], maps[-1]
        for level in reversed(range(len(net.decoder))):
            x = self._fuse(level, rooms.pop(), maps.pop(), x)
            self._stage(net.decoder[level], x)
        self._stage(net.refinement, x)
        return self._output(padded, x)[..., : image.shape[2], : image.shape[3]]

    def _embed(self, padded: Tensor, width: int) -> tuple[Tensor, Tensor]:
        height, columns, _ = padded.shape
        channels = len(self.net.embed.weight)
        room = self.store.allocate(height * columns * max(width, channels), self.dtype)
        out = shaped(room, height, columns, channels)
        for top, bottom in self.store.bands(*out.shape):
            piece, above = self.store.read(padded, top, bottom, halo=1)
            out[top:bottom] = self.net.embed(piece)[0, above : above + bottom - top].to(out.device)
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

    def _stage(self, blocks: Sequence[TransformerBlock], x: Tensor) -> None:
        spare = self.store.spare(x) if len(blocks) else None
        v = None if spare is None else spare.view(x.shape)
        with torch.autocast(self.store.device.type, enabled=False):
            for block in blocks:
                routing = _Routing(block.feed_forward, *x.shape[:2])
                self._attention(block, x, v, routing)
                self._feed_forward(block, x, routing)

    def _attention(self, block: TransformerBlock, x: Tensor, v: Tensor | None, routing: "_Routing") -> None:
        """Add attention to ``x``; ``v`` is room for a map, without which v is computed a second time."""
        layer, channels = block.attention, x.shape[-1]
        first = (2 if v is None else 3) * channels
        strips = self._strips(x, block.norm1, layer.qkv[:first], layer.depthwise[:first])
        sums = kernels.attention_sums(strips, layer.heads, channels, v)
        mix = layer.mixing(*(each[None] for each in sums))[0].t().to(self.dtype)
        for place, values in self._strips(x, block.norm1, layer.qkv[first:], layer.depthwise[first:]):
            x[place] += linear(values, mix).to(x.device)
        for top, bottom in self.store.bands(*x.shape, routing.multiple):
            if v is not None:
                x[top:bottom] += linear(self.store.read(v, top, bottom)[0], mix)[0].to(x.device)
            if routing.needs_overview:
                routing.observe(block.norm2(self.store.read(x, top, bottom)[0]))

    def _feed_forward(self, block: TransformerBlock, x: Tensor, routing: "_Routing") -> None:
        experts, chosen = getattr(block.feed_forward, "experts", block.feed_forward), routing.decide()
        expand = experts.expand[chosen].unflatten(1, (2, -1)).transpose(0, 1).flatten(0, 2)
        depthwise = experts.depthwise.unflatten(0, (experts.num_experts, 2, -1))[chosen].transpose(0, 1).flatten(0, 2)
        project = experts.project[chosen].transpose(0, 1).flatten(1).to(self.dtype)
        for place, product in kernels.gated_strips(
            self._strips(x, block.norm2, expand, depthwise, routing.see), routing
        ):
            x[place] += linear(product, project).to(x.device)

    def _strips(
        self,
        x: Tensor,
        norm: nn.Module,
        expand: Tensor,
        depthwise: Tensor,
        see: Callable[[Tensor], None] | None = None,
    ) -> Iterator[Strip]:
        """Yield D(W · norm(x)); x may be changed there at once. ``see`` is shown norm(x) ahead of its strip."""
        height, width, channels = x.shape
        if not len(expand):
            return
        expand, depthwise = expand.to(self.dtype), depthwise.to(self.dtype)
        blocks, strip_bytes = self.store.strips(width, len(expand))
        edge = x.new_empty(height, channels, device=self.store.device)  # the column left of the block, as it was
        for left, right in blocks:
            rows = 0

            def prepare(piece: Tensor, halo: int = min(left, 1), last: int = min(left, 1) + right - left - 1) -> Tensor:
                nonlocal rows
                piece, here = piece.to(self.store.device, copy=halo > 0), slice(rows, rows + len(piece))
                rows = here.stop
                if halo:
                    piece[:, 0] = edge[here]
                edge[here] = piece[:, last]
                pixels = norm(piece).to(self.dtype)
                if see:
                    see(pixels[:, halo : last + 1])
                return pixels

            region = slice(0, height), slice(left, right)
            yield from kernels.expanded_strips(x, expand, depthwise, region, prepare, strip_bytes)


class _Routing:
    """The routing of a feed-forward (a mixture or dense), decided from the whole map where it is by image or window."""

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

    def decide(self) -> Tensor:
        """The numbers of the experts that run, from what was observed; a GPU's host does not wait for them."""
        experts = getattr(self.layer, "experts", self.layer)
        everyone = torch.arange(experts.num_experts, device=experts.expand.device)
        if not self.needs_overview:
            return everyone
        if self.kind == "window":
            means = torch.cat(self._means, 1)
        else:
            means = torch.stack(self._means).sum(0).div(self.size[0] * self.size[1]).view(1, 1, 1, -1)
        logits = self.layer.router(means)
        if not isinstance(self.layer, HardMoE):
            self._weights = logits.softmax(-1)[0]
            return everyone
        chosen, weights, _ = choose_top_k(logits.flatten(1, 2), self.layer.top_k)
        if self.kind == "window":
            mask = torch.zeros_like(logits).flatten(1, 2).scatter(-1, chosen, weights)
            self._weights = mask.view_as(logits)[0]
            return everyone
        self._weights = weights if self.layer.top_k > 1 else None  # the weight of a single expert is 1
        return chosen.flatten()

    def see(self, x: Tensor) -> None:
        """Where routing is by pixel: more of the normalised map, ``(rows, columns, C)``, below what was seen."""
        if self.kind == "pixel":
            new = self.layer.router(x).softmax(-1)
            self._weights = new if self._weights is None else torch.cat([self._weights, new])

    def __getitem__(self, place: Place) -> Tensor | None:
        """The experts' weights in a strip, ``(rows, columns, E)`` or broadcastable; None where they are 1."""
        rows, columns = place
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

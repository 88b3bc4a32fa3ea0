"""Feature maps of a large picture: kept in one place, computed piece by piece.

A map is ``(H, W, C)``. It lies in the host's memory (or in a scratch file, or on the accelerator where there is ample
room), and is read and changed in bands of whole rows; only a band at a time is on the computing device.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

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
                f"{folder}: no room for {needed / 2**30:.2f} GiB of a large picture's feature maps ({error.strerror}); "
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

"""How many pixels an image may have: looked at in its header, before anything is decoded.

A file of some kilobytes can declare gigabytes of pixels. The limit holds for the process and those that it starts, so
it lies in the environment.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.support.resources import free_memory

VARIABLE = "UNIRAIN_MAX_MEGAPIXELS"
"""Environment variable with the limit in millions of pixels."""
_BYTES = 16
"""Of memory for a pixel while it is decoded: four channels of 16 bits, and a copy."""


def max_pixels() -> int:
    """The limit in pixels: what :data:`VARIABLE` says, else what the memory that was free at first takes.

    Raises:
        OptionError: If the variable holds no positive number.
    """
    told = os.environ.get(VARIABLE)
    return _default() if told is None else int(check_megapixels(VARIABLE, told) * 1e6)


@cache
def _default() -> int:
    return free_memory() // _BYTES


def check_pixels(height: int, width: int, name: str, limit: int | None = None) -> None:
    """Refuse an image that is too large.

    Args:
        height: Rows that the header declares.
        width: Columns that it declares.
        name: The file's name for the error.
        limit: In pixels; None for :func:`max_pixels`.

    Raises:
        DataError: If it has more pixels than the limit.
    """
    limit = max_pixels() if limit is None else limit
    if height * width > limit:
        raise DataError(f"{name}: {width} × {height} pixels are too many: at most {limit / 1e6:g} megapixels are read "
                        "(see max-megapixels).")  # fmt: skip


def add_limit_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--max-megapixels``, for :func:`limited`."""
    parser.add_argument(
        "--max-megapixels",
        type=float,
        metavar="N",
        help="refuse images that declare more, before they are decoded (default: what free memory takes)",
    )


@contextmanager
def limited(megapixels: float | None) -> Iterator[None]:
    """Have a limit hold for a while, for this process and those that it starts; None leaves it as it is.

    Raises:
        OptionError: If it is no positive number.
    """
    before = os.environ.get(VARIABLE)
    if megapixels is not None:
        os.environ[VARIABLE] = repr(check_megapixels("max-megapixels", megapixels))
    try:
        yield
    finally:
        if before is not None:
            os.environ[VARIABLE] = before
        elif megapixels is not None:
            os.environ.pop(VARIABLE, None)


def check_megapixels(where: str, value: object) -> float:
    """A limit in millions of pixels.

    Raises:
        OptionError: If it is no positive number.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise OptionError(f"{where}: got {value!r}; expected a number of megapixels above 0.")
    return number

"""Finding damage that a decoder papers over: a JPEG whose middle is destroyed still "decodes", with grey patches.

libjpeg tells of it on the process's standard error only, so that is what is watched here.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import IO, TypeVar

from unirain_plugin.data.image_io import EncodedImage
from unirain_plugin.errors import DataError
from unirain_plugin.support.processes import process_pool

# A few bytes too many before the end marker are an old habit of some cameras; many are the rest of a lost picture.
_HARMLESS = r"[^\n]* \d extraneous bytes before marker 0xd9"
_DAMAGE = re.compile(rf"^(?!{_HARMLESS}).*(Corrupt JPEG data|Premature end|Invalid SOS).*$", re.M)
_T = TypeVar("_T")
_R = TypeVar("_R")


@contextmanager
def captured_stderr() -> Iterator[IO[bytes]]:
    """Collect what C libraries write to file descriptor 2 in a temporary file, which is yielded."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def decode_strictly(data: bytes, name: str, convert: Collection[str] = ()) -> EncodedImage:
    """Decode a whole image.

    Raises:
        DataError: If it is bad in any way that :class:`EncodedImage` or the decoder's warnings tell.
    """
    image = EncodedImage(data, name, convert)
    with captured_stderr() as file:
        image.decode()
        file.seek(0)
        text = file.read().decode("utf-8", "replace")
    damage = _DAMAGE.search(text)
    if damage:
        raise DataError(f"{name}: the image is damaged: {damage[0].strip()}.")
    return image


def map_in_processes(function: Callable[[_T], _R], items: Iterable[_T], workers: int, chunk: int = 16) -> Iterator[_R]:
    """Map in order and lazily: few items or ``workers`` ≤ 1 in this process, else in fresh ones."""
    source, waiting = iter(items), deque()
    first = list(islice(source, 16 * chunk))
    if workers <= 1 or len(first) < 16 * chunk:
        yield from map(function, chain(first, source))
        return
    source = chain(first, source)
    with process_pool(workers) as pool:
        while batch := list(islice(source, chunk)):
            waiting.append(pool.submit(_apply, function, batch))
            if len(waiting) > 3 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _apply(function: Callable[[_T], _R], batch: list[_T]) -> list[_R]:
    return [function(item) for item in batch]

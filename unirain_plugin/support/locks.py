"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from unirain_plugin.errors import DataError
from unirain_plugin.support.writing import write_errors


@contextmanager
def sole_user(folder: str | os.PathLike[str], refusal: str) -> Iterator[None]:
    """Hold a lock on a folder, through a file ``.lock`` in it; it goes with the process, however that ends.

    Args:
        folder: The folder; it must be there.
        refusal: What to say where another process holds it: ``{folder}: {refusal}``.

    Raises:
        DataError: If another process holds it, the folder cannot be written, or its file system has no locks.
    """
    path = os.path.join(folder, ".lock")
    with write_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # for writing, or NFS locks nothing
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{os.fspath(folder)}: {refusal}") from None
        except OSError as error:
            raise DataError(f"{os.fspath(folder)}: cannot be locked: {error.strerror}.") from None
        yield
    finally:
        os.close(handle)

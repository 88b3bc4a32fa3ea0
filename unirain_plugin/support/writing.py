"""Writing files whole: each appears by a rename, and what prevents it is told with the file's name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from unirain_plugin.errors import DataError

_ORIGIN_FILE = ".made_from.json"


@contextmanager
def write_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says of a file that cannot be written (a full disk, say) into a clear error.

    Raises:
        DataError: Naming the file.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{os.fspath(path)}: cannot be written: {error.strerror or error}.") from None


def write_whole(path: str | os.PathLike[str], data: bytes | str, sync: bool = True) -> None:
    """Write a file beside its name and move it there.

    Args:
        path: The file.
        data: Its contents; text is written as UTF-8.
        sync: Wait until it is on the disk, so that it also outlives a power cut.

    Raises:
        DataError: If it cannot be written; nothing is left behind.
    """
    folder, name = os.path.split(os.fspath(path))
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    with write_errors(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data.encode("utf-8") if isinstance(data, str) else data)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise


def umask() -> int:
    """The process's mask of file modes, for files whose maker ignores it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def claim_folder(folder: str, origin: Mapping[str, str], refusal: str) -> None:
    """Make a folder and note what its files are made of; a folder made of the same is taken up again.

    Args:
        folder: The folder.
        origin: What its files are made of.
        refusal: What to say of a folder made of something else: ``{folder}: {refusal}``.

    Raises:
        DataError: If the folder holds something else or cannot be written.
    """
    path = os.path.join(folder, _ORIGIN_FILE)
    with write_errors(folder):
        os.makedirs(folder, exist_ok=True)
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        if os.listdir(folder):
            raise DataError(f"{folder}: the folder is not empty; choose another.") from None
        write_whole(path, json.dumps(origin, indent=1))
        return
    except ValueError:
        found = None
    if found != origin:
        raise DataError(f"{folder}: {refusal}")

"""What all exchangeable parts share: a fingerprint for the config hash, an end, and pip names in import errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unirain_plugin.errors import OptionError


class Part:
    """Base of captioners, embedders, text encoders and voters.

    Constructors take the YAML section's keys, check them (``OptionError``) and stay cheap; models are loaded on first
    use, in the worker process.

    Attributes:
        version: Raise it whenever results can change, so that old shards are not mixed with new ones.
    """

    version: int = 1

    def check(self) -> None:
        """Look, before the work begins, whether packages and files are there. Loads no model.

        Raises:
            OptionError: Naming what is missing and how to get it.
        """

    def fingerprint(self) -> dict[str, Any]:
        """What the results depend on, JSON-able, for the config hash. The default: every public plain attribute.

        Never a secret, and nothing that only changes speed.
        """
        plain = (str, int, float, bool, list, tuple, dict, type(None))
        values = {k: v for k, v in vars(self).items() if not k.startswith("_") and isinstance(v, plain)}
        return {"type": type(self).__qualname__, "version": self.version, **values}

    def close(self) -> None:
        """Free connections and models; called once when a worker ends."""


def file_stamp(path: str | Path) -> dict[str, Any]:
    """Name, size and time of a file, to notice that it was exchanged.

    Raises:
        OptionError: If it is missing.
    """
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise OptionError(f"{path}: {error.strerror or error}.") from error
    return {"path": str(path), "bytes": stat.st_size, "mtime": int(stat.st_mtime)}

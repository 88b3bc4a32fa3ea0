"""Where the option files are: inside the package when installed from a wheel, at the top of a checkout otherwise."""

from __future__ import annotations

from pathlib import Path

from unirain_plugin.errors import OptionError, did_you_mean

_PACKAGE = Path(__file__).parent


def options_root() -> Path:
    """The folder that holds ``train/``, ``test/``, … with the option files of this version."""
    shipped = _PACKAGE / "_options"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "options"


def option_file(name: str) -> Path:
    """The path of the option file ``name`` (for example ``train/train_UniRain.yml``).

    Raises:
        OptionError: If there is no such file.
    """
    root = options_root()
    path = root / name
    if not path.is_file():
        known = sorted(str(p.relative_to(root)) for p in root.rglob("*.yml"))
        raise OptionError(f"{name}: no such option file in {root}.{did_you_mean(name, known)}")
    return path

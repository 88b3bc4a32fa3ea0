"""Where results come from: code, versions, machine."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("basicsr", "torch", "torchvision", "numpy", "opencv-python", "mmengine", "scikit-image")


def provenance() -> dict[str, Any]:
    """Commit (None outside a checkout) and whether files were changed since, versions, machine, time (UTC)."""
    from unirain_plugin.version import __version__

    return {
        "commit": commit(),
        "changed_since_commit": _changed(),
        "versions": {"unirain_plugin": __version__, "python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "gpu": _gpu(),
        "command": " ".join(["unirain_plugin reproduce", *(Path(a).name for a in sys.argv[1:])]),
        "written": now(),
    }


def commit() -> str | None:
    """The commit of the package's checkout; None outside one."""
    return _git("rev-parse", "HEAD")


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _git(*arguments: str) -> str | None:
    """What git says of the package's own folder; None where that is no checkout or there is no git."""
    package = Path(__file__).parents[1]
    if not (package.parent / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(package), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _changed() -> bool | None:
    status = _git("status", "--porcelain", "--untracked-files=no", ".")
    return None if status is None else bool(status)


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None

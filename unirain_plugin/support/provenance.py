"""Where results come from: code, versions, machine, time."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from unirain_plugin.version import __version__

_PACKAGES = ("basicsr", "torch", "torchvision", "numpy", "opencv-python", "mmengine", "scikit-image", "lpips", "pyiqa")


def provenance() -> dict[str, object]:
    """Everything that a reader needs to make figures again, apart from the options; None for what there is not."""
    import torch

    status = _git("status", "--porcelain", "--untracked-files=no", ".")
    own = {"unirain_plugin": __version__, "python": platform.python_version()}
    return {
        "commit": commit(),
        "changed_since_commit": None if status is None else bool(status),
        "versions": own | {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "written": now(),
    }


def commit() -> str | None:
    """The commit of the package's checkout; None outside of one."""
    return _git("rev-parse", "HEAD")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says of the package's own folder; None where that is no checkout or there is no git."""
    package = Path(__file__).parents[1]
    if not (package.parent / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(package), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

"""With what a comparison was made: versions, commit, machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path

from unirain_plugin.version import __version__

_PACKAGES = ("torch", "torchvision", "basicsr", "numpy", "opencv-python", "scikit-image", "mmengine", "pyiqa")


def provenance(device: str) -> dict[str, object]:
    """Everything that a reader needs to make the figures again, apart from the options.

    Args:
        device: The option file's device.
    """
    from unirain_plugin.inference.loading import choose_device

    chosen = choose_device(device)
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "unirain_plugin": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "system": platform.platform(),
        "device": str(chosen),
        "device_name": _device_name(chosen),
        "cpu_cores": os.cpu_count(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The package's commit, with ``+changes`` if files differ from it; None outside of a repository."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _device_name(device: object) -> str:
    if getattr(device, "type", "") == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

"""What this installation and this machine have: the option files, and free memory."""

from pathlib import Path

from unirain_plugin.errors import OptionError, did_you_mean

_PACKAGE = Path(__file__).parents[1]


def options_root() -> Path:
    """The folder with ``train/``, ``test/``, …: in the package (of a wheel), else at the top of a checkout."""
    shipped = _PACKAGE / "_options"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "options"


def option_file(name: str) -> Path:
    """The path of the option file ``name`` (``train/train_UniRain.yml``, say); else OptionError."""
    root = options_root()
    path = root / name
    if not path.is_file():
        known = sorted(str(p.relative_to(root)) for p in root.rglob("*.yml"))
        raise OptionError(f"{name}: no such option file in {root}.{did_you_mean(name, known)}")
    return path


def free_memory() -> int:
    """Bytes of memory that this process may still take, as far as the system tells (containers: their limit)."""
    free = 8 * 2**30
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return max(free, 0)

"""What this installation and this machine have: the option files, and free memory."""

from contextlib import suppress
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
    """Bytes of memory that this process may still take, as far as the system tells (containers: their limit).

    What a container has read of files lies in its memory only until that is needed, and counts as free.
    """
    free = _numbers("/proc/meminfo").get("MemAvailable:", 8 * 2**20) * 1024
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no such group, or no limit ("max")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = _numbers(group / "memory.stat")
        free = min(free, limit - used + cached.get("inactive_file", 0) + cached.get("active_file", 0))
    return max(free, 0)


def _numbers(path: str | Path) -> dict[str, int]:
    """What a file of the system lists, a name and a number on each line; nothing where it cannot be read."""
    with suppress(OSError, ValueError):
        return {name: int(number) for name, number, *_ in map(str.split, Path(path).read_text().splitlines())}
    return {}

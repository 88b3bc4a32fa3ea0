"""Where results come from, and where the package finds what lies beside it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from unirain_plugin.support.provenance import commit
from unirain_plugin.support.resources import free_memory, options_root

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="no checkout, or no git")
def test_the_commit_is_that_of_the_checkout():
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert commit() == head.stdout.strip()


def test_the_option_files_are_found():
    assert (options_root() / "train" / "train_UniRain.yml").is_file()


GIB = 2**30
MACHINE = {"/proc/meminfo": f"MemTotal: {64 * 2**20} kB\nMemAvailable: {32 * 2**20} kB\nHugePages_Total: 0\n"}
GROUP = {"max": 16 * GIB, "current": 16 * GIB - 4096}
CACHE = f"anon {GIB}\nfile {12 * GIB}\ninactive_file {9 * GIB}\nactive_file {2 * GIB}"


@pytest.mark.parametrize(
    ("files", "group", "free"),
    [
        ({}, {}, 8 * GIB),
        (MACHINE, {}, 32 * GIB),
        (MACHINE, {"max": "max", "current": GIB}, 32 * GIB),
        (MACHINE, {"max": 16 * GIB, "current": GIB}, 15 * GIB),
        (MACHINE, {"max": 64 * GIB, "current": GIB}, 32 * GIB),
        (MACHINE, GROUP | {"stat": CACHE}, 11 * GIB + 4096),
        (MACHINE, GROUP | {"stat": f"anon 1\nactive_file {GIB}"}, GIB + 4096),
        (MACHINE, GROUP | {"stat": "broken"}, 4096),
        (MACHINE, GROUP, 4096),
        ({}, {"max": GIB, "current": 2 * GIB}, 0),
    ],
)
def test_memory_that_holds_read_files_is_free_below_a_containers_limit(monkeypatch, files, group, free):
    files = files | {f"/sys/fs/cgroup/memory.{name}": f"{value}\n" for name, value in group.items()}

    def read_text(path):
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)
    assert free_memory() == free

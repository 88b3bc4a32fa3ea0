"""A run with the default parts starts without torch, scipy or the whole of BasicSR."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from unirain_plugin.distill.records import Vote
from unirain_plugin.distill.registry import VOTER
from unirain_plugin.distill.voters.base import Voter
from unirain_plugin.distill.workspace import load_lines

HEAVY = ("torch", "scipy", "basicsr", "matplotlib", "openai", "transformers", "skimage")


@VOTER.register()
class ModuleSpy(Voter):
    """Says which heavy modules its process has imported."""

    def vote(self, tasks):
        found = [name for name in HEAVY if name in sys.modules]
        return [Vote(self.name, True, "looked", {"modules": found}) for _ in tasks]


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_loading_the_parts_is_not_heavy_and_the_registry_is_the_one_that_the_toolbox_has_later():
    code = f"""
import sys, unirain_plugin.distill.pipeline
from unirain_plugin.distill.registry import VOTER, Registry, load_parts
load_parts()
print([name for name in {HEAVY!r} if name in sys.modules])
import basicsr.utils.registry
assert Registry is basicsr.utils.registry.Registry and isinstance(VOTER, Registry)
from basicsr.utils import registry
from basicsr.utils.registry import ARCH_REGISTRY
assert registry is basicsr.utils.registry and 'EDSR' in ARCH_REGISTRY
"""
    assert python(code) == "[]"


def test_workers_import_nothing_heavy(settings):
    voters = [{"type": name} for name in ("realism", "pair_consistency", "ModuleSpy")]
    options = {**settings, "imports": ["test_start_up"], "voters": voters, "engine": {"workers": 1}}
    root = Path(settings["output"])
    (root.parent / "o.json").write_text(json.dumps(options))
    code = "import json, sys; sys.path.insert(0, {!r}); from distill_helpers import run; run(json.load(open({!r})))"
    python(code.format(str(Path(__file__).parent), str(root.parent / "o.json")))
    rows = load_lines(root / "work" / "votes" / "000000", "rows")
    spied = [vote["details"]["modules"] for row in rows for vote in row["votes"] if vote["voter"] == "ModuleSpy"]
    assert spied and all(found == [] for found in spied)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of the GNU C library")
def test_workers_reuse_freed_memory():
    code = """
import resource
import numpy as np
from unirain_plugin.distill.workers import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        planes = [np.ones(1 << 20, np.uint8) for _ in range(3)]
        del planes
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
faults()
print(faults())
"""
    assert int(python(code)) < 100 * 256  # pages of one plane, each time

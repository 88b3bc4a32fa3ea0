"""Where results come from, and where the package finds what lies beside it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from unirain_plugin.support.provenance import commit
from unirain_plugin.support.resources import options_root

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="no checkout, or no git")
def test_the_commit_is_that_of_the_checkout():
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert commit() == head.stdout.strip()


def test_the_option_files_are_found():
    assert (options_root() / "train" / "train_UniRain.yml").is_file()

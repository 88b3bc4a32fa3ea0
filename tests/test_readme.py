"""The README is short, and each of its commands and programs runs: here, shortened where it is long, or in CI."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unirain_plugin import __main__ as cli
from unirain_plugin.app.interface import SAMPLES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORTER = {
    "synthesize-rain": ["--per-image", "1", "--size", "64", "--types", "drs", "drd", "nrs", "nrd"],
    "train": ["train:total_iter=2", "train:scheduler:periods=[2]", "val:val_freq=2", "logger:use_tb_logger=false"],
    "compare": ["--dry-run"],  # CI does not shorten it
}
"""Command → what is appended here, so that it takes seconds."""
IN_CI = ("bash scripts/demo.sh", "bash scripts/test.sh", "scripts/compare.py -opt options/compare/held_out.yml")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands():
    return [line for block in blocks("bash") for line in block.splitlines()]


def command_of(line):
    """``python scripts/…`` as the package's command and its arguments; None for another program."""
    words = shlex.split(line, comments=True)
    if words[0] != "python":
        return None
    return Path(words[1]).stem.replace("_", "-"), words[2:]


@pytest.fixture()
def checkout(tmp_path, monkeypatch):
    """A folder that holds what a checkout does; what the commands write stays in it."""
    for name in ("scripts", "options", "unirain_plugin"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_short_and_the_sample_images_are_small_and_packed():
    assert len(README.splitlines()) <= 110
    assert [path.name for path in SAMPLES] == ["rainy_rocket.jpg", "drops_home.jpg"]
    assert all(path.stat().st_size <= 60 * 1024 for path in SAMPLES)
    assert '"assets/*.jpg"' in (ROOT / "setup.py").read_text()


def test_every_command_is_run_here_or_in_ci():
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert all(line in ci for line in IN_CI)
    for line in commands():
        assert command_of(line) or any(line.startswith(known) for known in IN_CI), line


def test_its_commands_run_in_their_order(checkout):
    ours = [command for line in commands() if (command := command_of(line))]
    assert [name for name, _ in ours] == ["inference", "synthesize-rain", "synthesize-rain", "train", "compare"]
    for name, arguments in ours:
        assert cli.run(name, [*arguments, *SHORTER.get(name, [])]) == 0, name
    assert (checkout / "restored/rainy_rocket.jpg").is_file() and list((checkout / "restored/compare").iterdir())
    assert (checkout / "experiments/train_UniRain-Tiny_demo/models/net_g_latest.pth").is_file()


def test_its_program_restores_the_sample_image(checkout):
    (program,) = blocks("python")
    exec(compile(program, "README.md", "exec"), {})
    rainy, clean = (np.asarray(Image.open(path)) for path in ("unirain_plugin/assets/rainy_rocket.jpg", "clean.png"))
    assert rainy.shape == clean.shape and (rainy != clean).any()

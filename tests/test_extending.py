"""The examples of the page *Extending* run as they stand there, in their order."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY

from unirain_plugin import __main__ as cli
from unirain_plugin.data.manifest import read_manifest
from unirain_plugin.distill.registry import CAPTIONER, VOTER
from unirain_plugin.rain.scene import SCENES

PAGE = (Path(__file__).parents[1] / "unirain_plugin/docs/extending.md").read_text(encoding="utf-8")


@pytest.fixture()
def workplace(tmp_path, monkeypatch):
    """A working directory with the page's files; what they register is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    tables = [SCENES, *(registry._obj_map for registry in (ARCH_REGISTRY, LOSS_REGISTRY, CAPTIONER, VOTER))]
    before = [dict(table) for table in tables]
    for name, _, text in re.findall(r"^`(my_\w+\.\w+)`\n```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text, encoding="utf-8")
    yield tmp_path
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    for path in tmp_path.glob("my_*.py"):
        sys.modules.pop(path.stem, None)


def test_the_page_runs(workplace):
    assert len(list(workplace.glob("my_*.py"))) == 4 and len(list(workplace.glob("my_*.yml"))) == 4
    lines = re.findall(r"^python -m unirain_plugin (.*)$", PAGE, flags=re.MULTILINE)
    names = [line.split()[0] for line in lines]
    assert names == [
        "synthesize-rain",
        "synthesize-rain",
        "index-dataset",
        "distill",
        "train",
        "compare",
        "export",
        "inference",
    ]
    for line in lines:
        name, *arguments = shlex.split(line)
        assert cli.run(name, arguments) == 0, line
    records = read_manifest(workplace / "distilled/manifest.jsonl")
    assert {record.rain_type for record in records} == {"drs", "dust"}
    assert all(set(record.votes) == {"bright_enough", "pair_consistency", "gt_quality"} for record in records)
    tables = (workplace / "results/mine/tables.md").read_text(encoding="utf-8")
    assert "dust" in tables.lower() and "mine" in tables
    assert len(list((workplace / "restored").glob("*.png"))) == len(
        list((workplace / "data/train/dust/input").iterdir())
    )


def test_a_type_of_ones_own_is_rendered_by_workers_too(workplace):
    arguments = ["--imports", "my_rain", "--types", "dust", "--size", "48", "--split", "held-out"]
    for name, workers in (("one", "1"), ("two", "2")):
        assert cli.run("synthesize-rain", [*arguments, "--workers", workers, "--output", name]) == 0
    files = sorted(path.relative_to("one") for path in Path("one").rglob("*.png"))
    assert files and all(np.array_equal((Path("one") / f).read_bytes(), (Path("two") / f).read_bytes()) for f in files)

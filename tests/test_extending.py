"""The examples of the page *Extending* run as they stand there, in their order."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY

from unirain_plugin import __main__ as cli
from unirain_plugin.data.manifest import read_manifest
from unirain_plugin.distill.registry import CAPTIONER, VOTER
from unirain_plugin.errors import OptionError
from unirain_plugin.rain.render import render_rain
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
        "synthesize-rain", "synthesize-rain", "index-dataset", "distill", "train", "compare", "export", "inference",
    ]  # fmt: skip
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


def test_a_network_beside_the_option_file_is_found_and_its_file_says_that_code_is_needed(
    workplace, monkeypatch, capsys
):
    (workplace / "elsewhere").mkdir()
    monkeypatch.chdir(workplace / "elsewhere")
    exec((workplace / "my_net.py").read_text(), names := {})
    torch.save({"params": names["ResidualNet"](width=8).state_dict()}, "net.pth")
    ARCH_REGISTRY._obj_map.pop("ResidualNet"), LOSS_REGISTRY._obj_map.pop("SquareRootLoss")
    arguments = ["--weights", "net.pth", "--imports", "my_net", "--network", "../my_train.yml", "-o", "net.safetensors"]
    assert cli.run("export", arguments) == 0
    assert "its code is to be named as well: --imports my_net" in capsys.readouterr().out
    assert cli.run("export", ["-o", "shipped.safetensors"]) == 0
    assert "--weights alone suffices" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("renderer", "told"),
    [
        (lambda photo: (photo / 255, photo, _dry(photo)), "(48, 48, 3) float64, (48, 48, 3) uint8, (48, 48) float32"),
        (lambda photo: (photo[1:], photo[1:], _dry(photo)), "(47, 48, 3) uint8, (47, 48, 3) uint8, (48, 48) float32"),
        (lambda photo: (photo, photo), "(48, 48, 3) uint8, (48, 48, 3) uint8"),
        (lambda photo: (photo, photo, None), "(48, 48, 3) uint8, (48, 48, 3) uint8, NoneType"),
        (lambda photo: photo, "(48, 48, 3) uint8"),
    ],
)
def test_a_renderer_that_gives_no_pair_is_told(renderer, told, monkeypatch):
    monkeypatch.setitem(SCENES, "mine", lambda photo, rng, params: renderer(photo))
    with pytest.raises(OptionError) as caught:
        render_rain(np.zeros((48, 48, 3), np.uint8), "mine", 0)
    assert str(caught.value) == (
        f"rain type 'mine': its renderer gave {told}; expected rainy image, clean image, opacity: (48, 48, 3) uint8, "
        "(48, 48, 3) uint8, (48, 48) float32."
    )


def _dry(photo):
    return np.zeros(photo.shape[:2], np.float32)


def test_a_type_whose_name_data_sets_do_not_take_is_refused(workplace, monkeypatch, capsys):
    monkeypatch.setitem(SCENES, "Dust 2", SCENES["haze"])
    assert cli.run("synthesize-rain", ["--types", "Dust 2", "--output", "x"]) == 2
    assert "'Dust 2' is no rain-type name; expected lower-case names" in capsys.readouterr().err


def test_a_type_of_ones_own_is_rendered_by_workers_too(workplace):
    arguments = ["--imports", "my_rain", "--types", "dust", "--size", "48", "--split", "held-out"]
    for name, workers in (("one", "1"), ("two", "2")):
        assert cli.run("synthesize-rain", [*arguments, "--workers", workers, "--output", name]) == 0
    files = sorted(path.relative_to("one") for path in Path("one").rglob("*.png"))
    assert files and all(np.array_equal((Path("one") / f).read_bytes(), (Path("two") / f).read_bytes()) for f in files)

"""The command table and the thin files in scripts/."""

import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from unirain_plugin import __main__ as cli
from unirain_plugin.errors import OptionError, nearest
from unirain_plugin.support.resources import option_file, options_root

ROOT = Path(__file__).parents[1]


def test_help_lists_every_command_and_mistakes_are_one_message(capsys, tmp_path):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert re.search(rf"^  {command} ", text, re.M)
    assert cli.main(["tarin"]) == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err
    (tmp_path / "data").mkdir()
    assert cli.main(["demo", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --output") and "Traceback" not in error


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_its_own_help(command, capsys):
    run = cli.entry(command)
    assert next(iter(inspect.signature(run).parameters)) == "argv"
    try:
        status = run(["--help"])
    except SystemExit as stop:  # as argparse ends
        status = stop.code
    assert status == 0
    assert "usage:" in capsys.readouterr().out


def test_ctrl_c_ends_a_command_without_a_traceback(monkeypatch, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "entry", lambda command: interrupted)
    assert cli.main(["create-lmdb"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


@pytest.mark.parametrize("script", sorted(p.relative_to(ROOT) for p in (ROOT / "scripts").rglob("*.py")), ids=str)
def test_scripts_are_thin_and_run(script, monkeypatch, capsys):
    assert len((ROOT / script).read_text().splitlines()) < 15
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert stop.value.code == 0 and "usage:" in capsys.readouterr().out
    if script.name == "inference.py":  # by itself
        command = [sys.executable, ROOT / script, "--help"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0 and "usage:" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dsr", "drs"),  # a swap is one edit
        ("drx", "drs"),
        ("nrx", None),  # two edits are as good as another word where there are four letters or fewer
        ("tabel", "table"),
        ("tbale_x", None),
        ("val_2", None),  # another number is meant
        ("VAL_1", "val_1"),
    ],
)
def test_a_word_is_taken_for_the_one_it_was_probably_meant_to_be(name, meant):
    assert nearest(name, ["drs", "table", "val_1"]) == meant


def test_option_file_names_the_nearest():
    assert option_file("train/train_UniRain.yml").is_file()
    with pytest.raises(OptionError, match=r"Did you mean 'train/train_UniRain.yml'"):
        option_file("train/train_Unirain.yml")
    assert options_root().name in ("options", "_options")

"""``imports:`` of an option file: networks, losses, … of one's own, wherever the program was started."""

import os
import re
import sys

import pytest
from tiny_run import OWN_NETWORK, write_own_network

import unirain_plugin
from unirain_plugin.errors import OptionError
from unirain_plugin.support import packages
from unirain_plugin.support.packages import import_own


@pytest.fixture(autouse=True)
def _paths(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("folder", ["", "beside"])
def test_a_network_of_ones_own_is_found_beside_the_file_and_in_the_working_directory(tmp_path, folder):
    from basicsr.utils.registry import ARCH_REGISTRY

    name = f"OwnNet{folder}"
    (tmp_path / folder).mkdir(exist_ok=True)
    import_own([write_own_network(tmp_path / folder, name)], tmp_path / folder)
    assert name in ARCH_REGISTRY


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\ny = x / 0\n", r"ZeroDivisionError: division by zero \({file}:2\)"),
        ("import sys\nsys.exit(0)\n", r"SystemExit: 0 \({file}:2\)"),
        ("x = (\n\ndef f(:\n", r"SyntaxError: .* \({file}:\d\)"),
        ("import not_there_at_all\n", r"ModuleNotFoundError: No module named 'not_there_at_all' \({file}:1\)\.$"),
        ("import json\n\njson.loads('{{')\n", r"JSONDecodeError: .* \({file}:3\)"),  # not the line in Python's own
        (OWN_NETWORK.format(name="UniRain"), r"AssertionError: .*'UniRain' was already registered.* \({file}:6\)"),
    ],
)
def test_what_is_wrong_in_a_module_is_told_with_file_and_line(tmp_path, text, told):
    file = tmp_path / "broken_part.py"
    file.write_text(text)
    with pytest.raises(OptionError, match="^imports: cannot import 'broken_part': " + told.format(file=file)):
        import_own(["broken_part"], tmp_path)
    sys.modules.pop("broken_part", None)


def test_what_a_users_code_raises_anywhere_is_one_message_and_what_ours_raises_is_not_hidden(monkeypatch, capsys):
    import unirain_plugin.__main__ as cli

    def fails(argv):
        return {}[argv[0]]

    monkeypatch.setattr(cli, "entry", lambda _: fails)
    assert cli.run("train", ["key"]) == 2
    assert re.fullmatch(r"error: KeyError: 'key' \(.*test_own_parts\.py:\d+, in .*fails\)\n", capsys.readouterr().err)
    monkeypatch.setattr(packages, "is_own", lambda file: False)
    with pytest.raises(KeyError):
        cli.run("train", ["key"])


@pytest.mark.parametrize(
    ("file", "own"),
    [
        ("/home/me/nets/my_net.py", True),
        (f"{os.path.dirname(unirain_plugin.__file__)}_nets/my_net.py", True),  # beside ours, with a name like it
        (unirain_plugin.__file__, False),
        (os.__file__, False),
        ("/home/me/.local/lib/python3.12/site-packages/library/part.py", False),
        ("/usr/lib/python3/dist-packages/library/part.py", False),
        ("<string>", False),
    ],
)
def test_which_code_is_a_users_own(file, own):
    assert packages.is_own(file) == own


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        (
            ["no_such_part"],
            r"cannot import 'no_such_part': .* where Python looks, in the working directory or beside the",
        ),
        (["no_such_part.py"], r"'no_such_part'.*; expected a module's name, without '\.py'\.$"),
        ("my_net", r"expected a list of modules such as \[my_package\.my_net\], found 'my_net'"),
        ([3], r"expected a list of modules such as .*, found \[3\]"),
    ],
)
def test_modules_that_are_not_there_and_no_list_of_names(tmp_path, modules, told):
    with pytest.raises(OptionError, match="^imports: .*" + told):
        import_own(modules, tmp_path / "beside")

"""``imports:`` of an option file: networks, losses, … of one's own, wherever the program was started."""

import sys

import pytest

from unirain_plugin.errors import OptionError
from unirain_plugin.support.packages import import_own

NET = """
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

@ARCH_REGISTRY.register()
class {name}(nn.Module):
    def __init__(self, width=3):
        super().__init__()
"""


@pytest.fixture(autouse=True)
def _paths(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("folder", ["", "beside"])
def test_a_network_of_ones_own_is_found_beside_the_file_and_in_the_working_directory(tmp_path, folder):
    from basicsr.utils.registry import ARCH_REGISTRY

    name = f"OwnNet{folder}"
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / f"{name.lower()}.py").write_text(NET.format(name=name))
    import_own([name.lower()], tmp_path / folder)
    assert name in ARCH_REGISTRY


def test_what_is_wrong_in_a_module_is_told_with_file_and_line(tmp_path):
    (tmp_path / "broken_part.py").write_text("x = 1\ny = x / 0\n")
    with pytest.raises(OptionError, match=r"cannot import 'broken_part': ZeroDivisionError: .*broken_part\.py:2"):
        import_own(["broken_part"], tmp_path)
    with pytest.raises(OptionError, match="cannot import 'no_such_part': ModuleNotFoundError"):
        import_own(["no_such_part"], tmp_path)

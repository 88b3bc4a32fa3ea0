"""Restoring starts without the toolbox, torchvision and torch's compiler, which take seconds and hundreds of MB."""

import pytest
from inference_helpers import random_image

from unirain_plugin.inference.images import StoredImage, write_image

HEAVY = ("basicsr", "torchvision", "torch._dynamo", "torch._inductor", "sympy", "scipy", "matplotlib", "mmengine", "av")
SEEN = f"import sys; print([name for name in {HEAVY!r} if name in sys.modules])"
BY_COMMAND = "from unirain_plugin.__main__ import main; status = main(sys.argv[1:])"
BY_CALL = "import numpy; from unirain_plugin import load, restore; restore(load(), numpy.zeros((520, 520, 3), 'uint8'))"


@pytest.mark.parametrize("code", [BY_COMMAND, BY_CALL], ids=["command", "call"])
def test_nothing_heavy_is_imported(tmp_path, code, fresh):
    write_image(tmp_path / "a.png", StoredImage(random_image(40, 50)))
    arguments = ["inference", "-i", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--quiet"]
    assert fresh(f"import sys; {code}; {SEEN}", *arguments).splitlines()[-1] == "[]"
    assert (tmp_path / "out/a.png").is_file() == (code == BY_COMMAND)


def test_the_toolbox_that_is_imported_later_has_the_same_registry(fresh):
    code = (
        "from unirain_plugin import load; net = load(); import basicsr; from basicsr.utils import registry; "
        "from basicsr.archs import build_network; print(type(build_network({'type': 'UniRain'})) is type(net), "
        "basicsr.utils.registry is registry, 'EDSR' in registry.ARCH_REGISTRY)"
    )
    assert fresh(code).split() == ["True"] * 3


def test_comparing_needs_no_library_for_videos(fresh):
    code = "import unirain_plugin.compare.run, unirain_plugin.compare.report, sys; print('av' in sys.modules)"
    assert fresh(code).split() == ["False"]

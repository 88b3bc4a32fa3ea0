"""Registration: what is added, how often it may be asked for, what it costs, and that failure leaves no trace."""

import subprocess
import sys

import pytest


def test_import_alone_is_light():
    code = "import sys, unirain_plugin; unirain_plugin.__version__; print([m for m in ('torch', 'basicsr', 'numpy', "
    code += "'cv2') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.stdout.strip() == "[]", result.stderr


def test_register_adds_the_four_parts_and_may_be_called_twice():
    import unirain_plugin

    added = unirain_plugin.register()
    assert unirain_plugin.register() == added
    from basicsr.utils import registry

    parts = {"arch": "UniRain", "loss": "MultiObjectiveReweightedLoss", "dataset": "DistilledMixedPairedDataset"}
    for kind, name in {**parts, "model": "UniRainModel"}.items():
        assert name in added[kind] and name in getattr(registry, f"{kind.upper()}_REGISTRY")
    assert "SRModel" not in added["model"], "only what is ours may be reported"


@pytest.mark.parametrize("first", ["archs.unirain_arch", "losses.reweighted_loss", "data.distilled_mixed_dataset"])
def test_importing_a_part_before_registering_is_harmless(first, fresh):
    code = f"import unirain_plugin.{first}, unirain_plugin; print(unirain_plugin.register()['arch'])"
    assert "UniRain" in fresh(code)


def test_failed_registration_leaves_the_registries_as_they_were(fresh):
    code = """
import os, sys
os.environ["UNIRAIN_AUTOREGISTER"] = "0"
import unirain_plugin
from unirain_plugin.toolbox import prepare_import
prepare_import()
from basicsr.utils.registry import ARCH_REGISTRY
before = set(ARCH_REGISTRY.keys())
good = unirain_plugin.REGISTERED_MODULES
unirain_plugin.REGISTERED_MODULES = (*good, "unirain_plugin.no_such_module")
try:
    unirain_plugin.register()
except ImportError as error:
    print("raised", error.name)
print(set(ARCH_REGISTRY.keys()) == before)
unirain_plugin.REGISTERED_MODULES = good
print("UniRain" in unirain_plugin.register()["arch"])
"""
    assert fresh(code).split() == ["raised", "unirain_plugin.no_such_module", "True", "True"]

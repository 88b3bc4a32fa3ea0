"""Registration: what is added, how often it may be asked for, what it costs, and that failure leaves no trace."""

import subprocess
import sys

import pytest


def test_import_alone_is_light():
    heavy = "[m for m in ('torch', 'basicsr', 'numpy', 'cv2') if m in sys.modules]"
    code = f"import sys, unirain_plugin; unirain_plugin.__version__; print({heavy})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_register_adds_the_four_parts_and_may_be_called_twice():
    import unirain_plugin

    added = unirain_plugin.register()
    assert unirain_plugin.register() == added

    from basicsr.utils import registry

    ours = {
        "arch": "UniRain", "loss": "MultiObjectiveReweightedLoss", "dataset": "DistilledMixedPairedDataset",
        "model": "UniRainModel",
    }  # fmt: skip
    for kind, name in ours.items():
        assert name in added[kind] and name in getattr(registry, f"{kind.upper()}_REGISTRY")
    assert "SRModel" not in added["model"], "only what is ours may be reported"


@pytest.mark.parametrize("first", ["archs.unirain_arch", "losses.reweighted_loss", "data.distilled_mixed_dataset"])
def test_importing_a_part_before_registering_is_harmless(first, fresh):
    assert "UniRain" in fresh(
        f"import unirain_plugin.{first}, unirain_plugin; print(unirain_plugin.register()['arch'])"
    )


def test_failed_registration_leaves_the_registries_as_they_were(fresh):
    code = """
import os, sys
os.environ["UNIRAIN_AUTOREGISTER"] = "0"
from unirain_plugin import registration
from unirain_plugin.toolbox import prepare_import
prepare_import()
from basicsr.utils.registry import ARCH_REGISTRY
before = set(ARCH_REGISTRY.keys())
good = registration.REGISTERED_MODULES
registration.REGISTERED_MODULES = (*good, "unirain_plugin.no_such_module")
try:
    registration.register()
except ImportError as error:
    print("raised", error.name)
print(set(ARCH_REGISTRY.keys()) == before)
registration.REGISTERED_MODULES = good
print("UniRain" in registration.register()["arch"])
"""
    assert fresh(code).split() == ["raised", "unirain_plugin.no_such_module", "True", "True"]

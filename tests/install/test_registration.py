"""Registration: what is added, how often it may be asked for, what it costs, and that failure leaves no trace."""

import subprocess
import sys

import pytest


def run_python(code: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, **kwargs)


def test_import_alone_is_light():
    result = run_python(
        "import sys, unirain_plugin; unirain_plugin.__version__; "
        "print([m for m in ('torch', 'basicsr', 'numpy', 'cv2') if m in sys.modules])"
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_register_adds_the_four_parts_and_may_be_called_twice():
    import unirain_plugin

    added = unirain_plugin.register()
    assert unirain_plugin.register() == added
    assert "UniRain" in added["arch"]
    assert "MultiObjectiveReweightedLoss" in added["loss"]
    assert "DistilledMixedPairedDataset" in added["dataset"]
    assert "UniRainModel" in added["model"]

    from basicsr.utils import registry

    assert "UniRain" in registry.ARCH_REGISTRY
    assert "MultiObjectiveReweightedLoss" in registry.LOSS_REGISTRY
    assert "DistilledMixedPairedDataset" in registry.DATASET_REGISTRY
    assert "UniRainModel" in registry.MODEL_REGISTRY
    assert "SRModel" not in added["model"], "only what is ours may be reported"


@pytest.mark.parametrize("first", ["archs.unirain_arch", "losses.reweighted_loss", "data.distilled_mixed_dataset"])
def test_importing_a_part_before_registering_is_harmless(first):
    result = run_python(f"import unirain_plugin.{first}, unirain_plugin; print(unirain_plugin.register()['arch'])")
    assert result.returncode == 0, result.stderr
    assert "UniRain" in result.stdout


def test_failed_registration_leaves_the_registries_as_they_were():
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
    result = run_python(code)
    assert result.stdout.split() == ["raised", "unirain_plugin.no_such_module", "True", "True"], result.stderr

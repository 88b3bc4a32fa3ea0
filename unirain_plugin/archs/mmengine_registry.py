"""The same class in mmengine's ``MODELS``, so that OpenMMLab configs can say ``type='UniRain'``."""

from __future__ import annotations

import sys

from torch import nn

from unirain_plugin.toolbox import after_import


def register_in_mmengine(network: type[nn.Module]) -> None:
    """Register a class under its own name with mmengine, now or once somebody imports it. Safe to call again.

    A config makes the name known by ``custom_imports = dict(imports=['unirain_plugin.archs.unirain_arch'])``.
    """
    name = "mmengine.registry"
    after_import(name, lambda: sys.modules[name].MODELS.register_module(network.__name__, True, network))

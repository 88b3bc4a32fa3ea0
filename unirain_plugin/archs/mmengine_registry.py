"""The same class in mmengine's ``MODELS``, so that OpenMMLab configs can say ``type='UniRain'``."""

from __future__ import annotations

import importlib.util
import logging

from torch import nn


def register_in_mmengine(network: type[nn.Module]) -> bool:
    """Register a class under its own name if mmengine is installed. Safe to call again.

    A config makes the name known by ``custom_imports = dict(imports=['unirain_plugin.archs.unirain_arch'])``.

    Returns:
        Whether mmengine knows the class now. A broken mmengine is logged and does no harm: nothing here needs it.
    """
    if importlib.util.find_spec("mmengine") is None:
        return False
    try:
        from mmengine.registry import MODELS
    except Exception as error:  # whatever a broken installation raises
        logging.getLogger("basicsr").warning("mmengine is installed but cannot be imported: %s", error)
        return False
    MODELS.register_module(name=network.__name__, module=network, force=True)
    return True

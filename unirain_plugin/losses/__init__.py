"""Losses, registered in BasicSR's ``LOSS_REGISTRY``."""

from unirain_plugin.toolbox import prepare_import

prepare_import()

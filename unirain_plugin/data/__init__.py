"""Data sets, registered in BasicSR's ``DATASET_REGISTRY``."""

from unirain_plugin.toolbox import prepare_import

prepare_import()

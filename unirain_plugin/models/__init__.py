"""Models, registered in BasicSR's ``MODEL_REGISTRY``."""

from unirain_plugin.toolbox import prepare_import

prepare_import()

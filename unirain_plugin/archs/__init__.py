"""Networks, registered in BasicSR's ``ARCH_REGISTRY``."""

from unirain_plugin.toolbox import prepare_import

prepare_import()

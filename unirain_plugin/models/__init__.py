"""Models, registered in BasicSR's ``MODEL_REGISTRY``."""

from unirain_plugin.toolbox import prepare_import

prepare_import()

import basicsr  # noqa: E402, F401  whose import registers our parts: before any module of this room is half imported

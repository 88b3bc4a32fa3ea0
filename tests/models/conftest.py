"""The plugin is registered before any model test; helper modules beside the tests can be imported."""

import sys
from pathlib import Path

import unirain_plugin

sys.path.insert(0, str(Path(__file__).parent))
unirain_plugin.register()

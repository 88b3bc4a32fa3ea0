"""Imported once by the process from which the networks' processes are forked: each then starts in milliseconds.

Nothing is computed here, so no threads exist when the fork happens.
"""

import importlib

import unirain_plugin
import unirain_plugin.compare.cost
import unirain_plugin.inference.streamed

unirain_plugin.register()
importlib.import_module("basicsr.archs")  # every network of the toolbox

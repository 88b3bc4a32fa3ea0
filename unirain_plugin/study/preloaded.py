"""Imported once by the fork server, so that no run spends seconds on imports: the toolbox, the plugin, the runner."""

import gc

gc.disable()  # imports make a million objects that stay

from unirain_plugin.toolbox import prepare_import  # noqa: E402

prepare_import()

import basicsr.train  # noqa: E402, F401

import unirain_plugin  # noqa: E402
import unirain_plugin.distill.workers  # noqa: E402  # its workers come from the same server
import unirain_plugin.options  # noqa: E402
import unirain_plugin.runs.training  # noqa: E402
import unirain_plugin.study.grid  # noqa: E402

unirain_plugin.register()
gc.freeze()  # nor do the runs' collections touch the pages that they share
gc.enable()

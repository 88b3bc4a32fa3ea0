"""Reading and checking BasicSR option files. The public face is :mod:`unirain_plugin.options`."""

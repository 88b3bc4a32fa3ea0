"""Parts of the rain renderer; :mod:`unirain_plugin.data.rain_synthesis` is its public face."""

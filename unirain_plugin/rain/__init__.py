"""Parts of the rain renderer; :mod:`unirain_plugin.rain.render` is its public face."""

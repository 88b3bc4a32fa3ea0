"""Captioners: image → sentence. Importing this package registers those that come with the plugin."""

from unirain_plugin.distill.captioners import attributes, coca, sidecar, vlm

__all__ = ["attributes", "coca", "sidecar", "vlm"]

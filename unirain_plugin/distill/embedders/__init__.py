"""Embedders: image → vector. Importing this package registers those that come with the plugin."""

from unirain_plugin.distill.embedders import open_clip, statistics

__all__ = ["open_clip", "statistics"]

"""Captioners, embedders, text encoders; importing this package registers those that come with the plugin."""

from unirain_plugin.distill.describers import captioners, default, models

__all__ = ["captioners", "default", "models"]

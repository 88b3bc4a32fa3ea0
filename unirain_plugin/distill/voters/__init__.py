"""Voters; importing this package registers those that come with the plugin."""

from unirain_plugin.distill.vlm import voter
from unirain_plugin.distill.voters import default, likeness

__all__ = ["default", "likeness", "voter"]

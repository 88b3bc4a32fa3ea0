"""Voters; importing this package registers those that come with the plugin."""

from unirain_plugin.distill.voters import gt_quality, pair_consistency, realism, vlm

__all__ = ["gt_quality", "pair_consistency", "realism", "vlm"]

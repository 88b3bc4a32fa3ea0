"""Engines: who makes the shards. The shards are the same bytes whichever engine and however many workers."""

from __future__ import annotations

from unirain_plugin.distill.engines.base import Engine
from unirain_plugin.distill.options import EngineOptions


def build_engine(options: EngineOptions) -> Engine:
    """Build the engine that the options name."""
    if options.type == "ray":
        from unirain_plugin.distill.engines.ray import RayEngine

        return RayEngine(options)
    from unirain_plugin.distill.engines.local import LocalEngine

    return LocalEngine(options)

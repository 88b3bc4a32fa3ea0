"""Captioners, embedders, text encoders; importing this package registers those that come with the plugin."""

from unirain_plugin.distill.describers import clip, default, sentence_transformers, sidecar
from unirain_plugin.distill.vlm import captioner

__all__ = ["captioner", "clip", "default", "sentence_transformers", "sidecar"]

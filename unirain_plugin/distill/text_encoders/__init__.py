"""Text encoders: sentence → vector. Importing this package registers those that come with the plugin."""

from unirain_plugin.distill.text_encoders import attributes, open_clip, sentence_transformers

__all__ = ["attributes", "open_clip", "sentence_transformers"]

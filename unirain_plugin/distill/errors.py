"""Exceptions of the distillation pipeline."""

from __future__ import annotations

from unirain_plugin.errors import DataError, UniRainError


class DistillError(UniRainError, RuntimeError):
    """The pipeline cannot go on; finished shards are kept and a rerun continues from them."""


class ServiceError(DistillError):
    """A server or a model that a part depends on is missing, down, refuses the key, or does not know the model."""


class UnreadableImageError(DataError):
    """An image file is missing, broken, or of another size than its partner."""

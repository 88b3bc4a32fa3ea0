"""The interface of an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from unirain_plugin.distill.job import Job
from unirain_plugin.distill.options import EngineOptions


class Engine(ABC):
    """Distributes shards over workers.

    Args:
        options: The engine's section.
    """

    def __init__(self, options: EngineOptions) -> None:
        self.options = options

    def check(self) -> None:  # noqa: B027  (an optional hook)
        """Look, before the work begins, whether everything is installed.

        Raises:
            OptionError: With the pip name of what is missing.
        """

    @abstractmethod
    def make(self, job: Job, stage: str, shards: Sequence[int]) -> Iterator[int]:
        """Make the shards of a stage, in any order; yields the number of items of each as it is finished.

        Raises:
            UniRainError: The first error of a worker; shards finished until then are kept.
        """

    def close(self) -> None:  # noqa: B027  (an optional hook)
        """End the workers."""

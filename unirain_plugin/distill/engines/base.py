"""The interface of an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from unirain_plugin.distill.job import Job
from unirain_plugin.distill.options import EngineOptions
from unirain_plugin.distill.worker import Step


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
    def make(self, job: Job, units: Sequence[list[Step]]) -> Iterator[tuple[str, int]]:
        """Make shards; a unit's steps in order in one worker, units in any order.

        Yields:
            Stage and number of items of each shard that was made.

        Raises:
            UniRainError: The first error of a worker; shards finished until then are kept.
        """

    def close(self) -> None:  # noqa: B027  (an optional hook)
        """End the workers."""

"""The interface of a voter (the paper's R^i: is this a realistic, useful training sample?)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unirain_plugin.distill.records import Candidate, Reference, Vote, VoteTask
from unirain_plugin.distill.registry import Part


@dataclass(frozen=True, slots=True)
class Cost:
    """What asking about some candidates costs, for ``--dry-run``."""

    calls: int = 0  # requests to a server at most (early exit and the cache can only lessen them)
    images: int = 0  # images sent with them in all


class Voter(Part, ABC):
    """Base of all voters; register subclasses with ``@VOTER.register()``.

    The constructor takes the keys of the voter's YAML section as keyword arguments, checks them (``OptionError``), and
    stays cheap: no model, no connection. Life of a voter in one worker process: ``measure`` / ``measure_reference``
    in the describing stages (maybe in another process), later ``setup`` once, ``vote`` per batch, ``close``.

    Verdicts must not depend on the batch, the order of tasks or the worker: a rerun, another number of workers and
    another engine give the same bytes.

    Attributes:
        name: Unique within the pipeline; recorded in votes. Two voters of one type need different names.
        costly: Asked after the free voters, and only while the majority is still open (early exit).
    """

    costly: bool = False

    def __init__(self, name: str | None = None) -> None:
        self.name = name or vars(type(self)).get("registry_name", type(self).__name__)

    @abstractmethod
    def vote(self, tasks: Sequence[VoteTask]) -> list[Vote]:
        """Judge a batch: one vote for each task, in order.

        A question that cannot be answered (a nonsensical reply, no usable area) is ``verdict=None`` with the reason. A
        ServiceError if no question can be answered at all (server down, wrong key): the run stops, finished shards are
        kept, a rerun goes on.
        """

    def measure(self, candidate: Candidate) -> Mapping[str, Any]:
        """Measure a candidate while its images are in memory anyway; comes back as ``task.measurements[self.name]``.

        Everything that needs only the pair belongs here: then voting reads no image again. JSON-able values only
        (floats keep all their digits). Share planes with other parts through ``candidate.derived``.
        """
        return {}

    def measure_reference(self, reference: Reference) -> Mapping[str, Any]:
        """The same for a real rainy reference; comes back as ``reference.measurements[self.name]``."""
        return {}

    def setup(self, references: Sequence[Reference]) -> None:
        """Learn from the whole reference set (ranges of the measurements) before the first ``vote``.

        The references come in their listed order with captions and measurements; their images are unread. The
        sequence may be lazy: iterate over it, do not copy it.
        """

    def cost(self, candidates: int, references: int) -> Cost:
        """An upper bound of what judging ``candidates`` with ``references`` retrieved images each costs."""
        return Cost()

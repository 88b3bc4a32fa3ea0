"""The stages of the pipeline, in order. Each makes shards from finished shards; all can be killed and redone."""

from unirain_plugin.distill.job import Stage
from unirain_plugin.distill.stages.describe import DescribeCandidates, DescribeReferences
from unirain_plugin.distill.stages.duplicates import FindDuplicates
from unirain_plugin.distill.stages.retrieve import BuildIndex, Retrieve
from unirain_plugin.distill.stages.vote import AskVoters

STAGES: dict[str, type[Stage]] = {
    stage.name: stage
    for stage in (DescribeReferences, DescribeCandidates, FindDuplicates, BuildIndex, Retrieve, AskVoters)
}
"""Stage name → class, in the order in which they run."""

GROUPS: tuple[tuple[str, ...], ...] = (
    ("references", "candidates"),
    ("duplicates",),
    ("index",),
    ("retrieval", "votes"),
)
"""Stages that the same workers do together. Within a group a shard depends at most on the same shard of the stage
before it; so the first group's shards are all independent, and the last group's are made in pairs."""

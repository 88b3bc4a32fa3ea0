"""``--dry-run``: what a run would do and cost, without doing any of it."""

from __future__ import annotations

from unirain_plugin.distill.inputs import list_references, scan_candidates
from unirain_plugin.distill.job import Context, Job
from unirain_plugin.distill.options import DistillOptions
from unirain_plugin.distill.pipeline import Pipeline
from unirain_plugin.distill.stages import STAGES
from unirain_plugin.distill.workspace import Workspace


def describe_plan(options: DistillOptions) -> str:
    """Check options and inputs and describe the run in a few lines; writes nothing.

    Raises:
        OptionError: If options are wrong or something is not installed.
        DataError: If inputs are missing, empty or malformed.
    """
    pipeline = Pipeline(options, quiet=True)
    pipeline.check()
    references = len(list_references(options.references))
    job = Job(options, str(options.work_folder), references, pipeline._file(_no_file(), "", _count(options)))
    context = Context(job)
    workspace = Workspace(options.work_folder)
    lines = [
        f"run        {options.name}: {references} references, {job.candidates.count} candidates",
        f"parts      captioner {options.captioner['type']}, embedder {options.embedder['type']}, "
        f"text encoder {options.text_encoder['type']}",
        f"retrieval  K1 {options.retrieval.k1} → K2 {options.retrieval.k2} → K3 {options.retrieval.k3}, "
        f"index {options.retrieval.index}, SSIM at {options.retrieval.working_size}²",
        f"voters     {', '.join(voter.name for voter in context.voters)}; {len(context.voters) // 2 + 1} of "
        f"{len(context.voters)} must agree",
        f"engine     {options.engine.type}, {options.engine.workers} workers",
        f"work       {options.work_folder} → {options.output_folder}",
    ]
    for name, stage in STAGES.items():
        shards = stage.shards(job)
        missing = len(workspace.missing(name, shards))
        lines.append(f"stage      {stage.title}: {stage.items(job)} images, {missing} of {shards} shards to make")
    return "\n".join([*lines, *_costs(context)]) + "\n"


def _costs(context: Context) -> list[str]:
    job = context.job
    captions = context.captioner.calls(job.references + job.candidates.count)
    lines = [f"calls      captioner: {captions}"] if captions else []
    total = captions
    for voter in context.voters:
        cost = voter.cost(job.candidates.count, min(context.options.retrieval.k3, job.references))
        total += cost.calls
        if cost.calls:
            lines.append(f"calls      voter {voter.name}: at most {cost.calls} requests with {cost.images} images")
    early = " (early exit, rejected duplicates and the cache can only lessen them)" if total else ""
    return [*lines, f"cost       at most {total} VLM calls{early}"]


def _count(options: DistillOptions) -> int:
    """Number of candidates; every line of a manifest is checked on the way."""
    candidates = options.candidates
    if candidates.manifest is not None:
        return scan_candidates(candidates.manifest, options.shard_size)[0]
    from unirain_plugin.data.folders import find_types, scan_rainrag

    root = str(candidates.dataroot)
    return len(scan_rainrag(root, find_types(root, None)))


def _no_file() -> object:
    from pathlib import Path

    return Path()

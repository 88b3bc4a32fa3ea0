"""Runs of the pipeline, and their results."""

from pathlib import Path

from unirain_plugin.distill.options import parse_options
from unirain_plugin.distill.pipeline import Pipeline

RESULTS = ("manifest.jsonl", "votes.jsonl", "statistics.json", "meta_info/index.json", "meta_info/drs.txt")


def run(settings, restart=False, **changes):
    return Pipeline(parse_options({**settings, **changes}, "test.yml"), quiet=True).run(restart)


def contents(folder):
    return {name: (Path(folder) / name).read_bytes() for name in RESULTS}

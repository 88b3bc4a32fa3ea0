"""Thin entry point: the same as ``python -m unirain_plugin adapt``."""

import sys

from unirain_plugin.__main__ import run

if __name__ == "__main__":
    sys.exit(run("adapt", sys.argv[1:]))

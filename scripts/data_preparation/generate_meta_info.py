"""Thin entry point: the same as ``python -m unirain_plugin generate-meta-info``."""

import sys

from unirain_plugin.__main__ import run

if __name__ == "__main__":
    sys.exit(run("generate-meta-info", sys.argv[1:]))

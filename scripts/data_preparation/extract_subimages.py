"""Thin entry point: the same as ``python -m unirain_plugin extract-subimages``."""

import sys

from unirain_plugin.__main__ import run

if __name__ == "__main__":
    sys.exit(run("extract-subimages", sys.argv[1:]))

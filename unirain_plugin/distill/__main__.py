"""``python -m unirain_plugin.distill -opt FILE``, the same as ``python -m unirain_plugin distill``."""

import sys

from unirain_plugin.__main__ import run

if __name__ == "__main__":
    sys.exit(run("distill", sys.argv[1:]))

"""``python -m unirain_plugin.test -opt FILE``: the toolbox's ``test_pipeline`` with checked options, on any device.

The flags are those of training. Images and the log go to ``results/NAME`` below ``--root``; an older one is archived.
"""

import sys

from unirain_plugin.__main__ import run


def main(argv: list[str]) -> int:
    """Test a trained model. A UniRainError for what a user can mend: options, data, checkpoints."""
    from unirain_plugin.runs.run import Run, parse_arguments

    Run(parse_arguments(argv, is_train=False), is_train=False).start()
    return 0


if __name__ == "__main__":
    sys.exit(run("test", sys.argv[1:]))

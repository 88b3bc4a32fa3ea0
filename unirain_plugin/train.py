"""``python -m unirain_plugin.train -opt FILE``: the toolbox's ``train_pipeline``, made to survive anything.

The toolbox's flags are accepted, and ``--root DIR``, below which ``experiments/`` and ``tb_logger/`` are written and
looked up (by default the working directory). A new run under a name that exists archives the old run's folder;
``--auto_resume`` goes on from its newest complete checkpoint instead, on the CPU bit for bit.
"""

import sys

from unirain_plugin.__main__ import run as run_command
from unirain_plugin.support.interruptions import resumable


def main(argv: list[str]) -> int:
    """Train. A UniRainError for what a user can mend: options, data, checkpoints."""
    from unirain_plugin.runs.run import parse_arguments

    arguments = parse_arguments(argv, is_train=True)
    with resumable("training had not begun"):
        from unirain_plugin.toolbox import prepare_import

        prepare_import()
        from unirain_plugin.runs.training import TrainingRun

        run = TrainingRun(arguments)
    try:
        run.start()
    except KeyboardInterrupt as end:
        end.args = (run.saved(),)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(run_command("train", sys.argv[1:]))

"""Which interpreter scripts/setup_env.sh takes, with interpreters that only pretend to be one."""

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = "error: Python 3.11 or 3.12 is needed (basicsr 1.4.2 cannot be built for 3.13 or newer); found: "
FAKE = f"""#!/bin/sh
echo "$(basename "$0") $1 $2" >> '{{log}}'
case "$*" in
"-m venv .venv")
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    echo 'PATH="$PWD/.venv/bin:$PATH"' > .venv/bin/activate ;;
-m*) ;;
*) exec '{sys.executable}' -c "import sys
sys.version_info, sys.prefix = (*map(int, '{{version}}'.split('.')), 'final', 0), '{{prefix}}'
$2" ;;
esac
"""


@pytest.fixture()
def run(tmp_path):
    """Source the script with interpreters (name → version) on PATH; returns what ran and standard error."""
    project, tools = tmp_path / "project", tmp_path / "bin"
    (project / "scripts").mkdir(parents=True)
    tools.mkdir()
    shutil.copy(ROOT / "scripts/setup_env.sh", project / "scripts")
    shutil.copy(ROOT / "setup.py", project)
    for tool in ("dirname", "basename", "mkdir", "cp", "cat", "cksum", "cut", "touch", "sh"):
        (tools / tool).symlink_to(shutil.which(tool))

    def source(interpreters, **environment):
        for name, version in interpreters.items():
            path = tools / name
            path.write_text(FAKE.format(log=tmp_path / "log", version=version, prefix=project))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        script = "set -euo pipefail; . scripts/setup_env.sh; echo ready"
        command, env = [shutil.which("bash"), "-c", script], {"PATH": str(tools), **environment}
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)
        assert done.returncode == (0 if done.stdout.endswith("ready\n") else 2)
        lines = (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []
        makers = [line.split()[0] for line in lines if line.endswith("-m venv")]
        installed = sum(line == "python -m pip" for line in lines)
        return makers, installed, done.stderr

    return source


@pytest.mark.parametrize(
    ("interpreters", "environment", "chosen"),
    [
        ({"python3.11": "3.11.7", "python3.12": "3.12.1", "python3": "3.13.0"}, {}, "python3.11"),
        ({"python3.12": "3.12.1", "python3": "3.11.2"}, {}, "python3.12"),
        ({"python3.11": "3.10.4", "python3.12": "3.12.1"}, {}, "python3.12"),  # a shim that leads elsewhere
        ({"python3": "3.12.9"}, {}, "python3"),
        ({"python3.11": "3.11.7", "mine": "3.12.0"}, {"PYTHON": "mine"}, "mine"),
    ],
)
def test_first_interpreter_that_fits_makes_the_environment(run, interpreters, environment, chosen):
    makers, installed, error = run(interpreters, **environment)
    assert (makers, error) == ([chosen], "") and installed == 4
    assert run(interpreters, **environment)[:2] == ([chosen], 4), "nothing to do the second time"


@pytest.mark.parametrize(
    ("interpreters", "environment", "found"),
    [
        ({"python3": "3.13.0"}, {}, "python3 is 3.13.0."),
        ({"python3": "3.10.12", "python3.11": "3.14.0"}, {}, "python3.11 is 3.14.0, python3 is 3.10.12."),
        ({}, {}, "none of python3.11 python3.12 python3."),
        ({"python3.11": "3.11.7", "python3.13": "3.13.0"}, {"PYTHON": "python3.13"}, "python3.13 is 3.13.0."),
        ({"python3.11": "3.11.7"}, {"PYTHON": "/no/python"}, "none of /no/python."),
        ({"python3.11": "3.11.7", "python": "3.13.1"}, {"VIRTUAL_ENV": "/mine"}, "python is 3.13.1."),
        ({"python3.11": "3.11.7", "python": "4.0.0"}, {"CONDA_PREFIX": "/mine"}, "python is 4.0.0."),
    ],
)
def test_otherwise_needed_and_found_are_told_and_nothing_is_made(run, interpreters, environment, found):
    makers, installed, error = run(interpreters, **environment)
    assert (makers, installed) == ([], 0)
    assert error.splitlines()[-1].startswith(NEEDED + found)


def test_range_is_that_of_the_package():
    assert re.search(r'python_requires="(.*)"', (ROOT / "setup.py").read_text())[1] == ">=3.11,<3.13"
    assert 'target-version = "py311"' in (ROOT / "pyproject.toml").read_text()

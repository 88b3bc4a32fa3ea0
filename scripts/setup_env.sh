# Sourced by demo.sh, test.sh and .ci/run: an environment with the project in it.
# An active virtual or conda environment is used as it is; otherwise .venv is made in the project's folder.
# PYTHON chooses the interpreter that makes it (default: the first of python3.11, python3.12 and python3 that fits).
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Sets $python to the first of these interpreters for which basicsr 1.4.2, the newest, can be built.
first_that_fits() {
    local version found=""
    for python in "$@"; do
        version="$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)" || continue
        case "$version" in 3.11.* | 3.12.*) return ;; esac
        found="$found, $python is $version"
    done
    found="${found:-, none of $*}"
    echo "error: Python 3.11 or 3.12 is needed (basicsr 1.4.2 cannot be built for 3.13 or newer); found: ${found#, }." \
        "Without an active environment, PYTHON=/path/to/python3.11 names the interpreter to use." >&2
    exit 2
}

if [ -z "${VIRTUAL_ENV:-}" ] && [ -z "${CONDA_PREFIX:-}" ]; then
    if [ ! -x .venv/bin/python ]; then
        if [ -n "${PYTHON:-}" ]; then first_that_fits "$PYTHON"; else first_that_fits python3.11 python3.12 python3; fi
        "$python" -m venv .venv
    fi
    . .venv/bin/activate
fi
first_that_fits python

# Installed already, and nothing about the installation has changed since: nothing to do.
stamp="$(python -c 'import sys; print(sys.prefix)')/.unirain_plugin-$(cat setup.py scripts/setup_env.sh | cksum | cut -d' ' -f1)"
if [ ! -e "$stamp" ] || ! python -c 'import unirain_plugin, pytest' 2>/dev/null; then
    echo "Installing into $(python -c 'import sys; print(sys.prefix)') (several GB with torch, a few minutes) …"
    python -m pip install --quiet --upgrade pip setuptools wheel
    # torch first: basicsr's build asks for it, and would otherwise download a copy of its own.
    python -m pip install --quiet --upgrade-strategy only-if-needed torch torchvision numpy cython
    python -m pip install --quiet --no-build-isolation 'basicsr>=1.4.2'
    python -m pip install --quiet --no-build-isolation -e '.[test,distill,report,speed]'
    touch "$stamp"
fi

# Sourced by demo.sh, test.sh and .ci/run: an environment with the project in it.
# An active virtual or conda environment is used as it is; otherwise .venv is made in the project's folder.
# PYTHON chooses the interpreter that makes it (default: python3.11 where there is one, else python3).
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -z "${VIRTUAL_ENV:-}" ] && [ -z "${CONDA_PREFIX:-}" ]; then
    if [ ! -x .venv/bin/python ]; then
        "${PYTHON:-$(command -v python3.11 || command -v python3)}" -m venv .venv
    fi
    . .venv/bin/activate
fi

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

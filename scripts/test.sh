#!/usr/bin/env bash
# Runs the tests. Options are passed on to pytest.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
exec python -m pytest "$@"

#!/usr/bin/env bash
# The main job, end to end: render rain of four types onto photographs, train a tiny UniRain through BasicSR, test it on
# held-out photographs, print the table and write the picture. No GPU, no download. Options are passed on: --help.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
exec python -m unirain_plugin demo "$@"

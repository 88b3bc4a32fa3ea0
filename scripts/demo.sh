#!/usr/bin/env bash
# The main job, end to end: render rain of four types onto photographs, distil the pairs, train a tiny UniRain through
# BasicSR, test it on held-out photographs, print the table, draw the image. No GPU, no download. Options: --help.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
exec python -m unirain_plugin demo "$@"

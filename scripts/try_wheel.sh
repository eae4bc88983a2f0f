#!/usr/bin/env bash
# Install the newest wheel of a folder into a fresh environment outside the tree and run the main job there.
# usage: try_wheel.sh WHEEL_DIR TORCH_REQUIREMENT PYTHON
set -euo pipefail
wheel=$(realpath "$(ls -t "$1"/learn2splat-*.whl | head -n 1)")
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT
"$3" -m venv "$away/venv"
"$away/venv/bin/pip" install --quiet --upgrade "pip>=24"
"$away/venv/bin/pip" install --quiet "$2"
"$away/venv/bin/pip" install --quiet "$wheel"
cd "$away"
venv/bin/l2s doctor
venv/bin/l2s optimize --scene procedural:seed=1,views=12,width=64 --steps 50 --quiet --out run
test -s run/point_cloud.ply && test -s run/report.html
echo "the wheel works: $(basename "$wheel")"

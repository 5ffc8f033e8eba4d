#!/usr/bin/env bash
# Pins every package for every accelerator: pyproject.toml -> launch/requirements/{cpu,cuda13,tpu}.txt.
# Run it after changing dependencies in pyproject.toml, or to take newer releases with: bash launch/lock.sh --upgrade
# Needs uv (on the PATH, or pip install uv into .venv). The files hold versions for Python 3.11 to 3.13 side by side
# (environment markers), and no index address, so that they install from whatever index pip is set up for.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv="$(command -v .venv/bin/uv || command -v uv || true)"
if [[ -z "$uv" ]]; then
  echo "lock: no uv found in .venv or on the PATH; install it: .venv/bin/python -m pip install uv" >&2
  exit 2
fi

for accelerator in cpu cuda13 tpu; do
  extra=()
  if [[ "$accelerator" != cpu ]]; then
    extra=(--extra "$accelerator")
  fi
  "$uv" pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --group dev \
    "${extra[@]}" "$@" pyproject.toml --output-file "launch/requirements/$accelerator.txt"
  echo "lock: launch/requirements/$accelerator.txt pins $(grep -c '==' "launch/requirements/$accelerator.txt") packages"
done

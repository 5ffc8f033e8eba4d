#!/usr/bin/env bash
# Pins every package, with the hashes of its files: pyproject.toml -> launch/requirements/{build,cpu,cuda13,tpu,dev}.txt.
# cpu, cuda13 and tpu are what running s2sjax needs, one for each accelerator; dev is what its tests and checks need besides;
# build is what installs s2sjax itself.
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

from_source=promise # of which there is no wheel; launch/setup.sh says the same

pin() { # the name of a lock file, what goes into it
  local file="launch/requirements/$1.txt"
  "$uv" pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes \
    --only-binary :all: --no-binary "$from_source" "${@:2}" --output-file "$file"
  echo "lock: $file pins $(grep -c '==' "$file") packages"
}

pin build --group build "$@"
pin cpu pyproject.toml "$@"
pin cuda13 --extra cuda13 pyproject.toml "$@"
pin tpu --extra tpu pyproject.toml "$@"
# What is in both has one version, whichever of the three dev.txt is installed beside.
pin dev --group dev --constraint launch/requirements/cpu.txt --constraint launch/requirements/cuda13.txt \
  --constraint launch/requirements/tpu.txt "$@"

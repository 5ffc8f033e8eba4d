#!/usr/bin/env bash
# Installs if necessary and runs the fast tests: 10 minutes at most on two cores.
#
#   bash launch/test.sh                            all but the slow ones, of grids a sample too
#   bash launch/test.sh tests/decode -k beam       arguments go to pytest
#   bash launch/test.sh -m slow                    the slow ones, of grids a sample (tests/sampling.py)
#   bash launch/test.sh -m "slow or exhaustive"    all cases of the grids: more than twice as long
#   S2SJAX_TEST_WORKERS=8 bash launch/test.sh      processes (2; 0 to stay in this one, for a debugger)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh --dev

# A file's tests stay together, since they share what they compile.
exec .venv/bin/python -m pytest --numprocesses="${S2SJAX_TEST_WORKERS:-2}" --dist=loadfile "$@"

#!/usr/bin/env bash
# Makes .venv and installs this package with everything it needs: the versions and files of the lock files, whose hashes
# pip checks. Quick when there is nothing to do. All the other scripts call it first.
#
#   bash launch/setup.sh          what running s2sjax needs
#   bash launch/setup.sh --dev    what tests and checks need besides (launch/test.sh); kept up from then on
#
#   S2SJAX_PYTHON       the Python to use; otherwise the first of python3.11, 3.12, 3.13, python3 that is 3.11 to 3.13
#   S2SJAX_ACCELERATOR  cpu (the default), cuda13 or tpu
#
# .venv/stamp and .venv/stamp-dev say what .venv was made from. Without a stamp an installation did not finish, and goes on.
set -euo pipefail
if [[ "${S2SJAX_PYTHON:-}" == [!/]*/* ]]; then S2SJAX_PYTHON="$PWD/$S2SJAX_PYTHON"; fi # before this is another directory
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 2
}

dev=""
case "$*" in
  "") ;;
  --dev) dev=yes ;;
  *) fail "'$*' is not an option; it has to be --dev, or nothing" ;;
esac
if [[ -e .venv/stamp-dev ]]; then dev=yes; fi

accelerator="${S2SJAX_ACCELERATOR:-cpu}"
case "$accelerator" in
  cpu | cuda13 | tpu) ;;
  *) fail "S2SJAX_ACCELERATOR is '$accelerator'; it has to be cpu, cuda13 or tpu" ;;
esac
requirements=launch/requirements
lock="$requirements/$accelerator.txt"

# The directory counts too: a .venv holds absolute paths, and does not survive being moved.
sum() { cat pyproject.toml "$@" | cksum; }
stamp="accelerator=$accelerator python=${S2SJAX_PYTHON:-} directory=$PWD files=$(sum "$requirements/build.txt" "$lock")"
stamp_dev="$stamp dev=$(sum "$requirements/dev.txt")"
is_made() { [[ -x .venv/bin/s2sjax && "$(cat .venv/stamp 2>/dev/null)" == "$stamp" ]]; }
if is_made && [[ -z "$dev" || "$(cat .venv/stamp-dev 2>/dev/null)" == "$stamp_dev" ]]; then
  exit 0
fi

version_of() { # prints "3.11" and the like if it is a Python that will do
  "$1" -c '
import sys, venv, ensurepip
assert (3, 11) <= sys.version_info[:2] <= (3, 13)
print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

candidates=(python3.11 python3.12 python3.13 python3)
if [[ -n "${S2SJAX_PYTHON:-}" ]]; then candidates=("$S2SJAX_PYTHON"); fi
python="" version=""
for candidate in "${candidates[@]}"; do
  if version="$(version_of "$candidate")"; then
    python="$candidate"
    break
  fi
done
if [[ -z "$python" ]]; then
  if [[ -n "${S2SJAX_PYTHON:-}" ]]; then
    fail "S2SJAX_PYTHON is '$S2SJAX_PYTHON', which does not run as Python 3.11 to 3.13 with the modules venv and ensurepip"
  fi
  fail "found no Python 3.11 to 3.13 with the modules venv and ensurepip (on Debian and Ubuntu: apt install" \
    "python3-venv); install one, or say where it is: S2SJAX_PYTHON=/path/to/python3.11"
fi

# What was made by another Python, for another accelerator or in another place is made anew; the rest is kept.
made_for="accelerator=$accelerator python=$version directory=$PWD"
if [[ -e .venv ]]; then
  [[ -f .venv/pyvenv.cfg ]] || fail ".venv is there and is no virtual environment; move it out of the way"
  if [[ "$(cat .venv/made-for 2>/dev/null || echo "$made_for")" != "$made_for" ||
    "$(version_of .venv/bin/python || true)" != "$version" ]]; then
    say "removing the .venv that was made by another Python, for another accelerator or in another directory"
    rm -rf .venv
  fi
fi
if ! is_made; then rm -f .venv/stamp; fi
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  say "making .venv with Python $version"
  "$python" -m venv --clear .venv
fi
echo "$made_for" >.venv/made-for

log=.venv/install.log
: >"$log"
pip_install() { # how many packages at most, pip's arguments; shows a line a package, the rest of what pip says is logged
  local total="$1" count=0 line package
  shift
  if ! PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --require-virtualenv "$@" 2>&1 |
    while IFS= read -r line; do
      printf '%s\n' "$line" >>"$log"
      case "$line" in
        "Collecting "* | "Requirement already satisfied: "*)
          count=$((count + 1))
          package="${line#Collecting }"
          package="${package#Requirement already satisfied: }"
          if [[ -t 2 ]]; then
            printf '\r\033[Ksetup: %d of at most %d: %s' "$count" "$total" "${package%%[ ;]*}" >&2
          elif ((count % 20 == 0)); then
            say "$count of at most $total"
          fi
          ;;
        "Installing collected packages: "*)
          if [[ -t 2 ]]; then printf '\r\033[K' >&2; fi
          say "unpacking; this can take a minute"
          ;;
        *) ;;
      esac
    done; then
    say "the installation failed; the end of what pip said (all of it: $log):"
    tail -n 15 "$log" >&2
    fail "run it again to go on from here"
  fi
  if [[ -t 2 ]]; then printf '\r\033[K' >&2; fi
}

install_locked() { # a lock file
  local total
  total="$(grep -c '==' "$1")"
  say "installing $total packages from $1"
  # Nothing is built but what has no wheel, and that with the setuptools of build.txt: another's would be fetched unchecked.
  pip_install "$total" --require-hashes --only-binary :all: --no-binary promise --no-build-isolation -r "$1"
}

if ! is_made; then
  install_locked "$requirements/build.txt"
  install_locked "$lock"
  say "installing s2sjax itself"
  pip_install 1 --no-deps --no-build-isolation --editable .
  printf '%s\n' "$stamp" >.venv/stamp
fi
if [[ -n "$dev" ]]; then
  : >.venv/stamp-dev # from now on; not yet made
  install_locked "$requirements/dev.txt"
  printf '%s\n' "$stamp_dev" >.venv/stamp-dev
fi
say "done; the program is .venv/bin/s2sjax"

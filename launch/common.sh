# shellcheck shell=bash
# What the scripts share. They source it.
# shellcheck disable=SC2034 # what is set here is used there

find_workdir() { # a command line of s2sjax; sets workdir to the last --workdir in it, or to nothing
  local argument previous=""
  workdir=""
  for argument in "$@"; do
    case "$argument" in
      --workdir=* | -workdir=*) workdir="${argument#*=}" ;;
      *) if [[ "$previous" == --workdir || "$previous" == -workdir ]]; then workdir="$argument"; fi ;;
    esac
    previous="$argument"
  done
}

# What comes from outside is matched before bash counts with it: arithmetic runs code that it finds in a text such as
# a[$(command)], takes 08 for a mistake in base eight, and overflows. In some locales [0-9] is more than ten digits.
matches() { # a text, a pattern
  local LC_ALL=C
  [[ "$1" =~ $2 ]]
}

#!/usr/bin/env bash
# What a pod runs: s2sjax with the pod's arguments, its output to kubectl logs and to WORKDIR/logs. Passes SIGTERM on, and
# ends with the exit code of s2sjax, once the last line is written: the container dies with this process.
set -euo pipefail

workdir="" previous=""
for argument in "$@"; do
  case "$argument" in
    --workdir=*) workdir="${argument#*=}" ;;
    *) if [[ "$previous" == --workdir ]]; then workdir="$argument"; fi ;;
  esac
  previous="$argument"
done
if [[ -z "$workdir" ]]; then
  echo "entrypoint.sh: --workdir is missing; logs and checkpoints go there" >&2
  exit 2
fi
mkdir -p "$workdir/logs"

exec 3> >(exec tee -a "$workdir/logs/process-${SLICE:+$SLICE-}$JOB_COMPLETION_INDEX.log")
writer=$!
.venv/bin/s2sjax "$@" >&3 2>&1 3>&- &
program=$!
exec 3>&- # tee ends when the program has

signalled=yes status=0
trap 'signalled=yes; kill -TERM "$program" || true' TERM
while [[ -n "$signalled" ]]; do # a signal ends the waiting, not what is waited for
  signalled="" status=0
  wait "$program" || status=$?
done
wait "$writer"
exit "$status"

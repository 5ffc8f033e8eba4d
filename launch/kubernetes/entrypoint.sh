#!/usr/bin/env bash
# What a pod runs: s2sjax with the pod's arguments, its output to kubectl logs and to WORKDIR/logs. Passes SIGTERM on, and
# ends with the exit code of s2sjax, once the last line is written: the container dies with this process.
set -euo pipefail

# Before all else: the first process of a container has no signal's default action, and would lose what it does not trap.
program="" told="" status=0
# shellcheck disable=SC2329 # the trap invokes it
pass_on() {
  told=yes
  if [[ -n "$program" ]]; then kill -TERM "$program" 2>/dev/null || true; fi
}
trap pass_on TERM

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
find_workdir "$@"
if [[ -z "$workdir" ]]; then
  echo "entrypoint.sh: --workdir is missing; logs and checkpoints go there" >&2
  exit 2
fi

launching=(.venv/bin/python -I -m s2sjax.processes.launching)
log="process-${SLICE:+$SLICE-}$JOB_COMPLETION_INDEX.log"
"${launching[@]}" log "$workdir" "$log" true # can it be written?
exec 3> >(exec "${launching[@]}" tee "$workdir" "$log")
writer=$!
.venv/bin/s2sjax "$@" >&3 2>&1 3>&- &
program=$!
exec 3>&- # tee ends when the program has
if [[ -n "$told" ]]; then kill -TERM "$program" 2>/dev/null || true; fi # told before it was there

while kill -0 "$program" 2>/dev/null; do wait "$program" || true; done # a signal ends the waiting, not the program
trap '' TERM # there is nobody left to tell
wait "$program" || status=$?
wait "$writer" || true
exit "$status"

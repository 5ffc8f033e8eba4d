#!/usr/bin/env bash
# Runs s2sjax on this machine with all of its devices, as one process or as several that work together, and starts again
# after one was lost.
#
#   bash launch/local.sh train --config=configs/multi30k/modern.py --workdir=runs/m30k
#   bash launch/local.sh --processes 2 train --config=... --workdir=... --config.train.steps=9000
#   bash launch/local.sh --processes 2 decode --workdir=runs/m30k --input=test.en --output=test.de
#
# It may be called from any directory, which paths are relative to.
# Each process writes WORKDIR/logs/process-N.log, process 0 to the terminal too. On CPUs each gets its share of the cores,
# on GPUs its share of them (CUDA_VISIBLE_DEVICES; with several GPUs this was never run).
# Ctrl-C or SIGTERM: all save and stop, and the exit code is 75; a second time: they are killed. SIGUSR1 and SIGHUP, of a
# terminal that is closed: the same, but never killed. With nohup in front a training outlives its terminal.
# A training is started again when a process was lost (exit code 76, or death by a signal) until that has happened
# S2SJAX_RESTARTS (3) times in a row without a new checkpoint. What it exits with otherwise, README.md lists.
set -euo pipefail
checkout="$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=launch/common.sh
source "$checkout/launch/common.sh"

exec 4>&2
say() { printf 'local: %s\n' "$*" >&4 || true; } 2>/dev/null # the terminal may be gone, and all have to be waited for
fail() {
  say "$*"
  exit 2
}

processes=1 most=256
case "${1:-}" in
  --processes=*)
    processes="${1#*=}"
    shift
    ;;
  --processes)
    processes="${2:-}"
    shift 2 || fail "--processes is given without a number"
    ;;
  *) ;;
esac
if ! matches "$processes" '^[1-9][0-9]{0,3}$' || ((processes > most)); then
  fail "--processes is '$processes', expected a number from 1 to $most"
fi
(($# > 0)) || fail "what is it to do? bash launch/local.sh [--processes N] train --config=FILE.py --workdir=DIR"

silence="${S2SJAX_PEER_TIMEOUT:-60}"
if ! matches "$silence" '^[0-9]{1,7}(\.[0-9]*)?$' || ((10#${silence%%.*} < 5 || 10#${silence%%.*} > 1000000)); then
  fail "S2SJAX_PEER_TIMEOUT is '$silence', expected a number of seconds from 5 to 1000000"
fi
restarts="${S2SJAX_RESTARTS:-3}"
matches "$restarts" '^[0-9]{1,9}$' || fail "S2SJAX_RESTARTS is '$restarts', expected a number from 0 to 999999999"

find_workdir "$@"
[[ -n "$workdir" ]] || fail "--workdir is missing; logs and checkpoints go there: bash launch/local.sh train --workdir=DIR"

trap 'exit 75' TERM INT HUP USR1 # until there are processes, nothing is to be saved
bash "$checkout/launch/setup.sh"
launching=("$checkout/.venv/bin/python" -I -m s2sjax.processes.launching) # -I: modules are not this directory's

# A port that nobody uses now, and the cores that this shell may use.
read -r port cores < <("$checkout/.venv/bin/python" -I -c '
import os, socket
listener = socket.socket()
listener.bind(("", 0))
print(listener.getsockname()[1], ",".join(map(str, sorted(os.sched_getaffinity(0)))))')
IFS=, read -r -a cores <<<"$cores"
gpus=()
if [[ "${JAX_PLATFORMS:-}" != cpu ]]; then
  if [[ -n "${CUDA_VISIBLE_DEVICES+set}" ]]; then # to nothing, perhaps: then there are none
    if [[ "$CUDA_VISIBLE_DEVICES" != -1 ]]; then IFS=, read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES"; fi # -1: none
  elif command -v nvidia-smi >/dev/null; then
    # What it says when it fails is no number.
    mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | grep -E '^[0-9]+$' || true)
  fi
fi
if ((${#gpus[@]} % processes)); then
  fail "${#gpus[@]} GPUs cannot be shared out to $processes processes; choose a number that divides them, or JAX_PLATFORMS=cpu"
fi

shared=""
share() { # process, items...: sets shared to the items of this process, commas between; nothing if they are too few
  local number="$1" each IFS=,
  shift
  each=$(($# / processes))
  shared="${*:1+number*each:each}"
}

pids=()
starting=0
start() {
  local number pinned shown now headers=()
  printf -v now '%(%F %T)T' -1
  for ((number = 0; number < processes; number++)); do
    headers+=("process-$number.log" "---- $now: process $number of $processes: $*")
  done
  "${launching[@]}" note "$workdir" "${headers[@]}" || exit
  starting=1
  pids=()
  for ((number = 0; number < processes; number++)); do
    if [[ -n "$stopping" ]]; then break; fi
    pinned=()
    if ((processes > 1 && ${#cores[@]} >= processes && ${#gpus[@]} == 0)) && command -v taskset >/dev/null; then
      share "$number" "${cores[@]}"
      pinned=(taskset --cpu-list "$shared")
    fi
    shown=()
    if ((processes > 1)); then
      shown=("S2SJAX_COORDINATOR=127.0.0.1:$port" "S2SJAX_PROCESSES=$processes" "S2SJAX_PROCESS=$number")
      if ((${#gpus[@]})); then
        share "$number" "${gpus[@]}"
        shown+=("CUDA_VISIBLE_DEVICES=$shared")
      fi
    fi
    # A session of its own: Ctrl-C reaches the processes through this shell alone, once.
    if ((number == 0)); then
      exec 5> >(exec setsid "${launching[@]}" tee "$workdir" process-0.log >&2)
      terminal=$!
      setsid env "${shown[@]}" "${pinned[@]}" "$checkout/.venv/bin/s2sjax" "$@" <&3 2>&5 5>&- &
      exec 5>&- # tee ends when the process has
    else
      setsid env "${shown[@]}" "${pinned[@]}" \
        "${launching[@]}" log "$workdir" "process-$number.log" "$checkout/.venv/bin/s2sjax" "$@" </dev/null &
    fi
    pids+=($!)
  done
  starting=0
  if ((insisted > 1)); then
    signal_all KILL
  elif [[ -n "$stopping" ]]; then # told before all were there
    signal_all TERM
  fi
}
exec 3<&0

# The processes are not of this shell's session: what they are to be told has to be passed on. Only a person insists;
# that a session has ended may be said by the kernel, by the shell in the terminal and by systemd, with SIGHUP and SIGTERM.
stopping="" insisted=0
stop() { # "insist" if the second time means that there is no time to save
  local before="$stopping"
  stopping=yes
  if [[ "${1:-}" == insist ]]; then insisted=$((insisted + 1)); fi
  if ((starting)); then
    return
  elif ((insisted > 1)); then
    say "told to stop again; killing"
    signal_all KILL
  elif [[ -z "$before" ]]; then
    signal_all TERM
  fi
}
signal_all() {
  local pid
  for pid in "${pids[@]}"; do kill "-$1" "$pid" 2>/dev/null || true; done
}
trap 'stop insist' TERM INT
trap stop HUP USR1

living=0
count_living() { # no subshell, here as above: a signal to all processes of the terminal would end it
  local pid
  living=0
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then living=$((living + 1)); fi
  done
}

# Those that are left when the first has ended end by themselves, unless they stand still.
margin=60
patience=$((10#${silence%%.*} + margin))

await() { # waits for all processes; sets codes
  local pid code ended=0
  count_living
  while ((living > 0)); do
    sleep 0.3 &
    wait $! || true
    count_living
    if ((living == ${#pids[@]})); then
      ended=$SECONDS
    elif ((SECONDS - ended > patience)); then
      say "killing what has not ended ${patience} s after the others"
      signal_all KILL
      ended=$SECONDS
    fi
  done
  codes=()
  for pid in "${pids[@]}"; do
    code=0
    wait "$pid" || code=$?
    if ((code > 128)); then # of a signal to this shell, perhaps, which ends the waiting; asked again, it has the process's
      code=0
      wait "$pid" || code=$?
    fi
    codes+=("$code")
  done
  if ((${#pids[@]})); then wait "$terminal" || true; fi
}

newest_checkpoint() { "${launching[@]}" newest "$workdir"; } # its step, 0 if there is none

# Of the processes' codes: a failure that will come again, then a lost process, then a stop. One that was told to stop
# before it could listen has died of that signal, and had nothing to save.
verdict() {
  local code lost=0 stopped=0
  if ((${#pids[@]} < processes)); then stopped=75; fi # before all were started
  for code in "${codes[@]}"; do
    if [[ -n "$stopping" ]] && ((code == 143)); then
      stopped=75
    elif ((code == 76 || code > 128)); then
      lost="$code"
    elif ((code == 75)); then
      stopped=75
    elif ((code != 0)); then
      echo "$code"
      return
    fi
  done
  echo $((lost ? lost : stopped))
}

failures=0
while true; do
  before="$(newest_checkpoint)"
  start "$@"
  await 2>/dev/null # where bash would remark on who was killed
  code="$(verdict)"
  if [[ -n "$stopping" ]] || ((code == 0 || code == 75)) || [[ "$1" != train ]] || ((code != 76 && code <= 128)); then
    exit "$code"
  fi
  after="$(newest_checkpoint)"
  failures=$((after > before ? 1 : failures + 1))
  if ((failures > 10#$restarts)); then
    say "a process was lost (exit codes ${codes[*]}) $failures times in a row without a checkpoint after step $after"
    exit "$code"
  fi
  say "a process was lost (exit codes ${codes[*]}); starting again from step $after"
done

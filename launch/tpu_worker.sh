#!/usr/bin/env bash
# One process of a training on a TPU VM; launch/tpu_vm.sh calls it on every worker of a slice.
#
#   tpu_worker.sh start WORKDIR ARGUMENT ...   starts s2sjax in the background, with its log in WORKDIR/logs
#   tpu_worker.sh status WORKDIR               prints "s2sjax STATUS STEP": new, running, other (one of another workdir is
#                                              running) or how it exited; newest checkpoint
#   tpu_worker.sh signal NAME                  sends TERM (save and stop) or KILL to what was started
#   tpu_worker.sh keep ARGUMENT ...            what start leaves in the background: runs s2sjax, and keeps its exit code
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# In memory: after the machine was restarted, nothing of it is running.
place="${S2SJAX_PLACE:-/dev/shm/s2sjax}"

running() { [[ -e "$place/pid" ]] && kill -0 "$(cat "$place/pid")" 2>/dev/null; }

case "$1" in
  start)
    workdir="$2"
    shift 2
    if running; then
      echo "s2sjax is running already on $HOSTNAME"
      exit 0
    fi
    mkdir -p "$workdir/logs" "$place"
    rm -f "$place/status"
    export S2SJAX_COORDINATOR=auto # JAX finds the other workers
    # Set to nothing, it is not asked for.
    export S2SJAX_PREEMPTION_NOTICE="${S2SJAX_PREEMPTION_NOTICE-http://metadata.google.internal/computeMetadata/v1/instance/preempted}"
    # A session of its own, which a closed connection does not end. Workers are called something-w-0, something-w-1 ...
    setsid bash launch/tpu_worker.sh keep "$@" \
      >>"$workdir/logs/process-${HOSTNAME##*-}.log" 2>&1 </dev/null &
    echo $! >"$place/pid"
    echo "$workdir" >"$place/workdir"
    echo "s2sjax started on $HOSTNAME"
    ;;
  keep)
    shift
    # Whoever ends this shell means the training, which would run on unseen if this shell did not pass that on.
    program="" told="" status=0
    pass_on() {
      told=yes
      if [[ -n "$program" ]]; then kill -TERM "$program" 2>/dev/null || true; fi
    }
    trap pass_on TERM HUP USR1
    .venv/bin/s2sjax "$@" &
    program=$!
    if [[ -n "$told" ]]; then kill -TERM "$program" 2>/dev/null || true; fi # told before it was there
    while kill -0 "$program" 2>/dev/null; do wait "$program" || true; done # a signal ends the waiting, not the program
    trap '' TERM HUP USR1 # there is nobody left to tell
    wait "$program" || status=$?
    echo "$status" >"$place/status"
    ;;
  status)
    if running; then
      status=running
      if [[ "$(cat "$place/workdir")" != "$2" ]]; then status=other; fi
    elif [[ -e "$place/status" ]]; then
      status="$(cat "$place/status")"
    elif [[ -e "$place/pid" ]]; then
      status=137 # it was killed with the shell that waited for it
    else
      status=new
    fi
    newest=0
    for step in "$2"/checkpoints/*/; do
      step="$(basename "$step")"
      if [[ "$step" =~ ^[0-9]+$ ]] && ((step > newest)); then newest="$step"; fi
    done
    echo "s2sjax $status $newest"
    ;;
  signal)
    if running; then
      if [[ "$2" == KILL ]]; then
        kill -KILL -- "-$(cat "$place/pid")"
      else
        pkill "-$2" --parent "$(cat "$place/pid")" # the program, not the shell that waits for it
      fi
    fi
    ;;
  *)
    echo "tpu_worker.sh: '$1' has to be start, status, signal or keep" >&2
    exit 2
    ;;
esac

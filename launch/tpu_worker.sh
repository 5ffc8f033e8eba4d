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
source launch/common.sh
launching=(.venv/bin/python -I -m s2sjax.processes.launching)

fail() {
  echo "tpu_worker.sh: $*" >&2
  exit 2
}

# In memory: after the machine was restarted, nothing of it is running. There anybody can make a directory of this name.
place="${S2SJAX_PLACE:-/dev/shm/s2sjax}"
check_place() { [[ ! -L "$place" && -d "$place" && -O "$place" ]] || fail "$place is no directory of your own; delete it"; }
if [[ -e "$place" || -L "$place" ]]; then check_place; fi

kept() { # a file, a pattern; prints what was kept in it
  local text
  text="$(head -c 1000 "$place/$1" 2>/dev/null)" || true
  if matches "$text" "$2"; then printf '%s' "$text"; fi
}
pid="$(kept pid '^[1-9][0-9]{1,9}$')" # never 1, all of whose process group would be all processes

running() { [[ -n "$pid" ]] && kill -0 "$pid" 2>/dev/null; }

case "$1" in
  start)
    workdir="$2"
    shift 2
    if running; then
      echo "s2sjax is running already on $HOSTNAME"
      exit 0
    fi
    # Workers are called something-w-0, something-w-1 ...
    log="process-${HOSTNAME##*-}.log"
    "${launching[@]}" log "$workdir" "$log" true # can it be written?
    (umask 077 && mkdir -p "$place")
    check_place
    rm -f "$place/status"
    export S2SJAX_COORDINATOR=auto # JAX finds the other workers
    # Set to nothing, it is not asked for.
    export S2SJAX_PREEMPTION_NOTICE="${S2SJAX_PREEMPTION_NOTICE-http://metadata.google.internal/computeMetadata/v1/instance/preempted}"
    # A session of its own, which a closed connection does not end.
    setsid "${launching[@]}" log "$workdir" "$log" bash launch/tpu_worker.sh keep "$@" >/dev/null 2>&1 </dev/null &
    echo $! >"$place/pid"
    printf '%s' "$workdir" >"$place/workdir"
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
      # A dot, since a shell drops line ends that it reads last.
      if [[ "$(head -c 10000 "$place/workdir" && echo .)" != "$2." ]]; then status=other; fi
    elif [[ -e "$place/status" ]]; then
      status="$(kept status '^(0|[1-9][0-9]{0,2})$')"
      status="${status:-1}"
    elif [[ -e "$place/pid" ]]; then
      status=137 # it was killed with the shell that waited for it
    else
      status=new
    fi
    echo "s2sjax $status $("${launching[@]}" newest "$2" || echo 0)"
    ;;
  signal)
    if running; then
      if [[ "$2" == KILL ]]; then
        kill -KILL -- "-$pid"
      else
        pkill "-$2" --parent "$pid" # the program, not the shell that waits for it
      fi
    fi
    ;;
  *)
    fail "'$1' has to be start, status, signal or keep"
    ;;
esac

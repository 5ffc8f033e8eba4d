#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU slice, and goes on by itself after preemption. Needs gcloud, logged in.
# Not tried on TPUs: the commands were tested with a stand-in for gcloud that plays their part.
#
#   bash launch/tpu_vm.sh run --name=mine --zone=us-west4-a --type=v5litepod-16 --version=v2-alpha-tpuv5-lite --spot \
#     --setup='sudo apt-get install -y python3.11-venv nfs-common && sudo mkdir -p /runs && sudo mount 10.0.0.2:/runs /runs' \
#     -- train --config=configs/multi30k/modern.py --workdir=/runs/m30k --config.train.steps=9000
#   bash launch/tpu_vm.sh stop --name=mine --zone=us-west4-a      saves and stops; run then ends with code 75
#   bash launch/tpu_vm.sh delete --name=mine --zone=us-west4-a    gives the slice back
#
#   --type, --version   what to create if there is no slice of that name (gcloud compute tpus accelerator-types list, versions list)
#   --spot              create it as one that may be preempted
#   --setup=COMMAND     for every worker before the installation: mount what holds the workdir, install Python 3.11 to 3.13
#   --project=PROJECT   rather than gcloud's own
#   --dry-run           print the commands of an undisturbed training, and run none
#
# WORKDIR has to be on a disk that all workers share and that outlives the slice. run copies this checkout (without runs
# and what begins with a dot) to every worker, where paths are relative to it, installs it, starts it, and looks after it
# every minute: a slice that was preempted is created again; when a process was lost, all of them are started again. Ended
# by Ctrl-C or another signal, run leaves the training alone; typed again, it goes on looking after it.
# Logs: WORKDIR/logs/process-N.log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

patience=3 # restarts in a row without a new checkpoint
poll="${S2SJAX_POLL_SECONDS:-60}"
alone=5 # polls that workers get to end once the first of them has

say() { printf '%s tpu_vm.sh: %s\n' "$(date '+%F %T')" "$*" >&2; }
fail() {
  say "$*"
  exit 2
}

action="${1:-}"
case "$action" in
  run | stop | delete) shift ;;
  *) fail "'$action' has to be run, stop or delete; the first lines of ${BASH_SOURCE[0]} say how" ;;
esac
name="" zone="" type="" version="" project="" setup="" spot=() dry_run="" arguments=()
while (($#)); do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --version=*) version="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --setup=*) setup="${1#*=}" ;;
    --spot) spot=(--spot) ;;
    --dry-run) dry_run=yes ;;
    --)
      shift
      arguments=("$@")
      break
      ;;
    *) fail "'$1' is not an option; what goes to s2sjax comes after --" ;;
  esac
  shift
done
[[ -n "$name" && -n "$zone" ]] || fail "--name and --zone are needed: which slice"
for word in "$name" "$zone" "$type" "$version" "$project"; do # none may be an option of gcloud's, or a file of scp's
  matches "$word" '^([A-Za-z0-9][A-Za-z0-9._:-]*)?$' ||
    fail "'$word' is no name of a slice, a zone, a type, a version or a project"
done
matches "$poll" '^[0-9]{1,6}(\.[0-9]{1,6})?$' || fail "S2SJAX_POLL_SECONDS is '$poll', expected a number of seconds"
where=("--zone=$zone" ${project:+"--project=$project"})

call() { # runs a command, or prints it as it would be typed
  local word shown=()
  if [[ -z "$dry_run" ]]; then
    "$@"
    return
  fi
  for word in "$@"; do
    if [[ "$word" =~ ^[A-Za-z0-9_./:=,+-]+$ ]]; then shown+=("$word"); else shown+=("${word@Q}"); fi
  done
  echo "${shown[*]}"
}
tpu() { call gcloud compute tpus tpu-vm "$1" "${@:2}" "${where[@]}"; }
on_workers() { tpu ssh "$name" --worker=all --command="$1"; }

case "$action" in
  stop)
    on_workers "bash s2sjax/launch/tpu_worker.sh signal TERM"
    exit 0
    ;;
  delete)
    tpu delete "$name" --quiet
    exit 0
    ;;
  *) ;;
esac

find_workdir ${arguments[@]+"${arguments[@]}"}
[[ "$workdir" == /* ]] || fail "after -- belongs: train --config=... --workdir=/SHARED/DIRECTORY; --workdir is '$workdir'"
start="bash s2sjax/launch/tpu_worker.sh start$(printf ' %q' "$workdir" "${arguments[@]}")"
status="[ ! -e s2sjax/.venv/stamp ] && echo s2sjax new 0 || bash s2sjax/launch/tpu_worker.sh status $(printf '%q' "$workdir")"

archive="$(mktemp -d)/s2sjax.tar.gz"
trap 'rm -rf "$(dirname "$archive")"' EXIT

state() { tpu describe "$name" '--format=value(state)'; }
create() {
  [[ -n "$type" && -n "$version" ]] || fail "there is no slice '$name' in $zone; to create one, give --type and --version"
  say "creating $name: $type"
  tpu create "$name" "--accelerator-type=$type" "--version=$version" ${spot[@]+"${spot[@]}"}
}
install() {
  call tar '--exclude=./.*' --exclude=./runs --exclude=__pycache__ -czf "$archive" . &&
    tpu scp "$archive" "$name:s2sjax.tar.gz" --worker=all &&
    on_workers "mkdir -p s2sjax && tar -xzf s2sjax.tar.gz -C s2sjax" &&
    { [[ -z "$setup" ]] || on_workers "$setup"; } &&
    on_workers "S2SJAX_ACCELERATOR=tpu bash s2sjax/launch/setup.sh"
}

if [[ -n "$dry_run" ]]; then
  state
  create
  install
  on_workers "$start"
  state
  on_workers "$status"
  exit 0
fi

seen="" # whether this slice was there before, so that it can be had again
have_slice() {
  local now
  while true; do
    now="$(state 2>/dev/null || true)"
    case "$now" in
      READY)
        seen=yes
        return
        ;;
      "") create || { [[ -n "$seen" ]] && sleep "$poll"; } ;;
      PREEMPTED | TERMINATED | STOPPED)
        say "$name is $now; deleting it, to create it again"
        seen=yes
        tpu delete "$name" --quiet || sleep "$poll"
        ;;
      *)
        say "$name is $now; waiting"
        sleep "$poll"
        ;;
    esac
  done
}

failures=0 failed_at=""
failed() { # a status, what happened; ends the script once it happened too often without a new checkpoint
  if [[ "$step" == "$failed_at" ]]; then failures=$((failures + 1)); else failures=1; fi
  failed_at="$step"
  if ((failures > patience)); then
    say "$2, $failures times in a row at step $step; see $workdir/logs"
    exit "$1"
  fi
  say "$2; failure $failures at step $step, of at most $patience; starting again"
}

step=0 ended=0 begun=""
while true; do
  have_slice
  # A line a worker: its status, newest checkpoint.
  report="$(on_workers "$status" 2>/dev/null |
    LC_ALL=C sed -nE 's/^s2sjax ((new|running|other|0|[1-9][0-9]{0,2}) [0-9]{1,18})[[:space:]]*$/\1/p' || true)"
  if [[ -z "$report" ]]; then
    say "no worker of $name answers; waiting"
    sleep "$poll"
    continue
  fi
  step="$(cut -d' ' -f2 <<<"$report" | sort -n | tail -n 1)"
  codes=" $(cut -d' ' -f1 <<<"$report" | sort -u | tr '\n' ' ')"
  [[ "$codes" != *" other "* ]] || fail "$name is busy with a training in another workdir; stop it first"
  if [[ "$codes" == *" running "* ]]; then
    begun=yes
    if [[ "$codes" != " running " ]] && ((++ended > alone)); then
      say "some workers have ended:$codes; ending the others"
      on_workers "bash s2sjax/launch/tpu_worker.sh signal KILL" || true
    fi
    sleep "$poll"
    continue
  fi
  ended=0
  worst="$(cut -d' ' -f1 <<<"$report" | sort -n | tail -n 1)"
  if [[ -z "$begun" || "$codes" == *" new "* ]]; then # what ended before this script began says nothing
    begun=yes
    say "installing and starting on all workers"
    { install && on_workers "$start"; } || failed 1 "the installation failed"
  elif ((worst == 0)); then
    say "done"
    exit 0
  elif ((worst == 75)); then
    # A machine that is being taken away has its processes save; give its state the time to say so.
    sleep "$poll"
    if [[ "$(state)" == READY ]]; then
      say "saved and stopped at step $step"
      exit 75
    fi
  elif ((worst == 76 || worst > 128)); then
    failed "$worst" "a process was lost (status $worst)"
    on_workers "$start" || true
  else
    say "failed with status $worst; see $workdir/logs"
    exit "$worst"
  fi
done

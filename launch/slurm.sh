#!/usr/bin/env bash
# Runs s2sjax on a Slurm cluster, and goes on by itself after preemption, the time limit, the loss of a node or of a process.
#
#   sbatch launch/slurm.sh train --config=configs/multi30k/modern.py --workdir=runs/m30k --config.train.steps=9000
#   sbatch --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=8 --time=24:00:00 launch/slurm.sh train ...
#   sbatch --partition=preemptible --signal=TERM@300 launch/slurm.sh train ...       (or B:USR1@300)
#
# Submit from the directory that has .venv (bash launch/setup.sh makes it), on a file system that all nodes share. Options
# before the script are sbatch's and win over the #SBATCH lines; what comes after it goes to s2sjax. Tasks are processes of
# one training: one a GPU, or one a node that takes all of its GPUs.
#
# Each process writes WORKDIR/logs/process-N.log; what became of the job stands in slurm-JOBID.out.
#   scancel JOBID                  saves and ends for good (within Slurm's KillWait, 30 s unless the cluster says otherwise)
#   scancel --signal=TERM JOBID    saves, and starts again when the queue lets it
# Saving has to fit into the partition's GraceTime, and into the seconds of --signal before the time limit.
#
#SBATCH --job-name=s2sjax
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@180
set -euo pipefail

patience=3 # restarts in a row without a new checkpoint

say() { printf '%s slurm.sh: %s\n' "$(date '+%F %T')" "$*"; }
fail() {
  say "$*" >&2
  exit 2
}

[[ -n "${SLURM_JOB_ID:-}" ]] || fail "this is a script for sbatch: sbatch launch/slurm.sh train --config=... --workdir=..."
program="$PWD/.venv/bin/s2sjax"
[[ -x "$program" && -f "$PWD/launch/common.sh" ]] || fail "there is no $program; make it with bash launch/setup.sh, and call sbatch from that directory"

# Slurm runs a copy of this script, which stands elsewhere.
# shellcheck source=launch/common.sh
source "$PWD/launch/common.sh"

find_workdir "$@"
[[ -n "$workdir" ]] || fail "--workdir is missing; logs and checkpoints go there: sbatch launch/slurm.sh train --workdir=..."
launching=("$PWD/.venv/bin/python" -I -m s2sjax.processes.launching)

number() { # the name of a variable of Slurm's, what it is if it is not set
  local value="${!1:-$2}"
  matches "$value" '^(0|[1-9][0-9]{0,8})$' || fail "$1 is '$value', expected a number"
  echo "$value"
}
nodes="$(number SLURM_JOB_NUM_NODES 1)"
gpus="$(number SLURM_GPUS_ON_NODE 0)"
restart="$(number SLURM_RESTART_COUNT 0)"
processes="$(number SLURM_NTASKS "$nodes")" # unless sbatch was told, it does not say: one a node
# srun takes this from the environment only: it does not inherit sbatch's --cpus-per-task.
if [[ -n "${SLURM_CPUS_PER_TASK:-}" ]]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi
# JAX gives each Slurm task the one GPU of its number; a task that has a node to itself takes them all.
if ((processes == nodes && gpus > 1)); then
  JAX_LOCAL_DEVICE_IDS="$(seq -s, 0 $((gpus - 1)))"
  export JAX_LOCAL_DEVICE_IDS
fi

newest_checkpoint() { "${launching[@]}" newest "$workdir"; } # its step, 0 if there is none

step="$(newest_checkpoint)"
say "start $((restart + 1)) of job $SLURM_JOB_ID: $processes processes on $SLURM_JOB_NODELIST, from step $step;" \
  "logs: $workdir/logs/process-*.log"

# This shell has to outlive the tasks. Slurm signals them when it takes the job away, and may signal this shell with them,
# so SIGTERM is not passed on. The others come to this shell alone (--signal=B:USR1@300), and go to the tasks as SIGUSR1,
# which has them save and stop too: srun passes that on, while SIGTERM and SIGHUP have it kill them.
srun="" told="" status=0
pass_on() { # the signal's name
  say "told to stop by $1"
  told=yes
  if [[ -n "$srun" ]]; then kill -USR1 "$srun" 2>/dev/null || true; fi
}
trap 'say "told to stop"' TERM
for name in HUP INT USR1; do
  # shellcheck disable=SC2064 # the name is that of now
  trap "pass_on $name" "$name"
done

# Processes see to each other's end; should one be left all the same, it has five minutes.
# shellcheck disable=SC2016 # each task has a number of its own
srun --ntasks="$processes" --kill-on-bad-exit=0 --wait=300 \
  bash -c 'exec "$0" -I -m s2sjax.processes.launching log "$1" "process-$SLURM_PROCID.log" "${@:2}"' \
  "${launching[0]}" "$workdir" "$program" "$@" &
started=$!
# Until it is srun: a child that still is this shell, on its way to be srun, loses signals that this shell has a trap for.
sleep 1 || true # what ends all processes of the job ends this one too
srun="$started"
if [[ -n "$told" ]]; then kill -USR1 "$srun" 2>/dev/null || true; fi # told before it was there
while kill -0 "$srun" 2>/dev/null; do wait "$srun" || true; done # a signal ends the waiting, not srun
trap '' TERM HUP INT USR1 # there is nobody left to tell
wait "$srun" || status=$?

if ((status == 0)); then
  "${launching[@]}" forget "$workdir"
  say "done"
  exit 0
elif ((status == 75)); then
  why="saved and stopped at step $(newest_checkpoint || echo unknown)"
elif ((status == 76 || status > 128)); then
  # How often in a row this job has failed with that newest checkpoint.
  lost="$("${launching[@]}" lost "$workdir" "$SLURM_JOB_ID")" || exit "$status"
  read -r count step <<<"$lost"
  if ((count > patience)); then
    say "failed with status $status $count times in a row without getting beyond step $step; see $workdir/logs"
    exit "$status"
  fi
  why="a process was lost (status $status); failure $count at step $step, of at most $patience"
else
  say "failed with status $status; see $workdir/logs"
  exit "$status"
fi

# Who cancels a job stops it for good. A job that is preempted or near its time limit is still running.
for _ in {1..30}; do
  state="$(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID" || echo unknown)"
  [[ "$state" == SIGNALING ]] || break # a signal of Slurm's is on its way, the one that ended the run perhaps
  sleep 1
done
if [[ "$state" != RUNNING ]]; then
  say "$why; not starting again, since the job is $state"
  exit "$status"
fi
say "$why; starting again"
scontrol requeue "$SLURM_JOB_ID" || exit "$status"

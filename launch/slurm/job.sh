# What train.sbatch and sweep.sbatch share: `run_job ARGUMENTS…` starts node.sh on every node (and that launch/train.py, or the
# script that MATL_SCRIPT names) and ends the job with the right exit code. A request to stop reaches the run as a file, because
# launchers die of a signal before their ranks get it.

EXIT_STOPPED=75 # how launch/train.py ends when it was asked to stop

fail() {
  echo "${SLURM_JOB_NAME:-train.sbatch}: error: $*" >&2
  exit 2
}

read_site() { # the user's settings; such scripts often read variables that are not set
  if [[ -f launch/slurm/site.sh ]]; then
    set +u
    source launch/slurm/site.sh
    set -u
  fi
}

ask_to_stop() { # $1: the signal
  echo "job ${SLURM_JOB_ID}: $1, asking the run to stop" >&2
  echo "$1" >"$MATL_STOP_FILE"
}

run_job() {
  [[ -n "${SLURM_JOB_ID:-}" ]] || fail "submit this script: sbatch --nodes=N launch/slurm/train.sbatch --config FILE."
  if ! command -v scontrol >/dev/null; then
    read_site
  fi
  command -v scontrol >/dev/null || fail "scontrol is not in the PATH of node $HOSTNAME; add Slurm's bin folder in launch/slurm/site.sh."
  # the last task of an array has the array's number as its job id, and scontrol takes that number to mean all tasks
  local hosts job=$SLURM_JOB_ID
  if [[ -n "${SLURM_ARRAY_JOB_ID:-}" ]]; then
    job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
  fi
  hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || fail "scontrol cannot tell the nodes of job $SLURM_JOB_ID."
  [[ "${SLURM_NTASKS:-1}" == "$SLURM_JOB_NUM_NODES" ]] ||
    fail "one task per node should be asked for: --nodes=N --ntasks-per-node=1. Got $SLURM_NTASKS tasks on $SLURM_JOB_NUM_NODES nodes."
  export MASTER_HOST=${hosts%%$'\n'*}
  export MASTER_JOB_PORT=$((20000 + SLURM_JOB_ID % 10000)) # a second job on the same nodes gets another one
  export MATL_STOP_FILE=$PWD/.matl-stop-$SLURM_JOB_ID
  export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # since Slurm 22.05 srun does not inherit it from the job
  rm -f "$MATL_STOP_FILE" "$MATL_STOP_FILE.stopped"

  local code srun_pid
  trap 'ask_to_stop SIGUSR2' USR2
  trap 'ask_to_stop SIGTERM' TERM
  srun --kill-on-bad-exit=1 launch/slurm/node.sh "$@" &
  srun_pid=$!
  # what a stopped run still does (the copy to MLflow, the exit of every process) can outlast the time limit, so the job is put
  # back as soon as the run says that its checkpoint is complete
  while kill -0 "$srun_pid" 2>/dev/null; do
    try_to_requeue "$job"
    sleep 1 &
    wait $! # a trap ends it at once
  done
  wait "$srun_pid"
  code=$?
  for _ in {1..30}; do # the controller may be busy
    try_to_requeue "$job" && break
    sleep 1
  done
  if [[ -e "$MATL_STOP_FILE.stopped" ]]; then
    code=$EXIT_STOPPED
  fi
  rm -f "$MATL_STOP_FILE" "$MATL_STOP_FILE.stopped"
  echo "job $SLURM_JOB_ID: the run ended with exit code $code" >&2
  if [[ $REQUEUED == true ]]; then # an exit code could be taken for that of the job's next start
    trap - TERM
    kill -TERM $$
  fi
  exit "$code"
}

REQUEUED=false # whether this start has put its job back into the queue
ASKED=false    # whether it has asked for that: Slurm's TERM, which follows, can end scontrol before it says that it was done

# Puts the job of a stopped run back into the queue, unless it is there or was cancelled. Returns 1 if it has to be tried again.
try_to_requeue() { # $1: the job
  local about restarts
  [[ $REQUEUED == false && -e "$MATL_STOP_FILE.stopped" ]] || return 0
  about=$(scontrol show job "$1" --oneliner) || return 1
  restarts=$(sed -n 's/.* Restarts=\([0-9]*\) .*/\1/p' <<<"$about")
  # preemption, a lost node and the user's `scontrol requeue` count as a restart already
  if ((${restarts:-0} != ${SLURM_RESTART_COUNT:-0})); then
    [[ $ASKED == false ]] || note_requeue
    return 0
  fi
  # scancel takes a job out of RUNNING. The time limit does too, and ends the run at once, but Slurm takes the job back while this
  # script still runs (KillWait): a checkpoint may have become complete in the last moment. A preempted job that ends by itself is RUNNING, and Slurm would count it as failed.
  [[ $about == *" JobState=RUNNING "* || $about == *" Reason=TimeLimit "* ]] || return 0
  ASKED=true
  scontrol requeue "$1" || return 1
  note_requeue
}

note_requeue() {
  REQUEUED=true
  echo "job $SLURM_JOB_ID: requeued, with a complete checkpoint" >&2
}

#!/bin/bash
# srun starts this once on every node of a job: it runs `accelerate launch` for the processes of this node. site.sh may set
# RUN_IN to the command that runs another one in a container (RUN_IN="apptainer exec --nv image.sif").
set -uo pipefail
trap 'echo SIGTERM >"$MATL_STOP_FILE"' TERM # before site.sh, which may be slow
source launch/slurm/job.sh
read_site
export PATH="$PWD/.venv/bin:$PATH"

gpus=${SLURM_GPUS_ON_NODE:-0}
per_node=${PROCESSES_PER_NODE:-$((gpus > 0 ? gpus : 1))}
if ((gpus == 0)); then
  export ACCELERATE_USE_CPU=true
fi
if [[ -n "${MATL_SCRIPT:-}" ]] || ((per_node * SLURM_JOB_NUM_NODES == 1)); then # a sweep starts its processes itself
  launcher=(python)
else
  launcher=(accelerate launch --config_file launch/accelerate/multi_node.yaml
    --num_machines "$SLURM_JOB_NUM_NODES" --num_processes $((per_node * SLURM_JOB_NUM_NODES)) --machine_rank "$SLURM_NODEID"
    --main_process_ip "$MASTER_HOST" --main_process_port "$MASTER_JOB_PORT" --max_restarts "${MAX_RESTARTS:-0}")
fi

if [[ -e "$MATL_STOP_FILE" ]]; then # asked to stop before training began: there is nothing to save
  touch "$MATL_STOP_FILE.stopped"
  exit "$EXIT_STOPPED"
fi

# Slurm sends TERM to all processes of the job. The launcher would kill its ranks 30 seconds later, so it starts with TERM
# ignored. Its children inherit that, but the ranks install handlers of their own.
export PET_SIGNALS_TO_HANDLE=SIGQUIT # an option of torchrun that accelerate does not offer
(
  trap '' TERM USR2
  exec ${RUN_IN:-} "${launcher[@]}" "${MATL_SCRIPT:-launch/train.py}" "$@" # not quoted: it is a command with options
) &
pid=$!
while wait "$pid"; code=$?; kill -0 "$pid" 2>/dev/null; do :; done
wait "$pid"
code=$?
exit "$code"

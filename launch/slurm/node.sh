#!/bin/bash
# Started by srun once on every node of a job: `accelerate launch` for the processes of this node. site.sh may set RUN_IN to what
# runs a command in a container (RUN_IN="apptainer exec --nv image.sif").
set -uo pipefail
trap 'echo SIGTERM >"$MATL_STOP_FILE"' TERM # before site.sh, which may take its time
source launch/slurm/job.sh
read_site
export PATH="$PWD/.venv/bin:$PATH"

gpus=${SLURM_GPUS_ON_NODE:-0}
per_node=${PROCESSES_PER_NODE:-$((gpus > 0 ? gpus : 1))}
if ((gpus == 0)); then
  export ACCELERATE_USE_CPU=true
fi
if ((per_node * SLURM_JOB_NUM_NODES == 1)); then
  launcher=(python)
else
  launcher=(accelerate launch --config_file launch/accelerate/multi_node.yaml
    --num_machines "$SLURM_JOB_NUM_NODES" --num_processes $((per_node * SLURM_JOB_NUM_NODES)) --machine_rank "$SLURM_NODEID"
    --main_process_ip "$MASTER_HOST" --main_process_port "$MASTER_JOB_PORT" --max_restarts "${MAX_RESTARTS:-0}")
fi

if [[ -e "$MATL_STOP_FILE" ]]; then # asked to stop before anything began: nothing has to be saved
  touch "$MATL_STOP_FILE.stopped"
  exit 75
fi

# Slurm's TERM reaches all processes of the job. A launcher would end its ranks after 30 seconds, so it has to ignore it;
# what is ignored when a process starts stays ignored unless it asks for the signal, as the ranks do.
export PET_SIGNALS_TO_HANDLE=SIGQUIT # of torchrun's own options, which accelerate does not know
(
  trap '' TERM USR2
  exec ${RUN_IN:-} "${launcher[@]}" launch/train.py "$@" # not quoted: a command with its options
) &
pid=$!
while wait "$pid"; code=$?; kill -0 "$pid" 2>/dev/null; do :; done
wait "$pid"
code=$?
exit "$code"

#!/bin/bash
# Starts one rank. Run by srun.
trap '' USR1 USR2 # until the trainer has installed its handlers
# shellcheck source=slurm/lib.sh
. slurm/lib.sh
load_site
set -euo pipefail
choose_interface "$(node_address "$SLURMD_NODENAME")"
export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_STEP_NUM_TASKS LOCAL_RANK=$SLURM_LOCALID
export MASTER_ADDR=${RENDEZVOUS%:*} MASTER_PORT=${RENDEZVOUS##*:}
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    choose_threads "$SLURM_CPUS_PER_TASK" 1
else
    choose_threads "$SLURM_CPUS_ON_NODE" "$(per_node "$SLURM_STEP_TASKS_PER_NODE" | sed -n "$((SLURM_NODEID + 1))p")"
fi
exec "${prefix[@]}" python train_ddp.py "$@"

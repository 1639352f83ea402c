#!/bin/bash
# Starts one rank. Run by srun.
set -euo pipefail
trap '' USR1 # until the trainer has installed its handlers
# shellcheck source=slurm/site.env
. slurm/site.env
# shellcheck source=slurm/lib.sh
. slurm/lib.sh
setup
choose_interface "$(node_address "$SLURMD_NODENAME")"
export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
exec "${CONTAINER[@]}" python train_ddp.py "$@"

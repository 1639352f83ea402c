#!/bin/bash
# Starts torchrun on one node. Run by srun.
set -euo pipefail
trap '' USR1 # it would kill torchrun; the ranks inherit this and then install their own handlers
# shellcheck source=slurm/site.env
. slurm/site.env
# shellcheck source=slurm/lib.sh
. slurm/lib.sh
setup
address=$(node_address "$SLURMD_NODENAME")
choose_interface "$address"
threads=$((SLURM_CPUS_ON_NODE / PROCESSES_PER_NODE))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 1 ? threads : 1))}
exec "${CONTAINER[@]}" torchrun --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$PROCESSES_PER_NODE" --local-addr="$address" \
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID.$MASTER_PORT" --rdzv-endpoint="$MASTER_ADDR:$MASTER_PORT" \
    --rdzv-conf="is_host=$([ "$SLURM_PROCID" = 0 ] && echo true || echo false)" train_ddp.py "$@"

#!/bin/bash
# Starts torchrun on one node. Run by srun.
trap '' USR1 USR2 # they would kill torchrun; the ranks inherit this and then install their own handlers
# shellcheck source=slurm/lib.sh
. slurm/lib.sh
load_site
set -euo pipefail
read -ra processes <<<"$PROCESSES"
own=${processes[SLURM_NODEID]}
address=$(node_address "$SLURMD_NODENAME")
choose_interface "$address"
choose_threads "$SLURM_CPUS_ON_NODE" "$own"
exec "${prefix[@]}" torchrun --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$own" --local-addr="$address" \
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID.${RENDEZVOUS##*:}" --rdzv-endpoint="$RENDEZVOUS" \
    --rdzv-conf="is_host=$([ "$SLURM_NODEID" = 0 ] && echo true || echo false)" train_ddp.py "$@"

#!/usr/bin/env bash
# All that is to be known about speed on a machine with GPUs: one command, one folder of results.
#
#     benchmarks/gpu.sh [SHARDS] [RESULTS]     shards/cifar100 and benchmarks/results/DEVICE, if not told
#     REHEARSAL=1 benchmarks/gpu.sh ...        the same commands with a small network and few steps, on any machine
#     PYTHON=python3 benchmarks/gpu.sh ...     another environment than .venv
#
# Each result is NAME.txt, which begins with its command, and NAME.json. What fails is told at the end, and the others
# are measured anyway. About twenty minutes on one H100-class GPU, by guess: it has not been run on one yet.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
PYTHON=${PYTHON:-.venv/bin/python}
SHARDS=${1:-shards/cifar100}
REHEARSAL=${REHEARSAL:-}

device=$("$PYTHON" - <<'END'
import re
import torch
from benchmarks.timing import processor
name = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
print(re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower())
END
) || exit
gpus=$("$PYTHON" -c "import torch; print(torch.cuda.device_count())")
if [ "$gpus" = 0 ] && [ -z "$REHEARSAL" ]; then
    echo "no GPU here; REHEARSAL=1 tries the same commands on the CPU" >&2
    exit 2
fi
RESULTS=${2:-benchmarks/results/$device}
mkdir -p "$RESULTS" || exit
failed=()

# What a rehearsal makes small.
if [ -n "$REHEARSAL" ]; then
    config=tests/tiny.yaml precision=fp32 sides=(32)
    quick=(--batch-size 48 --rounds 1) steps=(--steps 3) seconds=(--seconds 0.3) epochs=2 more=(--train.max_steps 3)
else
    config=configs/seed.yaml precision=bf16 sides=(32 56)
    quick=(--rounds 5) steps=(--steps 100) seconds=(--seconds 3) epochs=4 more=()
fi

measure() { # NAME COMMAND...
    local name=$1
    shift
    echo "$(date -u +%FT%TZ) $name: $*"
    { echo "\$ $*" && "$@"; } >"$RESULTS/$name.txt" 2>&1 || {
        failed+=("$name")
        tail -n 3 "$RESULTS/$name.txt"
    }
}

benchmark() { # NAME MODULE OPTIONS...
    local name=$1 module=$2
    shift 2
    measure "$name" "$PYTHON" -m "benchmarks.$module" --shards "$SHARDS" --config "$config" "$@" --json "$RESULTS/$name.json"
}

step() { # NAME OPTIONS...: of the trainer
    local name=$1
    shift
    benchmark "step-$name" step "${quick[@]}" "${steps[@]}" "${seconds[@]}" "$@"
}

peers=$("$PYTHON" - <<'END'
from importlib.util import find_spec
from benchmarks.peers.roster import PEERS
print(",".join(name for name, peer in PEERS.items() if not peer.package or find_spec(peer.package)))
END
) || exit
echo "$device, $gpus GPUs; peers: $peers"

for side in "${sides[@]}"; do
    at=(--resolution "$side" --set "train.precision=$precision")
    benchmark "loader-$side" loader "${quick[@]}" "${seconds[@]}" "${at[@]}"
    step "$side" "${at[@]}"
    step "$side-cache" "${at[@]}" --set data.cache=device
    step "$side-contiguous" "${at[@]}" --set data.cache=device --set train.channels_last=false
    step "$side-fp32" --resolution "$side" --set train.precision=fp32 --set data.cache=device
    if [ -z "$REHEARSAL" ]; then # it takes a CPU minutes to compile
        step "$side-compiled" "${at[@]}" --set data.cache=device --set train.compile=true
    fi
    benchmark "peers-$side" peers "${quick[@]}" --peers "$peers" --precision "$precision" --resolution "$side" \
        --picture "$RESULTS/peers-$side.png" ${REHEARSAL:+--steps 3}
done
benchmark peers-regnetx_002 peers "${quick[@]}" --peers "$peers" --precision "$precision" --network regnetx_002 \
    --picture "$RESULTS/peers-regnetx_002.png" ${REHEARSAL:+--steps 3}
benchmark scaling scaling "${quick[@]}" "${seconds[@]}" --precision "$precision" --picture "$RESULTS/scaling.png" \
    ${REHEARSAL:+--processes 1,2 --largest-message 1}
benchmark checkpoint checkpoint "${quick[@]}" "${seconds[@]}"

# Whole epochs as users train them, from the launch on.
runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT
for side in "${sides[@]}"; do
    measure "epochs-$side" "$PYTHON" train_ddp.py --config "$config" --runs_dir "$runs" --name "epochs-$side" \
        --data.shards "$SHARDS" --data.resolution "$side" --data.cache device --train.precision "$precision" \
        --train.epochs "$epochs" --tracking.wandb disabled --tracking.report false "${more[@]}"
    if [ -e "$runs/epochs-$side/metrics.jsonl" ]; then
        grep '"kind": "epoch"' "$runs/epochs-$side/metrics.jsonl" >"$RESULTS/epochs-$side.jsonl"
    fi
done

if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]} (see $RESULTS/)" >&2
    exit 1
fi
echo "all measured; results: $RESULTS/"

#!/usr/bin/env bash
# Runs all benchmarks of speed and accuracy on a machine with GPUs and collects the results in one directory.
#
#     benchmarks/gpu.sh [SHARDS] [RESULTS]     default: shards/cifar100, benchmarks/results/DEVICE
#     ONLY='accuracy-*' benchmarks/gpu.sh ...  only the benchmarks whose names match this pattern
#     REHEARSAL=1 benchmarks/gpu.sh ...        small sizes on a CPU, into a temporary directory
#     PYTHON=python3 benchmarks/gpu.sh ...     uses this interpreter instead of .venv/bin/python
#     BASELINE_LOG=FILE benchmarks/gpu.sh ...  also compares baseline.yaml with the original program's log
#
# Each benchmark writes NAME.txt, whose first line is the command, and NAME.json. Short benchmarks run first. Existing
# results are kept, so an interrupted run resumes. Failures are listed at the end and do not stop the other benchmarks.
set -uo pipefail
SHARDS=$(realpath "${1:-$(dirname "$0")/../shards/cifar100}")
RESULTS=${2:+$(realpath -m "$2")}
REHEARSAL=${REHEARSAL:-}
case ${PYTHON:=.venv/bin/python} in */*) [ "$PYTHON" = .venv/bin/python ] || PYTHON=$(realpath -s "$PYTHON") ;; esac
cd "$(dirname "$0")/.." || exit

python_eval() { "$PYTHON" -c "$1"; }
gpus=$(python_eval "import torch; print(torch.cuda.device_count())") || exit
if [ -n "$REHEARSAL" ]; then
    gpus=0
elif [ "$gpus" = 0 ]; then
    echo "no GPU found; REHEARSAL=1 tries the same commands on the CPU" >&2
    exit 2
fi
name="import re, torch; from benchmarks.timing import processor
name = torch.cuda.get_device_name() if $gpus else processor()
print(re.sub('[^a-z0-9]+', '-', name.lower()).strip('-'))"
device=$(python_eval "$name") || exit
peers=$(python_eval "from importlib.util import find_spec; from benchmarks.peers.roster import PEERS
print(','.join(name for name, peer in PEERS.items() if not peer.package or find_spec(peer.package)))") || exit

# Batches of 504 split evenly over 1, 2, 3, 4, 6 or 8 processes and are close to the baseline's batches of 500.
if [ -n "$REHEARSAL" ]; then
    RESULTS=${RESULTS:-$(mktemp -d)}
    runs_dir=$RESULTS/runs
    config=tests/tiny.yaml precision=fp32 sides=(32) counts=1,2 batch=48
    rounds=(--rounds 1) steps=(--steps 3) seconds=(--seconds 0.3) short_epochs=(--steps 3 --epochs 2 --workers 1)
    largest_message=(--largest-message 1) epochs=(--train.epochs 2 --train.max_steps_per_epoch 3)
    device_flag=(--device cpu) set_device=(--set train.device=cpu) train_device=(--train.device cpu) processes=2
    seeds=2 short_run=(--train.epochs 2 --train.max_steps_per_epoch 2 --train.batch_size 48 --schedule.warmup_epochs 0)
    short_run+=(--data.resolution 32 --data.progressive_resizing_epochs 0 --train.device cpu)
else
    RESULTS=${RESULTS:-benchmarks/results/$device-x$gpus}
    runs_dir=runs/$device-x$gpus
    config=configs/baseline.yaml precision=bf16 sides=(32 56) counts='' batch=504
    rounds=(--rounds 5) steps=(--steps 90) seconds=(--seconds 3) short_epochs=(--rounds 3)
    largest_message=(--largest-message 256) epochs=(--train.epochs 4)
    device_flag=(--device cuda) set_device=(--set train.device=cuda) train_device=(--train.device cuda) processes=$gpus
    seeds=3 short_run=()
fi
mkdir -p "$RESULTS" || exit
echo "$device, $gpus GPUs; trainers: $peers; results: $RESULTS"
failed=() matched=

# shellcheck disable=SC2053  # ONLY is a pattern
selected() { [[ $1 == ${ONLY:-*} ]]; } # NAME

measure() { # NAME COMMAND...
    local name=$1 output=$RESULTS/$1.txt
    shift
    if ! selected "$name"; then return; fi
    matched=yes
    if [ -e "$output" ]; then return; fi
    echo "$(date -u +%FT%TZ) $name: $*"
    if { echo "\$ $*" && "$@"; } >"$output.part" 2>&1; then
        mv "$output.part" "$output"
    else
        failed+=("$name")
        tail -n 3 "$output.part"
    fi
}

benchmark() { # NAME MODULE OPTIONS...
    local name=$1 module=$2
    shift 2
    measure "$name" "$PYTHON" -m "benchmarks.$module" --shards "$SHARDS" --config "$config" --batch-size "$batch" \
        --json "$RESULTS/$name.json" "$@"
}

step() { # NAME OPTIONS...: benchmarks.step in one process
    local name=$1
    shift
    benchmark "step-$name" step "${rounds[@]}" "${steps[@]}" "${seconds[@]}" "${set_device[@]}" "$@"
}

distributed() { # NAME FILE-OR-MODULE OPTIONS...: runs a program on all processes under torchrun
    local name=$1
    shift
    measure "$name" "$PYTHON" -m torch.distributed.run --rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:0 \
        --local-addr=127.0.0.1 --nproc-per-node="$processes" "$@"
}

for side in "${sides[@]}"; do
    at=(--resolution "$side" --set "train.precision=$precision")
    step "$side" "${at[@]}"
    step "$side-cache" "${at[@]}" --set data.cache=device
    step "$side-no-cuda-graphs" "${at[@]}" --set data.cache=device --set train.cuda_graphs=false
    step "$side-channels-first" "${at[@]}" --set data.cache=device --set train.channels_last=false
    step "$side-fp32" --resolution "$side" --set train.precision=fp32 --set data.cache=device
    if [ -z "$REHEARSAL" ]; then # compilation takes minutes on a CPU
        step "$side-compiled" "${at[@]}" --set data.cache=device --set train.compile=true
    fi
    # Complete epochs of a normal training run, measured from its launch.
    runs=$(mktemp -d)
    distributed "epochs-$side" train_ddp.py --config "$config" --runs_dir "$runs" --name run --data.shards "$SHARDS" \
        --data.resolution "$side" --data.cache device --train.precision "$precision" --train.batch_size "$batch" \
        "${train_device[@]}" "${epochs[@]}" --schedule.warmup_epochs 0 --tracking.wandb disabled --tracking.report false
    if [ -e "$runs/run/metrics.jsonl" ]; then
        grep '"kind": "epoch"' "$runs/run/metrics.jsonl" >"$RESULTS/epochs-$side.jsonl"
    fi
    rm -rf "$runs"
done
if [ "$processes" -gt 1 ]; then
    side=${sides[0]}
    distributed "step-$side-distributed" -m benchmarks.step --shards "$SHARDS" --config "$config" \
        --batch-size "$batch" --json "$RESULTS/step-$side-distributed.json" "${rounds[@]}" "${steps[@]}" \
        "${seconds[@]}" "${set_device[@]}" --resolution "$side" --set "train.precision=$precision" --set data.cache=device
fi
benchmark scaling scaling "${rounds[@]}" "${seconds[@]}" "${largest_message[@]}" "${device_flag[@]}" \
    --precision "$precision" ${counts:+--processes "$counts"} --figure "$RESULTS/scaling.png"
benchmark checkpoint checkpoint "${rounds[@]}" "${seconds[@]}" "${set_device[@]}" --set "train.precision=$precision"
for side in "${sides[@]}"; do
    benchmark "loader-$side" loader "${rounds[@]}" "${seconds[@]}" "${set_device[@]}" --resolution "$side" \
        --set "train.precision=$precision"
done
for side in "${sides[@]}"; do
    benchmark "peers-$side" peers "${rounds[@]}" "${short_epochs[@]}" "${device_flag[@]}" --peers "$peers" \
        --precision "$precision" --resolution "$side" --figure "$RESULTS/peers-$side.png"
done
if [[ ,$peers, == *,timm_loop,* ]]; then # regnetx_002 is timm's network
    benchmark peers-regnetx_002 peers "${rounds[@]}" "${short_epochs[@]}" "${device_flag[@]}" --peers "$peers" \
        --precision "$precision" --network regnetx_002 --figure "$RESULTS/peers-regnetx_002.png"
fi

# Interrupted runs resume; later calls with more seeds reuse finished runs.
accuracy() { # CONFIG SEEDS [NAME OPTIONS...]: complete training runs on all processes
    local config=$1 seeds=$2 name=${3:-$1}
    shift 2
    measure "accuracy-$name-$seeds" "$PYTHON" -m benchmarks.accuracy --config "configs/$config.yaml" --seeds "$seeds" \
        --target 63.22 --processes "$processes" --json "$RESULTS/accuracy-$name-$seeds.json" -- --runs_dir "$runs_dir" \
        --data.shards "$SHARDS" --data.cache device --tracking.wandb disabled --name "$name" "${@:2}" "${short_run[@]}"
    if selected "accuracy-$name-$seeds" && [ -e "$runs_dir/$name-accuracy" ]; then
        mkdir -p "$RESULTS/accuracy-$name"
        cp "$runs_dir/$name-accuracy/"*.png "$RESULTS/accuracy-$name/"
    fi
}
accuracy best 1
accuracy fast 1
accuracy baseline 1
if [ -n "${BASELINE_LOG:-}" ] && [ -e "$runs_dir/baseline-0/metrics.jsonl" ]; then
    measure baseline-curves "$PYTHON" -m benchmarks.baseline_curves --run "$runs_dir/baseline-0" --log "$BASELINE_LOG" \
        --json "$RESULTS/baseline-curves.json" --figure "$RESULTS/baseline-curves.png"
fi
accuracy best 1 best-sgd --optim.name sgd
accuracy teacher 1
last=
if [ -e "$RESULTS/accuracy-teacher-1.txt" ]; then # the last checkpoint: the best one was selected on the test images
    last=$(find "$runs_dir/teacher-0/checkpoints" -name 'step-*.pt' | sort | tail -n 1)
fi
if [ -n "$last" ]; then
    accuracy best 1 best-distilled --distill.teacher "$last"
elif selected accuracy-best-distilled-1 && [ ! -e "$RESULTS/accuracy-best-distilled-1.txt" ]; then
    failed+=("accuracy-best-distilled-1 (needs accuracy-teacher-1)")
fi
for name in best fast baseline; do accuracy "$name" "$seeds"; done
accuracy long 1

if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]} (see $RESULTS/)" >&2
    exit 1
fi
if [ -z "$matched" ]; then
    echo "no benchmark that can run here matches ONLY=$ONLY" >&2
    exit 2
fi
echo "all benchmarks${ONLY:+ matching $ONLY} are done; results: $RESULTS/"

#!/usr/bin/env bash
# Runs all benchmarks of speed and accuracy on a machine with GPUs and collects the results in one directory.
#
#     benchmarks/gpu.sh [SHARDS] [RESULTS]     default: shards/cifar100, benchmarks/results/DEVICE
#     MINUTES=13 benchmarks/gpu.sh ...         starts no benchmark after this many minutes
#     ONLY='accuracy-*' benchmarks/gpu.sh ...  only the benchmarks whose names match this pattern
#     REHEARSAL=1 benchmarks/gpu.sh ...        small sizes on a CPU, into a temporary directory
#     PYTHON=python3 benchmarks/gpu.sh ...     uses this interpreter instead of .venv/bin/python
#     BASELINE_LOG=FILE benchmarks/gpu.sh ...  also compares baseline.yaml with the original program's log
#
# Each benchmark writes NAME.txt, whose first line is the command, and NAME.json. What decides the next work on speed runs
# first. Existing results are kept, so that a later call resumes. Failures are listed at the end and do not stop the other
# benchmarks. Without FFCV, give the GPU tests TEST_SHARDS=DIR (tests/conftest.py).
set -uo pipefail
SHARDS=$(realpath "${1:-$(dirname "$0")/../shards/cifar100}")
RESULTS=${2:+$(realpath -m "$2")}
REHEARSAL=${REHEARSAL:-}
case ${MINUTES:=} in *[!0-9]*) echo "MINUTES must be a non-negative integer, got '$MINUTES'" >&2 && exit 2 ;; esac
case ${PYTHON:=.venv/bin/python} in */*) [ "$PYTHON" = .venv/bin/python ] || PYTHON=$(realpath -s "$PYTHON") ;; esac
cd "$(dirname "$0")/.." || exit

python_eval() { "$PYTHON" -c "$1"; }

missing="from importlib.util import find_spec
packages = {
    'every benchmark': 'torch numpy PIL docstring_parser rich safetensors yaml',
    'gpu-tests': 'pytest pytest_timeout hypothesis',
    'accuracy-*, peers-* and scaling': 'jinja2 matplotlib',
    'loader-* and step-SIDE, which decode images': 'ffcv numba cv2 torchvision',
}
for needed_by, names in packages.items():
    if absent := [name for name in names.split() if not find_spec(name)]:
        print(f'missing Python packages: {\", \".join(absent)}; needed by {needed_by}')"
missing=$(python_eval "$missing") || exit
if [ -n "$missing" ]; then echo "$missing" >&2; fi
if [[ $missing == *"every benchmark"* ]]; then exit 2; fi
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
    rounds=(--rounds 1) steps=(--steps 3) seconds=(--seconds 0.3) layer_seconds=(--seconds 0.001)
    short_epochs=(--steps 3 --epochs 2 --workers 1)
    largest_message=(--largest-message 1) epochs=(--train.epochs 2 --train.max_steps_per_epoch 3)
    device_flag=(--device cpu) set_device=(--set train.device=cpu) train_device=(--train.device cpu) processes=2
    seeds=2 short_run=(--train.epochs 2 --train.max_steps_per_epoch 2 --train.batch_size 48 --schedule.warmup_epochs 0)
    short_run+=(--data.resolution 32 --data.progressive_resizing_epochs 0 --train.device cpu)
else
    RESULTS=${RESULTS:-benchmarks/results/$device-x$gpus}
    runs_dir=runs/$device-x$gpus
    config=configs/baseline.yaml precision=bf16 sides=(32 56) counts='' batch=504
    rounds=(--rounds 5) steps=(--steps 90) seconds=(--seconds 1) layer_seconds=(--seconds 0.05)
    short_epochs=(--rounds 3)
    largest_message=(--largest-message 256) epochs=(--train.epochs 4)
    device_flag=(--device cuda) set_device=(--set train.device=cuda) train_device=(--train.device cuda) processes=$gpus
    seeds=3 short_run=()
fi
mkdir -p "$RESULTS" || exit
echo "$device, $gpus GPUs; trainers: $peers; results: $RESULTS"
failed=() postponed=() matched=

# shellcheck disable=SC2053  # ONLY is a pattern
selected() { [[ $1 == ${ONLY:-*} ]]; } # NAME

out_of_time() { [ -n "$MINUTES" ] && [ "$SECONDS" -ge $((60 * MINUTES)) ]; }

measure() { # NAME COMMAND...
    local name=$1 output=$RESULTS/$1.txt
    shift
    if ! selected "$name"; then return; fi
    matched=yes
    if [ -e "$output" ]; then return; fi
    if out_of_time; then
        postponed+=("$name")
        return
    fi
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

steps_of() { # SIDE: what affects the speed of a step
    local cached=(--resolution "$1" --set "train.precision=$precision" --set data.cache=device)
    step "$1-cache" "${cached[@]}"
    step "$1-no-cuda-graphs" "${cached[@]}" --set train.cuda_graphs=false
    if [ -z "$REHEARSAL" ]; then # compilation takes minutes on a CPU
        step "$1-compiled" "${cached[@]}" --set train.compile=true
        step "$1-compiled-no-cuda-graphs" "${cached[@]}" --set train.compile=true --set train.cuda_graphs=false
    fi
    step "$1-channels-first" "${cached[@]}" --set train.channels_last=false
}

# Interrupted runs resume; later calls with more seeds reuse finished runs.
accuracy() { # CONFIG SEEDS [NAME OPTIONS...]: complete training runs on all processes
    local config=$1 seeds=$2 name=${3:-$1}
    shift 2
    measure "accuracy-$name-$seeds" "$PYTHON" -m benchmarks.accuracy --config "configs/$config.yaml" --seeds "$seeds" \
        --target 63.22 --processes "$processes" --json "$RESULTS/accuracy-$name-$seeds.json" -- --runs_dir "$runs_dir" \
        --data.shards "$SHARDS" --data.cache device --tracking.wandb disabled --name "$name" "${@:2}" "${short_run[@]}"
    if selected "accuracy-$name-$seeds" && [ -e "$runs_dir/$name-accuracy/index.html" ]; then
        cp "$runs_dir/$name-accuracy/index.html" "$RESULTS/accuracy-$name.html"
    fi
}

# What decides the next work on speed: a GPU is often lent for minutes only.
mapfile -t gpu_tests < <(grep -l 'pytest\.mark\.gpu' tests/test_*.py)
measure gpu-tests "$PYTHON" -m pytest -q -m gpu "${gpu_tests[@]}"
for side in "${sides[@]}"; do
    benchmark "probe-$side" probe "${rounds[@]}" "${layer_seconds[@]}" "${set_device[@]}" --resolution "$side" \
        --set "train.precision=$precision"
done
steps_of 32
accuracy fast 1 # aims on one H100 or newer: an epoch in less than 1 s, 63.22 % within 20 s of the launch
accuracy best 1 # aim: an epoch in less than 2 s
if [ "$processes" -gt 1 ]; then
    distributed step-32-distributed -m benchmarks.step --shards "$SHARDS" --config "$config" --batch-size "$batch" \
        --json "$RESULTS/step-32-distributed.json" "${rounds[@]}" "${steps[@]}" "${seconds[@]}" "${set_device[@]}" \
        --resolution 32 --set "train.precision=$precision" --set data.cache=device
fi
accuracy best "$seeds"

# Everything else
for side in "${sides[@]}"; do
    if [ "$side" != 32 ]; then steps_of "$side"; fi
    step "$side" --resolution "$side" --set "train.precision=$precision"
    step "$side-fp32" --resolution "$side" --set train.precision=fp32 --set data.cache=device
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
    if out_of_time; then
        postponed+=(accuracy-best-distilled-1)
    else
        failed+=("accuracy-best-distilled-1 (needs accuracy-teacher-1)")
    fi
fi
for name in fast baseline; do accuracy "$name" "$seeds"; done
accuracy long 1

if [ ${#postponed[@]} -gt 0 ]; then
    echo "not started within MINUTES=$MINUTES: ${postponed[*]}; run the same command again to resume"
fi
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]} (see $RESULTS/)" >&2
    exit 1
fi
if [ -z "$matched" ]; then
    echo "no benchmark that can run here matches ONLY=$ONLY" >&2
    exit 2
fi
if [ ${#postponed[@]} -eq 0 ]; then
    echo "all benchmarks${ONLY:+ matching $ONLY} are done; results: $RESULTS/"
fi

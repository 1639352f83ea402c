#!/usr/bin/env bash
# All that is to be known about speed and accuracy on a machine with GPUs: one command, one folder of results.
#
#     benchmarks/gpu.sh [SHARDS] [RESULTS]     shards/cifar100 and benchmarks/results/DEVICE, if not told
#     ONLY='accuracy-*' benchmarks/gpu.sh ...  of the results those alone whose names are like this
#     REHEARSAL=1 benchmarks/gpu.sh ...        the same on the CPU of any machine, small, into a folder for the purpose
#     PYTHON=python3 benchmarks/gpu.sh ...     another environment than .venv
#     REFERENCE_LOG=FILE benchmarks/gpu.sh ... another program's log, for the curves of configs/baseline.yaml to be laid over
#
# Each result is NAME.txt, which begins with its command, and NAME.json. The cheap ones come first; what is there already
# is not measured again, so a run that was cut off goes on. What fails is told at the end, and the rest measured anyway.
set -uo pipefail
SHARDS=$(realpath "${1:-$(dirname "$0")/../shards/cifar100}")
RESULTS=${2:+$(realpath -m "$2")}
REHEARSAL=${REHEARSAL:-}
case ${PYTHON:=.venv/bin/python} in */*) [ "$PYTHON" = .venv/bin/python ] || PYTHON=$(realpath -s "$PYTHON") ;; esac
cd "$(dirname "$0")/.." || exit

ask() { "$PYTHON" -c "$1"; }
gpus=$(ask "import torch; print(torch.cuda.device_count())") || exit
if [ -n "$REHEARSAL" ]; then
    gpus=0
elif [ "$gpus" = 0 ]; then
    echo "no GPU here; REHEARSAL=1 tries the same commands on the CPU" >&2
    exit 2
fi
name="import re, torch; from benchmarks.timing import processor
name = torch.cuda.get_device_name() if $gpus else processor()
print(re.sub('[^a-z0-9]+', '-', name.lower()).strip('-'))"
device=$(ask "$name") || exit
peers=$(ask "from importlib.util import find_spec; from benchmarks.peers.roster import PEERS
print(','.join(name for name, peer in PEERS.items() if not peer.package or find_spec(peer.package)))") || exit

# 504 images: for 1, 2, 3, 4, 6 and 8 processes equal parts, in nearly the batch of 500 of the reference.
if [ -n "$REHEARSAL" ]; then
    RESULTS=${RESULTS:-$(mktemp -d)}
    kept=$RESULTS/runs
    config=tests/tiny.yaml precision=fp32 sides=(32) counts=1,2 batch=48
    rounds=(--rounds 1) steps=(--steps 3) seconds=(--seconds 0.3) few=(--steps 3 --epochs 2 --workers 1)
    largest=(--largest-message 1) epochs=(--train.epochs 2 --train.max_steps_per_epoch 3)
    to=(--device cpu) set_to=(--set train.device=cpu) train_to=(--train.device cpu) processes=2
    seeds=2 shorter=(--train.epochs 2 --train.max_steps_per_epoch 2 --train.batch_size 48 --schedule.warmup_epochs 0)
    shorter+=(--data.resolution 32 --data.progressive_resizing_epochs 0 --train.device cpu)
else
    RESULTS=${RESULTS:-benchmarks/results/$device-x$gpus}
    kept=runs/$device-x$gpus
    config=configs/baseline.yaml precision=bf16 sides=(32 56) counts='' batch=504
    rounds=(--rounds 5) steps=(--steps 90) seconds=(--seconds 3) few=(--rounds 3)
    largest=(--largest-message 256) epochs=(--train.epochs 4)
    to=(--device cuda) set_to=(--set train.device=cuda) train_to=(--train.device cuda) processes=$gpus
    seeds=3 shorter=()
fi
mkdir -p "$RESULTS" || exit
echo "$device, $gpus GPUs; peers: $peers; results: $RESULTS"
failed=() found=

# shellcheck disable=SC2053  # a pattern
asked() { [[ $1 == ${ONLY:-*} ]]; } # NAME

measure() { # NAME COMMAND...
    local name=$1 place=$RESULTS/$1.txt
    shift
    if ! asked "$name"; then return; fi
    found=yes
    if [ -e "$place" ]; then return; fi
    echo "$(date -u +%FT%TZ) $name: $*"
    if { echo "\$ $*" && "$@"; } >"$place.part" 2>&1; then
        mv "$place.part" "$place"
    else
        failed+=("$name")
        tail -n 3 "$place.part"
    fi
}

benchmark() { # NAME MODULE OPTIONS...
    local name=$1 module=$2
    shift 2
    measure "$name" "$PYTHON" -m "benchmarks.$module" --shards "$SHARDS" --config "$config" --batch-size "$batch" \
        --json "$RESULTS/$name.json" "$@"
}

step() { # NAME OPTIONS...: of the trainer's step, by one process
    local name=$1
    shift
    benchmark "step-$name" step "${rounds[@]}" "${steps[@]}" "${seconds[@]}" "${set_to[@]}" "$@"
}

together() { # NAME FILE-OR-MODULE OPTIONS...: of all processes
    local name=$1
    shift
    measure "$name" "$PYTHON" -m torch.distributed.run --rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:0 \
        --local-addr=127.0.0.1 --nproc-per-node="$processes" "$@"
}

for side in "${sides[@]}"; do
    at=(--resolution "$side" --set "train.precision=$precision")
    step "$side" "${at[@]}"
    step "$side-cache" "${at[@]}" --set data.cache=device
    step "$side-launched" "${at[@]}" --set data.cache=device --set train.cuda_graphs=false
    step "$side-channels-first" "${at[@]}" --set data.cache=device --set train.channels_last=false
    step "$side-fp32" --resolution "$side" --set train.precision=fp32 --set data.cache=device
    if [ -z "$REHEARSAL" ]; then # a CPU compiles for minutes
        step "$side-compiled" "${at[@]}" --set data.cache=device --set train.compile=true
    fi
    # Whole epochs as users train them, from the launch on.
    runs=$(mktemp -d)
    together "epochs-$side" train_ddp.py --config "$config" --runs_dir "$runs" --name run --data.shards "$SHARDS" \
        --data.resolution "$side" --data.cache device --train.precision "$precision" --train.batch_size "$batch" \
        "${train_to[@]}" "${epochs[@]}" --schedule.warmup_epochs 0 --tracking.wandb disabled --tracking.report false
    if [ -e "$runs/run/metrics.jsonl" ]; then
        grep '"kind": "epoch"' "$runs/run/metrics.jsonl" >"$RESULTS/epochs-$side.jsonl"
    fi
    rm -rf "$runs"
done
if [ "$processes" -gt 1 ]; then
    side=${sides[0]}
    together "step-$side-together" -m benchmarks.step --shards "$SHARDS" --config "$config" --batch-size "$batch" \
        --json "$RESULTS/step-$side-together.json" "${rounds[@]}" "${steps[@]}" "${seconds[@]}" "${set_to[@]}" \
        --resolution "$side" --set "train.precision=$precision" --set data.cache=device
fi
benchmark scaling scaling "${rounds[@]}" "${seconds[@]}" "${largest[@]}" "${to[@]}" --precision "$precision" \
    ${counts:+--processes "$counts"} --picture "$RESULTS/scaling.png"
benchmark checkpoint checkpoint "${rounds[@]}" "${seconds[@]}" "${set_to[@]}" --set "train.precision=$precision"
for side in "${sides[@]}"; do
    benchmark "loader-$side" loader "${rounds[@]}" "${seconds[@]}" "${set_to[@]}" --resolution "$side" \
        --set "train.precision=$precision"
done
for side in "${sides[@]}"; do
    benchmark "peers-$side" peers "${rounds[@]}" "${few[@]}" "${to[@]}" --peers "$peers" --precision "$precision" \
        --resolution "$side" --picture "$RESULTS/peers-$side.png"
done
if [[ ,$peers, == *,timm_loop,* ]]; then # its network is timm's
    benchmark peers-regnetx_002 peers "${rounds[@]}" "${few[@]}" "${to[@]}" --peers "$peers" --precision "$precision" \
        --network regnetx_002 --picture "$RESULTS/peers-regnetx_002.png"
fi

# A run that was cut off goes on where it was, and finished ones are there for the calls with more seeds.
accuracy() { # CONFIG SEEDS [NAME OPTIONS...]: whole runs, as users train them, by all processes
    local config=$1 seeds=$2 name=${3:-$1}
    shift 2
    measure "accuracy-$name-$seeds" "$PYTHON" -m benchmarks.accuracy --config "configs/$config.yaml" --seeds "$seeds" \
        --target 63.22 --processes "$processes" --json "$RESULTS/accuracy-$name-$seeds.json" -- --runs_dir "$kept" \
        --data.shards "$SHARDS" --data.cache device --tracking.wandb disabled --name "$name" "${@:2}" "${shorter[@]}"
    if asked "accuracy-$name-$seeds" && [ -e "$kept/$name-accuracy" ]; then
        mkdir -p "$RESULTS/accuracy-$name"
        cp "$kept/$name-accuracy/"*.png "$RESULTS/accuracy-$name/"
    fi
}
accuracy best 1
accuracy fast 1
accuracy seed 1
# What the reference printed, for those who have it.
if [ -e "${REFERENCE_LOG:=../shared/reference/training_log.csv}" ] && [ -e "$kept/seed-0/metrics.jsonl" ]; then
    measure reference "$PYTHON" -m benchmarks.reference --run "$kept/seed-0" --log "$REFERENCE_LOG" \
        --json "$RESULTS/reference.json" --picture "$RESULTS/reference.png"
fi
accuracy best 1 best-sgd --optim.name sgd
accuracy teacher 1
last=
if [ -e "$RESULTS/accuracy-teacher-1.txt" ]; then # the last weights, since the best were chosen by the test images
    last=$(find "$kept/teacher-0/checkpoints" -name 'step-*.pt' | sort | tail -n 1)
fi
if [ -n "$last" ]; then
    accuracy best 1 best-distilled --distill.teacher "$last"
elif asked accuracy-best-distilled-1 && [ ! -e "$RESULTS/accuracy-best-distilled-1.txt" ]; then
    failed+=("accuracy-best-distilled-1, for which accuracy-teacher-1 is needed,")
fi
for name in best fast seed; do accuracy "$name" "$seeds"; done
accuracy long 1

if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]} (see $RESULTS/)" >&2
    exit 1
fi
if [ -z "$found" ]; then
    echo "no result that can be had here and now has a name like $ONLY" >&2
    exit 2
fi
echo "all measured${ONLY:+ that is like $ONLY}; results: $RESULTS/"

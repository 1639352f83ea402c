# shellcheck shell=bash
# What the job scripts share: how to meet, how to be told of the end, and what happens afterwards.

say() { printf '%s [job %s, attempt %s, %s] %s\n' "$(date +%T)" "$SLURM_JOB_ID" "$((${SLURM_RESTART_COUNT:-0} + 1))" "${SLURMD_NODENAME:-}" "$*"; }

# The address by which SLURM itself reaches a node, whether its name resolves or not.
node_address() {
    local address
    address=$(scontrol show node -o "$1" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
    echo "${address:-$1}"
}

# Where the ranks meet: on the job's first node, at a port of this job's and this attempt's own, below those that
# the kernel hands out (32768 and above).
choose_meeting_point() {
    MASTER_ADDR=$(node_address "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)")
    MASTER_PORT=$((20000 + (SLURM_JOB_ID * 7 + ${SLURM_RESTART_COUNT:-0} * 131 + attempts) % 12000))
    export MASTER_ADDR MASTER_PORT
}

# Gloo and NCCL would look a node's own name up, which may be that of its loopback (127.0.1.1 on Debian).
# Where address or interface cannot be told (no IPv4, no ip), that is left to them.
choose_interface() {
    local address name
    address=$(getent ahostsv4 "$1" | awk '{print $1; exit}') || true
    name=$(ip -o -4 addr show | awk -v want="$address" '{split($4, at, "/"); if (at[1] == want) {print $2; exit}}') || true
    [ -z "$name" ] || export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-$name}" NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-$name}"
}

# One torchrun on each node; runs in a process of its own. A script that starts its ranks in another way has a
# function of its own by this name.
attempt() {
    # Inside the step these variables tell of the step, which has one task a node.
    export PROCESSES_PER_NODE=${SLURM_GPUS_ON_NODE:-${SLURM_NTASKS_PER_NODE:-1}}
    exec srun --export=ALL --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
        --cpus-per-task="$(fewest_cpus)" --kill-on-bad-exit=1 bash slurm/node.sh "$@"
}

# Of the job's nodes, which may differ: 72(x2),36 is SLURM's way to say it.
fewest_cpus() { tr , '\n' <<<"$SLURM_JOB_CPUS_PER_NODE" | sed 's/(.*//' | sort -n | head -n 1; }

# By what scontrol knows this job alone: the bare number of an array's job may mean the whole array.
own_id() {
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
        echo "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    else
        echo "$SLURM_JOB_ID"
    fi
}

tell() {
    say "$2: telling the ranks"
    leaving=1
    [ -z "$step" ] || kill -"$1" "$step" 2>/dev/null
}

# A signal that comes before the ranks listen is lost, so they are told again until they are gone.
wait_for_step() {
    while wait "$step"; kill -0 "$step" 2>/dev/null; do # a trap ends wait early
        while [ -n "$leaving" ] && kill -0 "$step" 2>/dev/null; do
            sleep 5 &
            wait -n
            kill -USR1 "$step" 2>/dev/null
        done
    done
    step=''
}

# Runs an attempt after the other, until the run is done, is to be queued again, or gets nowhere.
run_to_the_end() {
    local verdict line unbegun=0
    if [ -n "${SLURM_GPUS_PER_TASK:-}" ]; then
        say "ask for GPUs with --gpus-per-node: with --gpus-per-task no rank sees those of the others" && exit 2
    fi
    attempts=0 step='' leaving=''
    trap 'tell USR1 "the time is nearly over"' USR1
    trap 'tell TERM "asked to leave"' TERM
    [ -z "$DATA_STAGE" ] || set -- "$@" --data.local_cache_dir "$DATA_STAGE"
    while :; do
        attempts=$((attempts + 1))
        choose_meeting_point
        export REGNET_LAUNCH=$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}.$attempts
        say "starting on $SLURM_JOB_NODELIST; ranks meet at $MASTER_ADDR:$MASTER_PORT"
        attempt "$@" &
        step=$!
        wait_for_step
        verdict=0
        line=$("${CONTAINER[@]}" python -m regnet.relaunch --launch "$REGNET_LAUNCH" --limit "$MAX_SETBACKS" -- "$@") || verdict=$?
        say "$line"
        case $verdict in
            0) exit 0 ;;
            75) requeue ;;
            3) unbegun=0 ;;
            2) unbegun=$((unbegun + 1)) ;;
            *) say "given up: see above; the same sbatch command continues from the last checkpoint" && exit "$verdict" ;;
        esac
        [ "$unbegun" -lt "$MAX_SETBACKS" ] || { say "given up after $unbegun attempts: mend what is named above, then sbatch again" && exit 2; }
        still_ours || { say "SLURM ends this job; if it is not started again, the same sbatch command continues" && exit "$verdict"; }
        sleep "$PAUSE" &
        wait $!
        [ -z "$leaving" ] || requeue
    done
}

# Whether the job goes on: neither cancelled, nor on its way back into the queue without our asking.
still_ours() {
    local told
    for _ in 1 2 3; do
        told=$(scontrol show job -o "$(own_id)") && break
        sleep 5 # a controller that is busy, or being restarted
    done
    grep -q 'JobState=RUNNING ' <<<"$told"
}

requeue() {
    still_ours || { say "SLURM ends this job; if it is not started again, the same sbatch command continues" && exit 75; }
    say "saved; back into the queue"
    scontrol requeue "$(own_id)" || { say "this cluster does not requeue: the same sbatch command continues" && exit 75; }
    sleep 600 # SLURM ends this script
    exit 75
}

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
choose_interface() {
    local address name
    address=$(getent ahostsv4 "$1" | awk '{print $1; exit}')
    name=$(ip -o -4 addr show | awk -v want="$address" '{split($4, at, "/"); if (at[1] == want) {print $2; exit}}')
    [ -z "$name" ] || export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-$name}" NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-$name}"
}

# One torchrun on each node; runs in a process of its own. A script that starts its ranks in another way has a
# function of its own by this name.
attempt() {
    # Inside the step these variables tell of the step, which has one task a node.
    export PROCESSES_PER_NODE=${SLURM_GPUS_ON_NODE:-${SLURM_NTASKS_PER_NODE:-1}}
    exec srun --export=ALL --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
        --cpus-per-task="$SLURM_CPUS_ON_NODE" --kill-on-bad-exit=1 bash slurm/node.sh "$@"
}

# Runs an attempt after the other, until the run is done, is to be queued again, or gets nowhere.
run_to_the_end() {
    local began verdict line
    attempts=0 step=''
    trap 'say "the time is nearly over: telling the ranks"; [ -z "$step" ] || kill -USR1 "$step" 2>/dev/null' USR1
    trap 'say "asked to leave: telling the ranks"; [ -z "$step" ] || kill -TERM "$step" 2>/dev/null' TERM
    [ -z "$DATA_STAGE" ] || set -- "$@" --data.stage "$DATA_STAGE"
    while :; do
        began=$EPOCHSECONDS
        attempts=$((attempts + 1))
        choose_meeting_point
        say "starting on $SLURM_JOB_NODELIST; ranks meet at $MASTER_ADDR:$MASTER_PORT"
        attempt "$@" &
        step=$!
        while wait "$step"; kill -0 "$step" 2>/dev/null; do :; done # a trap ends wait early
        step=''
        verdict=0
        line=$("${CONTAINER[@]}" python -m regnet.aftermath --since "$began" --limit "$MAX_SETBACKS" -- "$@") || verdict=$?
        say "$line"
        case $verdict in
            0) exit 0 ;;
            75) requeue ;;
            3) still_ours || exit 3 ;;
            2) [ "$attempts" -lt "$MAX_SETBACKS" ] || { say "given up after $attempts attempts: mend what is named above, then sbatch again" && exit 2; } ;;
            *) say "given up: see above; the same sbatch command continues from the last checkpoint" && exit "$verdict" ;;
        esac
        sleep "$PAUSE" &
        wait $!
    done
}

# Whether the job goes on: neither cancelled, nor on its way back into the queue without our asking.
still_ours() { scontrol show job -o "$SLURM_JOB_ID" | grep -q 'JobState=RUNNING '; }

requeue() {
    still_ours || { say "SLURM ends this job; if it is not started again, the same sbatch command continues" && exit 75; }
    say "saved; back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || { say "this cluster does not requeue: the same sbatch command continues" && exit 75; }
    sleep 600 # SLURM ends this script
    exit 75
}

# shellcheck shell=bash
# Functions shared by the job scripts: rendezvous, forwarding of signals, restarts and requeueing.

say() { printf '%s [job %s, attempt %s, %s] %s\n' "$(date +%T)" "$SLURM_JOB_ID" "$((${SLURM_RESTART_COUNT:-0} + 1))" "${SLURMD_NODENAME:-}" "$*"; }

# The address that SLURM itself uses to reach a node. It works even if the node's name does not resolve.
node_address() {
    local address
    address=$(scontrol show node -o "$1" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
    echo "${address:-$1}"
}

# The ranks meet on the job's first node. The port differs between jobs and between attempts, and lies below the
# kernel's ephemeral ports (32768 and above).
choose_rendezvous() {
    MASTER_ADDR=$(node_address "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)")
    MASTER_PORT=$((20000 + (SLURM_JOB_ID * 7 + ${SLURM_RESTART_COUNT:-0} * 131 + attempts) % 12000))
    export MASTER_ADDR MASTER_PORT
}

# Gloo and NCCL would resolve the node's own name, which may yield a loopback address (127.0.1.1 on Debian).
# If the address or its interface cannot be determined (no IPv4, no ip command), they choose by themselves.
choose_interface() {
    local address name
    address=$(getent ahostsv4 "$1" | awk '{print $1; exit}') || true
    name=$(ip -o -4 addr show | awk -v want="$address" '{split($4, at, "/"); if (at[1] == want) {print $2; exit}}') || true
    [ -z "$name" ] || export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-$name}" NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-$name}"
}

# Starts one torchrun per node; runs in a background process. A job script that starts its ranks differently
# overrides this function.
launch_ranks() {
    # Read here: inside the step, which has one task per node, these variables describe the step and not the job.
    export PROCESSES_PER_NODE=${SLURM_GPUS_ON_NODE:-${SLURM_NTASKS_PER_NODE:-1}}
    exec srun --export=ALL --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
        --cpus-per-task="$(fewest_cpus)" --kill-on-bad-exit=1 bash slurm/node.sh "$@"
}

# The smallest CPU count of the job's nodes, which may differ. SLURM's format is 72(x2),36.
fewest_cpus() { tr , '\n' <<<"$SLURM_JOB_CPUS_PER_NODE" | sed 's/(.*//' | sort -n | head -n 1; }

# The id by which scontrol selects this job only: a plain number can select all jobs of an array.
own_id() {
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
        echo "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    else
        echo "$SLURM_JOB_ID"
    fi
}

# $1: signal to forward; $2: its cause, for the log.
interrupt_ranks() {
    say "$2: interrupting the ranks"
    interrupted=1
    [ -z "$step" ] || kill -"$1" "$step" 2>/dev/null
}

# Ranks lose a signal that arrives before they have installed their handlers, so it is sent again until they exit.
wait_for_step() {
    while wait "$step"; kill -0 "$step" 2>/dev/null; do # a trap ends wait early
        while [ -n "$interrupted" ] && kill -0 "$step" 2>/dev/null; do
            sleep 5 &
            wait -n
            kill -USR1 "$step" 2>/dev/null
        done
    done
    step=''
}

# Starts attempts until the run has finished, the job is requeued, or too many attempts in a row made no progress.
run_until_finished() {
    local verdict line failed_starts=0 resubmit="the same sbatch command"
    [[ " $* " != *" --overwrite"* ]] || resubmit="the same sbatch command without --overwrite"
    if [ -n "${SLURM_GPUS_PER_TASK:-}" ]; then
        say "request GPUs with --gpus-per-node: with --gpus-per-task a rank cannot see the GPUs of the other ranks"
        exit 2
    fi
    attempts=0 step='' interrupted=''
    trap 'interrupt_ranks USR1 "time limit is near"' USR1
    trap 'interrupt_ranks TERM "job received SIGTERM"' TERM
    [ -z "$LOCAL_CACHE_DIR" ] || set -- "$@" --data.local_cache_dir "$LOCAL_CACHE_DIR"
    while :; do
        attempts=$((attempts + 1))
        choose_rendezvous
        export REGNET_LAUNCH=$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}.$attempts
        say "starting on $SLURM_JOB_NODELIST; rendezvous at $MASTER_ADDR:$MASTER_PORT"
        launch_ranks "$@" &
        step=$!
        wait_for_step
        verdict=0
        line=$("${CONTAINER[@]}" python -m regnet.relaunch --launch "$REGNET_LAUNCH" --limit "$MAX_FAILED_ATTEMPTS" -- "$@") || verdict=$?
        say "$line"
        case $verdict in
            0) exit 0 ;; # finished
            75) requeue ;; # preempted
            3) failed_starts=0 ;; # failed, worth another attempt
            2) failed_starts=$((failed_starts + 1)) ;; # did not start
            *) # failed for good
                say "giving up, see the error above; $resubmit resumes from the last checkpoint"
                exit "$verdict"
                ;;
        esac
        [ "$failed_starts" -lt "$MAX_FAILED_ATTEMPTS" ] || { say "giving up after $failed_starts failed attempts to start: fix the error above, then run $resubmit"; exit 2; }
        still_running || { say "SLURM is ending this job; unless SLURM restarts it, $resubmit resumes the run"; exit "$verdict"; }
        sleep "$RETRY_DELAY" &
        wait $!
        [ -z "$interrupted" ] || requeue
    done
}

# Whether the job is still running: neither cancelled nor already requeued by SLURM.
still_running() {
    local job
    for _ in 1 2 3; do
        job=$(scontrol show job -o "$(own_id)") && break
        sleep 5 # the controller may be busy or restarting
    done
    grep -q 'JobState=RUNNING ' <<<"$job"
}

requeue() {
    still_running || { say "SLURM is ending this job; unless SLURM restarts it, $resubmit resumes the run"; exit 75; }
    say "checkpoint saved; requeueing the job"
    scontrol requeue "$(own_id)" || { say "this cluster does not allow jobs to requeue themselves: $resubmit resumes the run"; exit 75; }
    sleep 600 # SLURM ends this script meanwhile
    exit 75
}

# shellcheck shell=bash
# Functions shared by the job scripts: rendezvous, forwarding of signals, restarts and requeueing.

[ -n "${SLURM_JOB_ID:-}" ] || { echo "this script needs a SLURM job: submit it with sbatch"; exit 2; }
# shellcheck source=slurm/site.sh
. slurm/site.sh
# shellcheck source=slurm/layout.sh
. slurm/layout.sh

# The ranks meet on the job's first node. The port differs between jobs and between attempts, and lies below the
# kernel's ephemeral ports (32768 and above).
choose_rendezvous() {
    RENDEZVOUS=$(node_address "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)")
    RENDEZVOUS+=:$((20000 + (SLURM_JOB_ID * 7 + ${SLURM_RESTART_COUNT:-0} * 131 + attempts) % 12000))
    export RENDEZVOUS
}

# The job sets these variables for every attempt; values from the shell that submitted it cannot describe its processes.
discard_launch_variables() {
    local name
    for name in WORLD_SIZE RANK LOCAL_RANK MASTER_ADDR MASTER_PORT; do
        [ -z "${!name+set}" ] || say "$name=${!name} in the job's environment is ignored: the job script sets it"
        unset "$name"
    done
    unset SLURM_STEP_NUM_TASKS # of a step in which sbatch was called
}

# Starts one torchrun per node; runs in a background process. A job script that starts its ranks differently
# overrides this function, and sets launcher=srun.
launcher=torchrun
launch_ranks() {
    PROCESSES=$(tr '\n' ' ' <<<"$processes") # an entry per node
    export PROCESSES
    exec_step --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task="$(fewest_cpus)" --kill-on-bad-exit=1 \
        bash slurm/node.sh "$@"
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
        while [ -n "$interrupted" ] && kill -USR1 "$step" 2>/dev/null; do
            sleep 1 &
            wait $!
        done
    done
    step=''
}

# An sbatch command with the layout of this job, with which the run can be resumed.
sbatch_command() {
    local script=train options=''
    [ "$launcher" = torchrun ] || script=direct
    [ "$gpus" = 0 ] || options+=" --gpus-per-node=$gpus"
    [ "$cpus_per_task" = 1 ] || options+=" --cpus-per-task=$cpus_per_task"
    echo "sbatch --nodes=$nodes --ntasks=$tasks$options slurm/$script.sbatch"
}

# Starts attempts until the run has finished, the job is requeued, or too many attempts in a row made no progress.
run_until_finished() {
    local verdict answer line options failed_starts=0 resume="the same sbatch command"
    attempts=0 step='' interrupted=''
    discard_launch_variables
    read_layout "$launcher"
    # First, so that the run's own options take precedence.
    [ -z "$LOCAL_CACHE_DIR" ] || set -- --data.local_cache_dir "$LOCAL_CACHE_DIR" "$@"
    "${prefix[@]}" python -m regnet.relaunch --check -- "$@" ||
        stop "not started: fix the error above, then run $resume"
    export REGNET_LAUNCHER
    REGNET_LAUNCHER=$(sbatch_command)
    trap 'interrupt_ranks USR1 "time limit is near"' USR1 USR2
    trap 'interrupt_ranks TERM "job received SIGTERM"' TERM
    while :; do
        attempts=$((attempts + 1))
        choose_rendezvous
        export REGNET_LAUNCH=$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}.$attempts
        say "starting on $SLURM_JOB_NODELIST; rendezvous at $RENDEZVOUS"
        launch_ranks "$@" &
        step=$!
        wait_for_step
        verdict=0
        # How the attempt ended, and the options that the same command needs to resume the run. The command ignores
        # SIGTERM, which SLURM sends to every process of a job that it ends.
        answer=$(trap '' TERM && "${prefix[@]}" python -m regnet.relaunch --launch "$REGNET_LAUNCH" --limit "$MAX_FAILED_ATTEMPTS" -- "$@") || verdict=$?
        { read -r line; read -r options; } <<<"$answer"
        say "${line:-"python -m regnet.relaunch failed with exit code $verdict, see the error above"}"
        resume="the same sbatch command${options:+ with $options}"
        case $verdict in
            0) exit 0 ;; # finished
            75) requeue ;; # preempted
            3) failed_starts=0 ;; # failed, worth another attempt
            2) failed_starts=$((failed_starts + 1)) ;; # did not start
            *) # failed for good
                say "giving up, see the error above; $resume resumes the run from its last checkpoint"
                exit "$verdict"
                ;;
        esac
        [ "$failed_starts" -lt "$MAX_FAILED_ATTEMPTS" ] || stop "giving up after $failed_starts failed attempts to start: fix the error above, then run $resume"
        still_running || { say "SLURM is ending this job; unless SLURM restarts it, $resume resumes the run"; exit "$verdict"; }
        sleep "$RETRY_DELAY" &
        wait $!
        [ -z "$interrupted" ] || requeue
    done
}

# Whether the job is still running: neither cancelled nor already requeued by SLURM.
still_running() { grep -q 'JobState=RUNNING ' <<<"$(show_job)"; }

requeue() {
    still_running || { say "SLURM is ending this job; unless SLURM restarts it, $resume resumes the run"; exit 75; }
    say "requeueing the job"
    trap 'exit 75' TERM # SLURM can end the job before scontrol has returned, which must not look like a refusal
    (trap '' TERM && exec scontrol requeue "$job_id") || { say "SLURM does not requeue this job, see the error above: $resume resumes the run"; exit 75; }
    exec sleep 600 # SLURM ends it meanwhile
}

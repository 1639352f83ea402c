# shellcheck shell=bash disable=SC2034
# The nodes, tasks and GPUs of the job, and the steps that use them.
#
# They are read from scontrol: SLURM sets the SLURM_* variables of the options that a job has, and keeps the others from
# the shell that submitted it, which may belong to another job.

# srun reads these variables like options; the steps state theirs.
STEP_VARIABLES=(SLURM_NTASKS SLURM_NPROCS SLURM_NTASKS_PER_{NODE,GPU,TRES,SOCKET,CORE} SLURM_TRES_PER_TASK SLURM_GRES)
STEP_VARIABLES+=(SLURM_GPUS SLURM_GPUS_PER_{NODE,SOCKET,TASK} SLURM_CPUS_PER_{GPU,TASK})

# The controller's record of this job: one line of KEY=VALUE, without the job's name, which may contain anything.
# scontrol prints several records for the first job of an array and for a heterogeneous job.
show_job() {
    local record
    for _ in 1 2 3; do
        record=$(scontrol show job -d -o "$SLURM_JOB_ID" | sed -nE "s/^(JobId=$SLURM_JOB_ID .*)JobName=.* UserId=/\1UserId=/p")
        [ -z "$record" ] || break
        sleep 5 # the controller may be busy or restarting
    done
    echo "$record"
}

# $1: a record; $2: a key.
field() { tr ' ' '\n' <<<"$1" | sed -n "s|^$2=||p" | head -n 1; }

# One line per node, from SLURM's format for a value per node: 72(x2),36.
per_node() { tr , '\n' <<<"$1" | awk -F '[(x)]+' '{for (i = 0; i < ($2 ? $2 : 1); i++) print $1}'; }

# $1: a line. $2: how often to print it.
repeat() { for ((i = 0; i < $2; i++)); do echo "$1"; done; }

# The GPUs and other devices on the job's nodes, one line per distinct set: gpu:4, without types and indices.
devices() {
    tr ' ' '\n' <<<"$1" | sed -n 's/^GRES=//p' | sed -E 's/\([^)]*\)//g; s/(^|,)gpu:[^:,]+:/\1gpu:/g' | sort -u
}

# Sets job_id, nodes, tasks, gpus (per node), devices, cpus_per_task, cpus_per_gpu and processes (a line per node).
# $1: who starts the processes, torchrun or srun.
read_layout() {
    local job array tasks_per_node
    job=$(show_job) array=$(field "$job" ArrayJobId)
    # The id by which scontrol requeues this job only: a plain number can select all jobs of an array.
    job_id=${array:+${array}_$(field "$job" ArrayTaskId)}
    job_id=${job_id:-$SLURM_JOB_ID}
    nodes=$SLURM_JOB_NUM_NODES tasks=$(field "$job" NumTasks) devices=$(devices "$job")
    [[ "$tasks" =~ ^[0-9]+$ ]] || stop "scontrol show job $SLURM_JOB_ID prints no NumTasks: is it this cluster's?"
    SLURM_RESTART_COUNT=$(field "$job" Restarts)
    export SLURM_RESTART_COUNT
    [ "$(wc -l <<<"$devices")" = 1 ] || stop "the nodes have different devices ($(tr '\n' ' ' <<<"$devices" | sed 's/ $//; s/ / and /g'));" \
        "request the same number of GPUs on every node: --gpus-per-node"
    gpus=$(tr , '\n' <<<"$devices" | sed -n 's/^gpu://p')
    gpus=${gpus:-0}
    [[ "$gpus" =~ ^[0-9]+$ ]] || stop "the nodes have GPUs of several types ($devices); request one type, such as --gpus-per-node=a100:4"
    [ -z "$(field "$job" HetJobId)" ] || stop "a heterogeneous job is not supported: its other components would be idle"
    # Without a number of tasks in the options, SLURM counts one per node, and lists one per CPU here.
    tasks_per_node=$(per_node "$SLURM_TASKS_PER_NODE")
    [ "$tasks" != "$nodes" ] || tasks_per_node=$(repeat 1 "$nodes")
    processes=$tasks_per_node
    if [ "$gpus" != 0 ] && [ "$tasks_per_node" != "$(repeat "$gpus" "$nodes")" ]; then
        if [ "$1" = torchrun ]; then
            processes=$(repeat "$gpus" "$nodes")
            [ "$tasks" = "$nodes" ] || say "tasks: $tasks, GPUs per node: $gpus; starting one process per GPU"
        else
            say "tasks: $tasks, GPUs per node: $gpus; starting one process per task (--ntasks-per-node=$gpus uses all GPUs)"
        fi
    fi
    cpus_per_task=$(field "$job" CPUs/Task) cpus_per_gpu=$(field "$job" CpusPerTres | sed -n 's/.*gpu://p')
    # srun refuses more than one of these.
    [ -n "$(field "$job" MinMemoryCPU)" ] || STEP_VARIABLES+=(SLURM_MEM_PER_CPU)
    [ -n "$(field "$job" MemPerTres)" ] || STEP_VARIABLES+=(SLURM_MEM_PER_GPU)
    [ "$(field "$job" MinMemoryNode)" != 0 ] || STEP_VARIABLES+=(SLURM_MEM_PER_NODE)
}

# The smallest CPU count of the job's nodes, which may differ.
fewest_cpus() { per_node "$SLURM_JOB_CPUS_PER_NODE" | sort -n | head -n 1; }

# Sets OMP_NUM_THREADS unless the user has. $1: CPUs. $2: the processes that share them.
choose_threads() {
    local threads=$(($1 / $2))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 1 ? threads : 1))}
}

# Replaces this process by a step on the job's nodes with all of its devices. By default SLURM gives a step none of an
# exclusive job, and one GPU if the job has --gpus-per-task. $@: further options of srun and the command.
exec_step() {
    local srun=(srun --export=ALL --nodes="$nodes")
    [ -z "$devices" ] || srun+=(--gres="$devices")
    unset "${STEP_VARIABLES[@]}"
    exec "${srun[@]}" "$@"
}

# The address that SLURM itself uses to reach a node. It works even if the node's name does not resolve.
node_address() {
    local address
    address=$(scontrol show node -o "$1" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
    echo "${address:-$1}"
}

# Gloo and NCCL would resolve the node's own name, which may yield a loopback address (127.0.1.1 on Debian).
# If the address or its interface cannot be determined (no IPv4, no ip command), they choose by themselves.
choose_interface() {
    local address name
    address=$(getent ahostsv4 "$1" | awk '{print $1; exit}') || true
    name=$(ip -o -4 addr show | awk -v want="$address" '{split($4, at, "/"); if (at[1] == want) {print $2; exit}}') || true
    [ -z "$name" ] || export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-$name}" NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-$name}"
}

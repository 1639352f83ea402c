# shellcheck shell=bash disable=SC2034
# Loads slurm/site.env, the user's settings, and says what is wrong with them.

say() { printf '%s [job %s, attempt %s, %s] %s\n' "$(date +%T)" "$SLURM_JOB_ID" "$((${SLURM_RESTART_COUNT:-0} + 1))" "${SLURMD_NODENAME:-$HOSTNAME}" "$*"; }

# Ends the script for a reason that another attempt would not change.
stop() {
    say "$*"
    exit 2
}

# Loads the settings and calls setup(). To be called before `set -eu`, for which site code, such as conda's, is not
# written: there, an unset variable or a failing test would end the job without a word.
load_site() {
    local status project=$PWD
    bash -n slurm/site.env || stop "slurm/site.env is not valid, see the error above"
    trap 'stop "slurm/site.env ended the script with exit code $?: setup() must return, not exit"' EXIT
    # shellcheck source=slurm/site.env
    . slurm/site.env
    setup
    status=$?
    trap - EXIT
    [ "$status" = 0 ] || stop "setup() in slurm/site.env failed with exit code $status, see the error above;" \
        "if there is none, its last command was false: end it with 'return 0'"
    [ "$PWD" = "$project" ] || stop "slurm/site.env changed the directory to $PWD: it must return to $project"
    check_site
}

check_site() {
    [[ "$(declare -p CONTAINER 2>/dev/null)" == "declare -a"* ]] ||
        stop "slurm/site.env: CONTAINER must be an array, such as CONTAINER=(apptainer exec --nv regnet.sif) or CONTAINER=()"
    [ -z "${CONTAINER[0]:-}" ] || command -v -- "${CONTAINER[0]}" >/dev/null ||
        stop "slurm/site.env: '${CONTAINER[0]}', the first word of CONTAINER, is not a command on this node"
    [[ "${MAX_FAILED_ATTEMPTS:-}" =~ ^[1-9][0-9]*$ ]] ||
        stop "slurm/site.env: MAX_FAILED_ATTEMPTS must be a positive integer, got '${MAX_FAILED_ATTEMPTS:-}'"
    [[ "${RETRY_DELAY:-}" =~ ^[0-9]+$ ]] ||
        stop "slurm/site.env: RETRY_DELAY must be a number of seconds, got '${RETRY_DELAY:-}'"
    LOCAL_CACHE_DIR=${LOCAL_CACHE_DIR:-}
    # The prefix of every command. `env` keeps it from being empty, which `set -u` rejects below bash 4.4.
    prefix=(env "${CONTAINER[@]}")
}

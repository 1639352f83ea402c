"""The job scripts start one process per GPU, or per task, whatever options the job was requested with.

Stubs stand for torchrun and the trainer, so that a job takes a second.
"""

import os
import subprocess

import pytest
from cluster import FINAL_STATES, wait_for
from limits import LIMIT

pytestmark = [pytest.mark.thorough, pytest.mark.xdist_group("slurm")]

PYTHON = """#!/bin/bash
case "$*" in
*--check*) ;;
*regnet.relaunch*) echo "finished: $REGNET_LAUNCHER" ;;
*regnet.sweep*) echo "flags of entry $5" ;;
*regnet.doctor*) echo "doctor: step of ${SLURM_STEP_NUM_TASKS:-no} tasks" ;;
*) echo "rank $RANK of $WORLD_SIZE, local $LOCAL_RANK, gpus ${CUDA_VISIBLE_DEVICES:-none}, threads $OMP_NUM_THREADS" ;;
esac
"""
TORCHRUN = """#!/bin/bash
echo "node $SLURM_NODEID: $2, gpus ${CUDA_VISIBLE_DEVICES:-none}, threads $OMP_NUM_THREADS"
"""
# As a shell leaks them that belongs to another job: SLURM replaces only those that the new job's options set.
LEAKED = {
    **{"SLURM_NTASKS": "9", "SLURM_NTASKS_PER_NODE": "3", "SLURM_NTASKS_PER_GPU": "1", "SLURM_GPUS_PER_TASK": "1"},
    **{"SLURM_CPUS_PER_TASK": "7", "SLURM_CPUS_PER_GPU": "3", "SLURM_MEM_PER_CPU": "100", "SLURM_GPUS": "5"},
    **{"SLURM_RESTART_COUNT": "4", "WORLD_SIZE": "7", "MASTER_PORT": "29500", "OMP_NUM_THREADS": "3"},
    **{"SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "1", "SLURM_STEP_NUM_TASKS": "9"},
}


@pytest.fixture
def submit(cluster, site):
    """Submits jobs at once and returns the lines that each has logged, without times."""
    stubs = site / "stubs"
    stubs.mkdir()
    for name, script in (("python", PYTHON), ("torchrun", TORCHRUN)):
        (stubs / name).write_text(script)
        (stubs / name).chmod(0o755)
    environment = site / "slurm" / "site.env"
    text = environment.read_text().replace(" OMP_NUM_THREADS=1", "").replace('PATH="', f'PATH="{stubs}:')
    environment.write_text(text)

    def submit(*jobs, **env):
        variables = {"OMP_NUM_THREADS": "", **env}
        commands = [("--output=log-%j", *options, f"slurm/{script}") for script, *options in jobs]
        numbers = [cluster.sbatch(*command, cwd=site, **variables) for command in commands]
        wait_for(lambda: all(cluster.job(number)["JobState"] in FINAL_STATES for number in numbers), "all jobs ended")
        logs = [(site / f"log-{number}").read_text() for number in numbers]
        return [[line.rpartition("] ")[2] for line in log.splitlines()] for log in logs]

    return submit


def started(lines):
    return sorted(line for line in lines if line.startswith(("node ", "rank ")))


def test_a_job_starts_a_process_per_gpu_or_per_task(submit):
    node = "node {}: --nproc-per-node={}, gpus {}, threads {}".format
    cases = {
        ("train.sbatch", "--nodes=1", "--ntasks=4"): [node(0, 4, "none", 1)],
        ("train.sbatch", "--nodes=2", "--ntasks=3"): [node(0, 2, "none", 1), node(1, 1, "none", 1)],
        ("train.sbatch", "--gpus=2", "--ntasks-per-gpu=1"): [node(0, 2, "0,1", 1)],
        ("train.sbatch", "--nodes=2", "--ntasks=4", "--gpus-per-task=1"): [node(0, 2, "0,1", 1), node(1, 2, "0,1", 1)],
        ("train.sbatch", "--nodes=1", "--exclusive"): [node(0, 2, "0,1", 2)],
        ("train.sbatch", "--nodes=1", "--gpus-per-node=2", "--cpus-per-gpu=2"): [node(0, 2, "0,1", 2)],
    }
    logs = submit(*cases)
    assert [started(lines) for lines in logs] == list(cases.values())
    assert logs[0][-1] == "finished: sbatch --nodes=1 --ntasks=4 slurm/train.sbatch"
    assert logs[3][-1] == "finished: sbatch --nodes=2 --ntasks=4 --gpus-per-node=2 slurm/train.sbatch"


def test_srun_starts_the_tasks_that_the_job_has(submit):
    rank = "rank {} of {}, local {}, gpus {}, threads {}".format
    two = [rank(index, 2, index, "0,1", 2) for index in range(2)]
    four = [rank(index, 4, index % 2, "0,1", 1) for index in range(4)]
    cases = {
        ("direct.sbatch", "--nodes=2", "--ntasks=4", "--gpus-per-task=1"): four,
        ("direct.sbatch", "--gpus=2", "--ntasks-per-gpu=1", "--cpus-per-gpu=2"): two,
        ("direct.sbatch", "--nodes=2", "--ntasks=3"): [rank(index, 3, index % 2, "none", 1) for index in range(3)],
        ("direct.sbatch", "--nodes=1", "--gpus-per-node=2"): [rank(0, 1, 0, "0,1", 1)],
    }
    logs = submit(*cases)
    assert [started(lines) for lines in logs] == list(cases.values())
    assert not any("srun:" in line for lines in logs for line in lines)
    idle = "tasks: 1, GPUs per node: 2; starting one process per task (--ntasks-per-node=2 uses all GPUs)"
    assert idle in logs[3]


def test_variables_leaked_from_another_job_change_nothing(submit):
    torchrun, direct, debug, sweep, uneven = submit(
        ("train.sbatch", "--nodes=2", "--mem=500"),
        ("direct.sbatch", "--job-name=a NumTasks=9 UserId=b", "--nodes=1", "--ntasks=2"),
        ("debug.sbatch",),
        ("sweep.sbatch",),
        ("train.sbatch", "--nodes=2", "--gpus=3"),
        **LEAKED,
    )
    assert started(torchrun) == [f"node {node}: --nproc-per-node=1, gpus none, threads 3" for node in range(2)]
    assert started(direct) == [f"rank {index} of 2, local {index}, gpus none, threads 3" for index in range(2)]
    assert "doctor: step of no tasks" in debug
    assert sweep == ["usage: sbatch --array=0-N slurm/sweep.sbatch SWEEP.yaml [trainer options]"], "it is no array"
    for name in ("WORLD_SIZE=7", "MASTER_PORT=29500"):
        assert f"{name} in the job's environment is ignored: the job script sets it" in torchrun
    assert uneven[-1].startswith("the nodes have different devices (gpu:1 and gpu:2); request the same number")
    assert started(uneven) == []


def test_a_job_that_the_scripts_cannot_use_is_refused(submit, site):
    """A heterogeneous job, whose other components would be idle; and a shell without a job."""
    (heterogeneous,) = submit(("train.sbatch", "--nodes=1", ":", "--nodes=1"))
    assert heterogeneous == ["a heterogeneous job is not supported: its other components would be idle"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    for script in ("train", "direct", "debug", "sweep"):
        command = ["bash", f"slurm/{script}.sbatch"]
        shell = subprocess.run(command, cwd=site, env=env, capture_output=True, text=True, timeout=LIMIT)
        assert (shell.returncode, shell.stdout) == (2, "this script needs a SLURM job: submit it with sbatch\n")
        assert shell.stderr == ""

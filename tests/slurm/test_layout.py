"""The job scripts start one process per GPU, or per task, whatever options the job was requested with.

Stubs stand for torchrun and the trainer, so that a job takes a second.
"""

import pytest
from cluster import wait_for
from test_jobs import FINAL_STATES

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("slurm"), pytest.mark.timeout(200)]

PYTHON = """#!/bin/bash
case "$*" in
*--check*) ;;
*regnet.relaunch*) echo "finished: $REGNET_LAUNCHER" ;;
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
        numbers = [cluster.sbatch(*options, f"slurm/{script}", cwd=site, **variables) for script, *options in jobs]
        wait_for(lambda: all(cluster.job(number)["JobState"] in FINAL_STATES for number in numbers), 90, "the jobs")
        logs = [(site / f"regnet-{number}.log").read_text() for number in numbers]
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
    torchrun, direct, uneven = submit(
        ("train.sbatch", "--nodes=2", "--mem=500"),
        ("direct.sbatch", "--nodes=1", "--ntasks=2"),
        ("train.sbatch", "--nodes=2", "--gpus=3"),
        **LEAKED,
    )
    assert started(torchrun) == [f"node {node}: --nproc-per-node=1, gpus none, threads 3" for node in range(2)]
    assert started(direct) == [f"rank {index} of 2, local {index}, gpus none, threads 3" for index in range(2)]
    for name in ("WORLD_SIZE=7", "MASTER_PORT=29500"):
        assert f"{name} in the job's environment is ignored: the job script sets it" in torchrun
    assert uneven[-1].startswith("the nodes have different devices (gpu:1 and gpu:2); request the same number")
    assert started(uneven) == []

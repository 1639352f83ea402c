"""The unmodified job scripts and the real trainer on a real three-node SLURM cluster.

A run that a test interferes with is held before its end, until the test releases it: see held_trainer.py.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import yaml
from cluster import FINAL_STATES, run_or_raise, wait_for
from job import NODES, Job, hold, release
from processes import TINY
from processes import run as run_command
from run_directory import outcome, rows, state

pytestmark = [pytest.mark.thorough, pytest.mark.xdist_group("slurm")]

FLAGS = ("--train.epochs", "10", "--checkpoint.every_steps", "4", "--tracking.log_every", "1")
HELD_AFTER = 100  # of the 110 steps of these epochs


@pytest.fixture
def single_node(uninterrupted):
    """The outcome of four uninterrupted processes on one node."""
    return uninterrupted(*FLAGS, processes=4)


@pytest.fixture
def job(cluster, site, shards):
    wait_for(lambda: cluster.states() == {"idle": 3}, "three nodes are idle")
    return lambda *flags, **how: Job(cluster, site, shards, *flags, **how)


def test_two_nodes_with_two_ranks_each_match_one_node_with_four(job, single_node):
    completed = job(*FLAGS)
    assert completed.wait_for_end() == "COMPLETED", completed.output()
    assert outcome(completed.run_dir) == single_node
    assert "4 processes (cpu)" in completed.output()
    last = completed.output().strip().splitlines()[-1]
    assert "Finished after 10 epochs. Results: runs/tiny" in last


def test_srun_without_torchrun_and_with_a_local_shard_cache_gives_the_same_outcome(job, site, shards, single_node):
    environment = site / "slurm" / "site.env"
    environment.write_text(environment.read_text().replace("\nLOCAL_CACHE_DIR=\n", f"\nLOCAL_CACHE_DIR={site}/local\n"))
    completed = job(*FLAGS, script="direct.sbatch")
    assert completed.wait_for_end() == "COMPLETED", completed.output()
    (copy,) = (site / "local").iterdir()
    assert {path.name for path in shards.iterdir()} <= {path.name for path in copy.iterdir()}
    assert yaml.safe_load((completed.run_dir / "config.yaml").read_text())["data"]["local_cache_dir"] == f"{site}/local"
    assert outcome(completed.run_dir) == single_node


def test_a_killed_rank_a_preemption_and_a_requeue_do_not_change_the_outcome(cluster, job, single_node):
    """With --overwrite, which must not delete the progress of the job itself."""
    interrupted = job(*FLAGS, "--overwrite", held_after=HELD_AFTER)
    interrupted.wait_for_steps()
    os.kill(interrupted.ranks(interrupted.nodes[1])[0], signal.SIGKILL)
    interrupted.wait_for_steps(steps=20, attempt=2)
    urgent = cluster.sbatch(
        "--partition=high", "--nodes=3", "--exclusive", "--wrap=sleep 1", cwd=interrupted.log.parent
    )
    interrupted.wait(lambda: cluster.job(urgent)["JobState"] == "COMPLETED")
    assert state(interrupted.run_dir)["state"] in ("preempted", "running")
    interrupted.wait_for_steps(steps=40, attempt=3)
    run_or_raise("scontrol", "requeue", str(interrupted.number))
    interrupted.wait_for_steps(steps=50, attempt=4)
    interrupted.release()
    assert interrupted.wait_for_end() == "COMPLETED", interrupted.output()
    assert outcome(interrupted.run_dir) == single_node
    assert "preempted: interrupted by SIGTERM" in interrupted.output()
    assert "was written by an earlier attempt of this job and is kept" in interrupted.output()


def test_a_job_saves_before_its_time_limit_and_resumes_after_requeueing(job, site):
    """Time limits are whole minutes; SIGUSR1 is requested one minute before the limit.

    SLURM ends the job before `scontrol requeue` has returned, as can happen on a busy node.
    """
    slow = site / "slow" / "scontrol"
    slow.parent.mkdir()
    called = site / "requeued slowly"
    slow.write_text(
        f'#!/bin/bash\n{shutil.which("scontrol")} "$@" && if [ "$1" = requeue ]; then touch "{called}"; sleep 2; fi\n'
    )
    slow.chmod(0o755)
    environment = site / "slurm" / "site.env"
    environment.write_text(environment.read_text().replace('PATH="', f'PATH="{slow.parent}:'))
    flags = ("--train.epochs", "400", "--tracking.log_every", "1")
    limited = job(*flags, options=(*NODES, "--time=2", "--signal=B:USR1@60"), held_after=4000)
    # Not at the first signal: on a slow machine the run has not started by then, and the job is requeued once more.
    limited.wait(lambda: "Resuming from" in limited.output())
    limited.wait_for_steps(steps=state(limited.run_dir)["step"] + 8, attempt=2)
    run_or_raise("scancel", str(limited.number))
    assert limited.wait_for_end() == "CANCELLED", limited.output()
    assert "preempted: interrupted by SIGUSR1" in limited.output()
    assert called.exists()
    requeueing = limited.output().partition("requeueing the job")[2].partition("] starting on")[0]
    assert "interrupting the ranks" not in requeueing, "SLURM ends the script, when there are no ranks any more"
    steps = [row["step"] for row in rows(limited.run_dir, "step")]
    assert steps == list(range(1, len(steps) + 1))


def test_a_job_that_slurm_does_not_requeue_says_how_to_resume(job):
    """With --no-requeue; before the run has started, when there is no checkpoint, and by another signal than USR1."""
    interrupted = job(*FLAGS, options=(*NODES, "--no-requeue"), held_after=0)
    interrupted.wait(lambda: "] starting on" in interrupted.output())
    run_or_raise("scancel", "--batch", "--signal=USR2", str(interrupted.number))
    assert interrupted.wait_for_end() == "FAILED", interrupted.output()
    assert "checkpoint saved" not in interrupted.output()
    last = interrupted.output().splitlines()[-1]
    assert "SLURM does not requeue this job, see the error above: the same sbatch command resumes the run" in last


def test_a_cancelled_job_saves_and_is_not_requeued(job, site):
    cancelled = job(*FLAGS, "--overwrite", held_after=HELD_AFTER)
    cancelled.wait_for_steps(HELD_AFTER)
    cancelled.wait((site / "held").exists)
    run_or_raise("scancel", str(cancelled.number))
    assert cancelled.wait_for_end() == "CANCELLED", cancelled.output()
    cancelled.wait(lambda: cancelled.cluster.states() == {"idle": 3})
    assert cancelled.state == "CANCELLED", "the job must not be requeued"
    assert "the same sbatch command with --overwrite false resumes the run" in cancelled.output()
    final = state(cancelled.run_dir)
    assert final["state"] == "preempted"
    assert (cancelled.run_dir / "checkpoints" / f"step-{final['step']:09d}.pt").exists()


def test_a_job_survives_the_death_of_a_node(cluster, job, single_node):
    interrupted = job(*FLAGS, held_after=HELD_AFTER)
    interrupted.wait_for_steps()
    lost = interrupted.nodes[1]
    cluster.kill_node(lost)
    try:
        interrupted.wait_for_steps(steps=30, attempt=2)
        assert lost not in interrupted.nodes
        interrupted.release()
        assert interrupted.wait_for_end() == "COMPLETED", interrupted.output()
        assert outcome(interrupted.run_dir) == single_node
    finally:
        cluster.start_node(lost)


def test_ranks_on_a_disconnected_node_write_nothing_more(cluster, job, single_node):
    """Rank 0 is on the disconnected node; its processes stay alive and share the other nodes' file system."""
    interrupted = job(*FLAGS, held_after=HELD_AFTER)
    interrupted.wait_for_steps()
    lost = interrupted.nodes[0]
    old = interrupted.ranks(lost)
    cluster.disconnect(lost)
    try:
        interrupted.wait_for_steps(steps=30, attempt=2)
        assert lost not in interrupted.nodes
        interrupted.release()
        assert interrupted.wait_for_end() == "COMPLETED", interrupted.output()
        assert outcome(interrupted.run_dir) == single_node
        interrupted.wait(lambda: not any(Path(f"/proc/{pid}").exists() for pid in old))
    finally:
        cluster.reconnect(lost)


def test_two_jobs_on_one_node_do_not_interfere(job):
    options = ("--nodes=1", "--ntasks-per-node=2", "--nodelist=n1", "--cpus-per-task=1")
    both = [job("--seed", str(seed), options=options, name=f"run-{seed}") for seed in (3, 4)]
    for each in both:
        assert each.wait_for_end() == "COMPLETED", each.output()
        assert each.nodes == ["n1"]
    first, second = (outcome(each.run_dir) for each in both)
    assert first != second


@pytest.mark.parametrize(
    ("flags", "attempts", "message", "last"),
    [
        (
            ("--train.epoch", "3"),
            0,
            "did you mean train.epochs?",
            "not started: fix the error above, then run the same",
        ),
        (("--data.shards", "no/such/place"), 3, "no/such/place", "giving up after 3 failed attempts to start"),
    ],
)
def test_a_failing_configuration_is_not_retried_forever(job, flags, attempts, message, last):
    """Invalid options never; a missing file a few times, because a file system may only be late."""
    failing = job(*flags, options=("--nodes=1", "--ntasks=1"))
    assert failing.wait_for_end() == "FAILED"
    assert message in failing.output()
    assert failing.output().count("] starting on ") == attempts
    assert last in failing.output().strip().splitlines()[-1]
    assert failing.cluster.job(failing.number)["ExitCode"] == "2:0"


def test_a_sweep_runs_as_a_job_array_whose_jobs_are_requeued_separately(cluster, site, shards, uninterrupted):
    """The interrupted job is the one whose id equals the array's, which scontrol could take for the array."""
    sweep = site / "sweep.yaml"
    sweep.write_text("- {seed: 1}\n- {seed: 2}\n- {seed: 1, optim.lr: 0.001}\n")
    arguments = ["--config", str(TINY), "--data.shards", str(shards), "--train.epochs", "6"]
    hold(site, 50)  # of 66 steps
    number = cluster.sbatch("--array=0-2", "slurm/sweep.sbatch", str(sweep), *arguments, cwd=site)
    runs = [site / "runs" / f"tiny-sweep-{index}" for index in range(3)]
    wait_for(lambda: all((path / "state.json").exists() for path in runs), f"all jobs of array {number} have started")
    index_of = {cluster.job(f"{number}_{index}")["JobId"]: index for index in range(3)}
    last = index_of[str(number)]
    wait_for(lambda: len(rows(runs[last], "step")) >= 8, f"array {number} trained 8 steps")
    run_or_raise("scancel", "--batch", "--signal=USR1", f"{number}_{last}")
    wait_for(lambda: state(runs[last])["attempt"] == 2, f"the interrupted job of array {number} has started again")
    release(site)
    wait_for(lambda: all((path / "result.json").exists() for path in runs), f"all jobs of array {number} have finished")
    assert [state(path)["attempt"] for path in runs] == [1 + (index == last) for index in range(3)]
    changes = (("--seed", "1"), ("--seed", "2"), ("--seed", "1", "--optim.lr", "0.001"))
    assert outcome(runs[last]) == uninterrupted("--train.epochs", "6", *changes[last])
    table = run_command(
        [sys.executable, "-m", "regnet.sweep", "table", str(sweep), *arguments, "--runs_dir", str(site / "runs")]
    )
    assert table.returncode == 0, table.stderr
    seeds, learning_rate = (line for line in table.stdout.splitlines() if "%" in line)
    assert "only seeds" in seeds
    assert "optim.lr=0.001" in learning_rate
    wait_for(lambda: cluster.states() == {"idle": 3}, "all nodes are idle: finished runs must not restart")
    assert [state(path)["attempt"] for path in runs] == [1 + (index == last) for index in range(3)]


def test_resubmitting_a_finished_run_ends_at_once(job):
    options = ("--nodes=1", "--ntasks-per-node=1")
    for _ in range(2):
        completed = job("--train.max_steps_per_epoch", "2", options=options)
        assert completed.wait_for_end() == "COMPLETED", completed.output()
    assert "Already finished" in completed.output()


def test_the_debug_job_runs_the_doctor_and_trains(cluster, site, shards):
    number = cluster.sbatch("slurm/debug.sbatch", "--data.shards", str(shards), cwd=site)
    wait_for(lambda: cluster.job(number)["JobState"] in FINAL_STATES, f"job {number} ended")
    output = (site / f"regnet-debug-{number}.log").read_text()
    assert cluster.job(number)["JobState"] == "COMPLETED", output
    assert "SLURM" in output
    assert "Finished after 2 epochs" in output

"""The job scripts as they are, with the real trainer, on a real SLURM of three nodes."""

import os
import signal
import sys
from pathlib import Path

import pytest
import yaml
from cluster import must, wait_for
from programs import TINY, outcome, rows, state
from programs import run as run_command

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("slurm"), pytest.mark.timeout(400)]

FLAGS = ("--train.epochs", "10", "--checkpoint.every_steps", "4", "--tracking.log_every", "1")
NODES = ("--nodes=2", "--ntasks-per-node=2")
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@pytest.fixture
def alone(undisturbed):
    """The outcome on one machine of four processes."""
    return undisturbed(*FLAGS, processes=4)


class Job:
    """A batch job that trains tiny in the site's folder."""

    def __init__(
        self, cluster, site, shards, *flags, script="train.sbatch", options=NODES, before=(), name="tiny"
    ) -> None:
        self.cluster, self.run_dir = cluster, site / "runs" / name
        arguments = ["--config", str(TINY), "--name", name, "--data.shards", str(shards), *flags]
        self.number = cluster.sbatch(*options, f"slurm/{script}", *before, *arguments, cwd=site)
        self.log = site / f"regnet-{self.number}.log"

    @property
    def state(self) -> str:
        return self.cluster.job(self.number).get("JobState", "")

    @property
    def nodes(self) -> list[str]:
        return must("scontrol", "show", "hostnames", self.cluster.job(self.number)["NodeList"]).split()

    def at_work(self, steps: int = 8, attempt: int = 1) -> None:
        """Waits until an attempt has done so many steps of the run."""
        self.wait(lambda: (self.run_dir / "state.json").exists() and state(self.run_dir)["attempt"] >= attempt)
        self.wait(lambda: len(rows(self.run_dir, "step")) >= steps)
        assert self.state == "RUNNING", "it was to be disturbed at work"

    def wait(self, condition, timeout: float = 120) -> None:
        try:
            wait_for(condition, timeout, f"job {self.number}")
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.state}\n{self.told()}") from error

    def end(self, timeout: float = 180) -> str:
        self.wait(lambda: self.state in ENDS, timeout)
        return self.state

    def told(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def ranks(self, node: str) -> list[int]:
        """The trainer's processes on a node."""
        pids = [int(pid) for pid in must("ip", "netns", "pids", f"rg-{node}").split()]
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in pids}
        return [pid for pid, command in commands.items() if command[1:3] == ["-u", "train_ddp.py"]]


@pytest.fixture
def job(cluster, site, shards):
    wait_for(lambda: cluster.states() == {"idle": 3}, 60, "three idle nodes")
    return lambda *flags, **how: Job(cluster, site, shards, *flags, **how)


def test_two_nodes_of_two_ranks_equal_one_machine_of_four(job, alone):
    done = job(*FLAGS)
    assert done.end() == "COMPLETED", done.told()
    assert outcome(done.run_dir) == alone
    assert "4 x cpu" in done.told()
    last = done.told().strip().splitlines()[-1]
    assert "finished: 10 epochs done; results: runs/tiny" in last


def test_srun_alone_gives_the_same_from_shards_on_the_nodes_own_disk(job, site, shards, alone):
    environment = site / "slurm" / "site.env"
    environment.write_text(environment.read_text().replace("\nDATA_STAGE=\n", f"\nDATA_STAGE={site}/local\n"))
    done = job(*FLAGS, script="direct.sbatch")
    assert done.end() == "COMPLETED", done.told()
    (copy,) = (site / "local").iterdir()
    assert {path.name for path in shards.iterdir()} <= {path.name for path in copy.iterdir()}
    assert yaml.safe_load((done.run_dir / "config.yaml").read_text())["data"]["stage"] == f"{site}/local"
    assert outcome(done.run_dir) == alone


def test_a_job_that_loses_a_rank_is_preempted_and_requeued_equals_one_left_alone(cluster, job, alone):
    disturbed = job(*FLAGS)
    disturbed.at_work()
    os.kill(disturbed.ranks(disturbed.nodes[1])[0], signal.SIGKILL)
    disturbed.at_work(steps=20, attempt=2)
    urgent = cluster.sbatch("--partition=high", "--nodes=3", "--exclusive", "--wrap=sleep 1", cwd=disturbed.log.parent)
    disturbed.wait(lambda: cluster.job(urgent)["JobState"] == "COMPLETED")
    assert state(disturbed.run_dir)["state"] in ("preempted", "running")
    disturbed.at_work(steps=40, attempt=3)
    must("scontrol", "requeue", str(disturbed.number))
    assert disturbed.end() == "COMPLETED", disturbed.told()
    assert outcome(disturbed.run_dir) == alone
    assert "preempted: asked to leave by SIGTERM" in disturbed.told()
    assert state(disturbed.run_dir)["attempt"] >= 4


def test_before_the_time_limit_a_job_saves_and_goes_on_in_the_next(job):
    """SLURM counts in minutes, and is asked to tell of the end one minute before."""
    flags = ("--train.epochs", "400", "--tracking.log_every", "1")
    limited = job(*flags, options=(*NODES, "--time=2", "--signal=B:USR1@60"))
    limited.wait(lambda: "the time is nearly over" in limited.told(), 180)
    limited.at_work(steps=state(limited.run_dir)["step"] + 8, attempt=2)
    must("scancel", str(limited.number))
    assert limited.end() == "CANCELLED", limited.told()
    assert "preempted: asked to leave by SIGUSR1" in limited.told()
    assert "continuing from" in limited.told()
    steps = [row["step"] for row in rows(limited.run_dir, "step")]
    assert steps == list(range(1, len(steps) + 1))


def test_a_job_that_is_cancelled_saves_and_stays_cancelled(job):
    cancelled = job(*FLAGS)
    cancelled.at_work()
    must("scancel", str(cancelled.number))
    assert cancelled.end() == "CANCELLED", cancelled.told()
    cancelled.wait(lambda: cancelled.cluster.states() == {"idle": 3})
    assert cancelled.state == "CANCELLED", "nobody has put it back into the queue"
    told = state(cancelled.run_dir)
    assert told["state"] == "preempted"
    assert (cancelled.run_dir / "checkpoints" / f"step-{told['step']:09d}.pt").exists()


def test_a_node_that_dies_is_replaced(cluster, job, alone):
    disturbed = job(*FLAGS)
    disturbed.at_work()
    lost = disturbed.nodes[1]
    cluster.kill_node(lost)
    try:
        disturbed.at_work(steps=30, attempt=2)
        assert lost not in disturbed.nodes
        assert disturbed.end() == "COMPLETED", disturbed.told()
        assert outcome(disturbed.run_dir) == alone
    finally:
        cluster.start_node(lost)


def test_a_node_that_is_cut_off_writes_nothing_more(cluster, job, alone):
    """The first node, where rank zero is; it lives on, and its file system is the others'."""
    disturbed = job(*FLAGS)
    disturbed.at_work()
    lost = disturbed.nodes[0]
    old = disturbed.ranks(lost)
    cluster.cut_off(lost)
    try:
        disturbed.at_work(steps=30, attempt=2)
        assert lost not in disturbed.nodes
        assert disturbed.end() == "COMPLETED", disturbed.told()
        assert outcome(disturbed.run_dir) == alone
        disturbed.wait(lambda: not any(Path(f"/proc/{pid}").exists() for pid in old), 60)
    finally:
        cluster.reconnect(lost)


def test_two_jobs_on_one_node_do_not_meet(job):
    options = ("--nodes=1", "--ntasks-per-node=2", "--nodelist=n1", "--cpus-per-task=1")
    both = [job("--seed", str(seed), options=options, name=f"run-{seed}") for seed in (3, 4)]
    for one in both:
        assert one.end() == "COMPLETED", one.told()
        assert one.nodes == ["n1"]
    first, second = (outcome(one.run_dir) for one in both)
    assert first != second


@pytest.mark.parametrize(
    ("flags", "attempts", "words"),
    [
        (("--train.epoch", "3"), 3, "did you mean train.epochs?"),
        (("--data.shards", "no/such/place"), 3, "no/such/place"),
    ],
)
def test_a_failing_configuration_is_not_tried_for_ever(job, flags, attempts, words):
    failing = job(*flags)
    assert failing.end() == "FAILED"
    assert words in failing.told()
    assert failing.told().count("] starting on ") == attempts
    last = failing.told().strip().splitlines()[-1]
    assert "given up after 3 attempts" in last
    assert failing.cluster.job(failing.number)["ExitCode"] == "2:0"


def test_a_sweep_is_a_job_array_and_a_table_and_each_run_goes_back_into_the_queue_alone(
    cluster, site, shards, undisturbed
):
    """The element whose own number is the array's is the one that is told that its time is over."""
    sweep = site / "sweep.yaml"
    sweep.write_text("- {seed: 1}\n- {seed: 2}\n- {seed: 1, optim.lr: 0.001}\n")
    arguments = ["--config", str(TINY), "--data.shards", str(shards), "--train.epochs", "6"]
    number = cluster.sbatch("--array=0-2", "slurm/sweep.sbatch", str(sweep), *arguments, cwd=site)
    runs = [site / "runs" / f"tiny-sweep-{index}" for index in range(3)]
    wait_for(lambda: all((path / "state.json").exists() for path in runs), 120, f"job array {number}")
    named = {cluster.job(f"{number}_{index}")["JobId"]: index for index in range(3)}
    last = named[str(number)]
    wait_for(lambda: len(rows(runs[last], "step")) >= 8, 120, f"job array {number}")
    must("scancel", "--batch", "--signal=USR1", f"{number}_{last}")
    wait_for(lambda: all((path / "result.json").exists() for path in runs), 180, f"job array {number}")
    assert [state(path)["attempt"] for path in runs] == [1 + (index == last) for index in range(3)]
    changes = (("--seed", "1"), ("--seed", "2"), ("--seed", "1", "--optim.lr", "0.001"))
    assert outcome(runs[last]) == undisturbed("--train.epochs", "6", *changes[last])
    table = run_command(
        [sys.executable, "-m", "regnet.sweep", "table", str(sweep), *arguments, "--runs_dir", str(site / "runs")]
    )
    assert table.returncode == 0, table.stderr
    seeds, rate = (line for line in table.stdout.splitlines() if "%" in line)
    assert "seeds alone" in seeds
    assert "optim.lr=0.001" in rate
    wait_for(lambda: cluster.states() == {"idle": 3}, 60, "nothing that was finished to be started again")
    assert [state(path)["attempt"] for path in runs] == [1 + (index == last) for index in range(3)]


def test_a_finished_run_that_is_sent_again_is_done_at_once(job):
    options = ("--nodes=1", "--ntasks-per-node=1")
    for _ in range(2):
        done = job("--train.max_steps_per_epoch", "2", options=options)
        assert done.end() == "COMPLETED", done.told()
    assert "finished before" in done.told()


def test_the_debug_job_looks_around_and_trains(cluster, site, shards):
    number = cluster.sbatch("slurm/debug.sbatch", "--data.shards", str(shards), cwd=site)
    wait_for(lambda: cluster.job(number)["JobState"] in ENDS, 120, f"job {number}")
    told = (site / f"regnet-debug-{number}.log").read_text()
    assert cluster.job(number)["JobState"] == "COMPLETED", told
    assert "SLURM" in told
    assert "2 epochs done" in told

"""The job scripts as they are, with the real trainer, on a real SLURM of three nodes."""

import os
import signal
from pathlib import Path

import pytest
from cluster import must, wait_for
from programs import TINY, outcome, rows, state, trainer
from programs import run as run_command

pytestmark = [pytest.mark.xdist_group("slurm"), pytest.mark.timeout(400)]

FLAGS = ("--train.epochs", "14", "--checkpoint.every_steps", "4", "--tracking.log_every", "1")
NODES = ("--nodes=2", "--ntasks-per-node=2")
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory):
    """The same run on one machine of four processes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run_command(trainer(folder, shards, *FLAGS, processes=4))
    assert done.returncode == 0, done.stderr
    return outcome(folder / "tiny")


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
        return [pid for pid in pids if "python\0-u\0train_ddp.py" in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.fixture
def job(cluster, site, shards):
    wait_for(lambda: cluster.states() == {"idle": 3}, 60, "three idle nodes")
    return lambda *flags, **how: Job(cluster, site, shards, *flags, **how)


def test_two_nodes_of_two_ranks_equal_one_machine_of_four(job, undisturbed):
    done = job(*FLAGS)
    assert done.end() == "COMPLETED", done.told()
    assert outcome(done.run_dir) == undisturbed
    assert "4 x cpu" in done.told()
    last = done.told().strip().splitlines()[-1]
    assert "finished: 14 epochs done; results: runs/tiny" in last


def test_srun_alone_gives_the_same(job, undisturbed):
    done = job(*FLAGS, script="direct.sbatch")
    assert done.end() == "COMPLETED", done.told()
    assert outcome(done.run_dir) == undisturbed


def test_a_job_that_loses_a_rank_is_preempted_and_requeued_equals_one_left_alone(cluster, job, undisturbed):
    disturbed = job(*FLAGS)
    disturbed.at_work()
    os.kill(disturbed.ranks(disturbed.nodes[1])[0], signal.SIGKILL)
    disturbed.at_work(steps=20, attempt=2)
    urgent = cluster.sbatch("--partition=high", "--nodes=3", "--exclusive", "--wrap=sleep 1", cwd=disturbed.log.parent)
    disturbed.wait(lambda: cluster.job(urgent)["JobState"] == "COMPLETED")
    assert state(disturbed.run_dir)["state"] in ("preempted", "running")
    disturbed.at_work(steps=60, attempt=3)
    must("scontrol", "requeue", str(disturbed.number))
    assert disturbed.end() == "COMPLETED", disturbed.told()
    assert outcome(disturbed.run_dir) == undisturbed
    assert "preempted: asked to leave by SIGTERM" in disturbed.told()
    assert state(disturbed.run_dir)["attempt"] == 4

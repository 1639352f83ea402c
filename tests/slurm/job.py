"""A batch job on the test cluster that trains a run, and may hold it before its end."""

from pathlib import Path

from cluster import FINAL_STATES, run_or_raise, wait_for
from processes import TINY, command_line
from run_directory import rows, state

NODES = ("--nodes=2", "--ntasks-per-node=2")


def hold(site, steps):
    """Makes runs in this project directory wait after so many steps."""
    (site / "train_ddp.py").unlink()
    (site / "train_ddp.py").symlink_to(Path(__file__).with_name("held_trainer.py"))
    (site / "hold").write_text(str(steps))


def release(site):
    (site / "hold").unlink()


class Job:
    """A batch job that trains the run `tiny` in the site's project directory.

    Args:
        held_after: number of steps after which the run waits for `release`.
    """

    def __init__(
        self, cluster, site, shards, *flags, script="train.sbatch", options=NODES, name="tiny", held_after=None
    ) -> None:
        self.cluster, self.site, self.run_dir = cluster, site, site / "runs" / name
        if held_after is not None:
            hold(site, held_after)
        arguments = ["--config", str(TINY), "--name", name, "--data.shards", str(shards), *flags]
        self.number = cluster.sbatch(*options, f"slurm/{script}", *arguments, cwd=site)
        self.log = site / f"regnet-{self.number}.log"

    @property
    def state(self) -> str:
        return self.cluster.job(self.number).get("JobState", "")

    @property
    def nodes(self) -> list[str]:
        return run_or_raise("scontrol", "show", "hostnames", self.cluster.job(self.number)["NodeList"]).split()

    def wait_for_steps(self, steps: int = 8, attempt: int = 1) -> None:
        """Waits until the job runs, and the run is in at least this attempt and has trained this many steps in all."""

        def trained() -> bool:
            job_state = self.state
            assert job_state not in FINAL_STATES, "the job must not have ended when the test interferes"
            return (
                job_state == "RUNNING"
                and (self.run_dir / "state.json").exists()
                and state(self.run_dir)["attempt"] >= attempt
                and len(rows(self.run_dir, "step")) >= steps
            )

        self.wait(trained)

    def release(self) -> None:
        release(self.site)

    def wait(self, condition) -> None:
        try:
            wait_for(condition, f"job {self.number} was as expected")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.state}\n{self.output()}") from error

    def wait_for_end(self) -> str:
        self.wait(lambda: self.state in FINAL_STATES)
        return self.state

    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def ranks(self, node: str) -> list[int]:
        """Process ids of the trainer's ranks on a node."""
        commands = {pid: command_line(pid).split("\0") for pid in self.cluster.pids(node)}
        return [pid for pid, command in commands.items() if command[1:3] == ["-u", "train_ddp.py"]]

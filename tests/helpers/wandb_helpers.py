"""Starts the stand-in W&B server, interrupts runs, and compares what the server holds with metrics.jsonl."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from limits import LIMIT
from processes import ROOT, environment, kill_group, run, start, wait_until, with_fault
from run_directory import rows, state

KEY = "0123456789abcdef0123456789abcdef01234567"
# What the server stores of a step and of an epoch, by the columns of metrics.jsonl.
STEP = {"step": "step", "train/loss": "loss", "train/lr": "lr"}
EPOCH = {"epoch": "epoch", "step": "step", "train/epoch_loss": "train_loss", "train/top1": "train_top1"}
EPOCH |= {"val/top1": "val_top1", "val/loss": "val_loss", "val/top5": "val_top5"}


@dataclass
class Server:
    process: subprocess.Popen
    output: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.output.read_text().splitlines()[0]}"

    @property
    def environment(self) -> dict[str, str]:
        """Makes wandb use the server, and send rows at once rather than every 15 seconds."""
        return {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": self.url, "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "0.1"}

    def requests(self) -> list[dict]:
        """The requests so far; the last one may still be incomplete while the server is alive."""
        return [json.loads(line) for line in self.output.read_text().splitlines()[1:]]

    def runs(self) -> dict[str, dict]:
        with urllib.request.urlopen(f"{self.url}/runs", timeout=LIMIT) as reply:
            return json.load(reply)

    def run(self) -> dict:
        """The only run that the server has."""
        (run,) = self.runs().values()
        return run


@contextmanager
def server(behaviour: str = "well", *sweep: str) -> Iterator[Server]:
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "wandb_server.py"), behaviour, *sweep]
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "output", "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: "\n" in Path(output.name).read_text())
            yield Server(process, Path(output.name))
        finally:
            process.kill()
            process.wait(timeout=LIMIT)


def assert_complete(history: list[dict], run_directory: Path) -> None:
    """Every row of metrics.jsonl is in a history at W&B once, in order, with its values."""
    for kind, column, names in (("step", "train/loss", STEP), ("epoch", "val/top1", EPOCH)):
        sent = [{name: row[name] for name in names} for row in history if column in row]
        assert sent == [{name: row[ours] for name, ours in names.items()} for row in rows(run_directory, kind)]
    wandb_steps = [row["_step"] for row in history]
    assert wandb_steps == sorted(set(wandb_steps))


def kill_after(step, command, **env):
    """Kills a run, its wandb process excepted, after it has logged a step."""
    kill_group(start_and_wait(step, command, **env))
    assert not (folder_of(command) / "result.json").exists(), "killed too late"


def preempt_after(step, command, **env):
    """Preempts a run after it has logged a step; returns its output."""
    process = start_and_wait(step, command, **env)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=LIMIT)
    assert state(folder_of(command))["state"] == "preempted", err
    return out


def start_and_wait(step, command, **env):
    """Starts a run and returns it when it has logged a step; it waits for its signal a few steps later."""
    process = start(with_fault(command, f"waits_for_signal::{step + 3}"), **env)
    wait_until(lambda: any(row["step"] >= step for row in rows(folder_of(command), "step")))
    return process


def folder_of(command):
    return Path(command.arguments[command.arguments.index("--runs_dir") + 1]) / "tiny"


def finish(command, **env):
    done = run(command, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def upload(printed, **env):
    """Runs the command that a line of an offline run names."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = printed.partition("Upload with: ")[2]
    subprocess.run(
        command, shell=True, env=environment(**env, PATH=path), check=True, capture_output=True, timeout=LIMIT
    )

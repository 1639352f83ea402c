"""The command by which python -m regnet.runs resumes a run: the one that started it."""

import json
import shlex
import shutil
import sys

import pytest
from fork_server import ForkedCommand
from processes import TINY, TORCHRUN, faulty_trainer, run, trainer
from run_directory import state

from regnet.config.parser import parse_config
from regnet.runs.directory import RunDirectory
from regnet.runs.launch_command import launch_command, resume_command
from regnet.runs.status import Ending, Status

ONE_STEP = ("--train.max_minutes", "1e-9")


def next_steps(directory):
    done = run(ForkedCommand(["-m", "regnet.runs", str(directory), "--json"]))
    assert done.returncode == 0, done.stderr
    return {entry["name"]: entry["next"] for entry in json.loads(done.stdout)}


def arguments_of(command):
    """The trainer's arguments in a command."""
    return shlex.split(command.partition("train_ddp.py ")[2])


def test_the_command_resumes_the_run_without_its_time_limit(shards, tmp_path):
    flags = ("--overwrite", "true", *ONE_STEP, "--seed", "7")
    assert run(trainer(tmp_path, shards, *flags)).returncode == 75
    hint = next_steps(tmp_path)["tiny"]
    expected = trainer(tmp_path, shards, "--seed", "7").arguments
    assert hint == f"resume with: python {shlex.join(expected)}"
    done = run(ForkedCommand(["train_ddp.py", *arguments_of(hint)]))
    assert (done.returncode, "Resuming from" in done.stdout) == (0, True), done.stderr


@pytest.mark.thorough
def test_torchrun_is_part_of_the_command(shards, tmp_path):
    """As it is found by the tests: not on the search path."""
    command = trainer(tmp_path, shards, *ONE_STEP, processes=2, launcher=TORCHRUN)
    assert run(command).returncode == 0
    expected = trainer(tmp_path, shards, processes=2, launcher=TORCHRUN)
    assert next_steps(tmp_path)["tiny"] == f"resume with: {shlex.join(expected)}"


def test_a_copied_run_is_resumed_under_its_name(shards, tmp_path):
    assert run(trainer(tmp_path, shards, *ONE_STEP)).returncode == 75
    shutil.copytree(tmp_path / "tiny", tmp_path / "copy")
    hint = next_steps(tmp_path)["copy"]
    assert hint.endswith(f" --runs_dir {tmp_path} --name copy")
    done = run(ForkedCommand(["train_ddp.py", *arguments_of(hint)]))
    assert f"Resuming from {tmp_path}/copy/" in done.stdout, done.stderr
    assert state(tmp_path / "tiny")["state"] == "preempted"


@pytest.mark.parametrize("every_steps", ["0", "2"])
def test_a_diverged_run_is_not_to_be_resumed(shards, tmp_path, every_steps):
    flags = ("--tracking.log_every", "1", "--checkpoint.every_steps", every_steps)
    assert run(faulty_trainer(tmp_path, shards, "nan_loss::4", *flags)).returncode == 1
    assert state(tmp_path / "tiny")["diverged"] is True
    where = "" if every_steps == "0" else " under another --name, or with --overwrite"
    assert next_steps(tmp_path)["tiny"] == f"start over with other options (a lower optim.lr, optim.clip_norm){where}"


def open_run(parent, ending):
    config = parse_config(["--config", str(TINY), "--runs_dir", str(parent)])
    directory = RunDirectory(config, "images")
    directory.begin(0, 0, "1 x cpu")
    directory.write_state(0, 0, ending)
    directory.close()


def test_a_run_without_a_checkpoint_starts_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_ddp.py", "--config", "tests/tiny.yaml", "--runs_dir", str(tmp_path)])
    open_run(tmp_path, Ending(Status.failed, "a reason"))
    assert next_steps(tmp_path)["tiny"].startswith("start again with: python train_ddp.py --config ")


def test_a_run_that_was_started_from_python_is_resumed_with_its_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ipython"])
    open_run(tmp_path, Ending(Status.failed, "a reason"))
    assert next_steps(tmp_path)["tiny"] == (
        f"start again with: train_ddp.py --config {tmp_path}/tiny/config.yaml --train.max_minutes 0"
    )


def test_a_run_with_a_damaged_configuration_does_not_hide_the_others(tmp_path, monkeypatch):
    open_run(tmp_path, Ending(Status.failed, "a reason"))
    (tmp_path / "tiny" / "config.yaml").write_text("name: [")
    assert f"{tmp_path}/tiny/config.yaml: not readable as YAML" in next_steps(tmp_path)["tiny"]


def test_the_job_scripts_name_their_submission(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_ddp.py", "--name", "a b"])
    monkeypatch.setenv("REGNET_LAUNCHER", "sbatch --nodes=2 slurm/train.sbatch")
    assert launch_command() == ("sbatch", "--nodes=2", "slurm/train.sbatch", "--name", "a b")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("train --overwrite --name a", "train --name a"),
        ("train --overwrite", "train"),
        ("train --overwrite true --resume never --name a", "train --name a"),
        ("train --overwrite=true --train.max_minutes=5 a", "train a"),
        ("train --train.max_minutes 5 --name 'a b'", "train --name 'a b'"),
        ("train --train.max_steps_per_epoch 2", "train --train.max_steps_per_epoch 2"),
    ],
)
def test_options_of_one_attempt_are_omitted(command, expected):
    assert resume_command(shlex.split(command), "") == expected


@pytest.mark.parametrize("option", ["--config=/dev/fd/63", "--config /dev/stdin", "--config /proc/self/fd/0"])
def test_a_configuration_that_was_read_from_a_pipe_is_that_of_the_run(tmp_path, monkeypatch, option):
    """As in `--config <(sed ... config.yaml)`."""
    arguments = ["train_ddp.py", *option.split(), "--runs_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    open_run(tmp_path, Ending(Status.failed, "a reason"))
    expected = shlex.join(arguments).replace(option[9:], f"{tmp_path}/tiny/config.yaml")
    assert next_steps(tmp_path)["tiny"] == f"start again with: python {expected}"


def test_another_working_directory_is_named():
    assert resume_command(["train"], "/some where") == "cd '/some where' && train"

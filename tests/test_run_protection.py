"""Which directories hold a run to protect: before the first checkpoint, copied, renamed, locked."""

import json
import shutil
import time
from types import SimpleNamespace

import pytest
import yaml
from processes import TINY, faulty_trainer, run, trainer
from run_directory import outcome, rows, state

from regnet.config.parser import parse_config
from regnet.errors import UsageError
from regnet.runs.directory import RunDirectory

SHORT = ("--train.max_steps_per_epoch", "2")


def open_run(parent, *flags, begin=True, step=0):
    config = parse_config(["--config", str(TINY), "--runs_dir", str(parent), *flags])
    directory = RunDirectory(config, "images")
    if begin:
        directory.begin(0, step, "1 x cpu")
    directory.close()
    return directory


def write_file(run_dir, name):
    (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
    (run_dir / name).write_text(name)


def test_a_run_that_diverged_before_its_first_checkpoint_starts_again_with_another_learning_rate(shards, tmp_path):
    failed = run(faulty_trainer(tmp_path, shards, "nan_loss::3", "--tracking.log_every", "1"))
    assert (failed.returncode, "the loss is nan at step 3" in failed.stderr) == (1, True)
    done = run(trainer(tmp_path, shards, *SHORT, "--optim.lr", "0.001", "--train.epochs", "3"))
    assert done.returncode == 0, done.stderr
    line = (
        f"{tmp_path}/tiny has no checkpoint: it starts again with other options: optim.lr was 0.003, now 0.001; "
        "train.max_steps_per_epoch was 0, now 2; train.epochs was 2, now 3"
    )
    assert done.stdout.splitlines().count(line) == 1
    assert [row["step"] for row in rows(tmp_path / "tiny", "step")] == [1, 2, 3, 4, 5, 6]
    assert yaml.safe_load((tmp_path / "tiny" / "config.yaml").read_text())["optim"]["lr"] == 0.001
    assert run(trainer(tmp_path, shards, *SHORT, "--optim.lr", "0.01", "--train.epochs", "3")).returncode == 2


def test_a_run_that_starts_again_with_other_options_is_a_new_run_for_weights_and_biases(tmp_path):
    first = open_run(tmp_path)
    assert open_run(tmp_path).wandb_id == first.wandb_id
    other = open_run(tmp_path, "--optim.lr", "0.01")
    assert (other.attempt, other.wandb_id == first.wandb_id) == (3, False)


def test_a_directory_without_a_checkpoint_accepts_resume_never_and_other_images(tmp_path, capsys):
    open_run(tmp_path)
    open_run(tmp_path, "--resume", "never")
    assert capsys.readouterr().out == "", "nothing has changed"
    config = parse_config(["--config", str(TINY), "--runs_dir", str(tmp_path)])
    RunDirectory(config, "other images").close()
    assert capsys.readouterr().out.endswith("starts again with other options: the images are different\n")


@pytest.mark.parametrize(
    "name",
    ["checkpoints/step-000000003.pt", "checkpoints/best.pt", "checkpoints/step-000000003.damaged", "result.json"],
)
def test_a_directory_with_a_checkpoint_or_a_result_is_protected(tmp_path, name):
    open_run(tmp_path)
    write_file(tmp_path / "tiny", name)
    with pytest.raises(UsageError, match=r"optim\.lr was 0\.003, now 0\.01"):
        open_run(tmp_path, "--optim.lr", "0.01")
    with pytest.raises(UsageError, match="already contains a run"):
        open_run(tmp_path, "--resume", "never")


def test_a_run_whose_checkpoints_were_deleted_is_protected(tmp_path):
    open_run(tmp_path, step=5)
    with pytest.raises(UsageError, match=r"optim\.lr was 0\.003, now 0\.01"):
        open_run(tmp_path, "--optim.lr", "0.01")


@pytest.mark.parametrize("place", [shutil.copytree, shutil.move])
def test_a_copied_or_renamed_run_resumes_under_its_new_name(shards, uninterrupted, tmp_path, place):
    flags = ("--checkpoint.every_steps", "3")
    assert run(trainer(tmp_path, shards, *flags, "--train.max_minutes", "1e-9")).returncode == 75
    place(tmp_path / "tiny", tmp_path / "other")
    done = run(trainer(tmp_path, shards, *flags, "--name", "other"))
    assert done.returncode == 0, done.stderr
    assert f"Resuming from {tmp_path}/other/checkpoints/" in done.stdout
    assert outcome(tmp_path / "other") == uninterrupted()


@pytest.mark.parametrize("destination", [("--name", "other"), ("--runs_dir", "elsewhere")])
def test_a_copy_is_another_run_for_weights_and_biases_and_a_renamed_run_is_not(
    tmp_path, capsys, monkeypatch, destination
):
    monkeypatch.chdir(tmp_path)
    first = open_run("runs", step=3)
    config = parse_config(["--config", str(TINY), "--runs_dir", "runs", *destination])
    path = tmp_path / config.runs_dir / config.name
    shutil.copytree(tmp_path / "runs" / "tiny", path)
    copy = open_run("runs", *destination, step=3)
    assert copy.wandb_id != first.wandb_id
    assert "is a copy of runs/tiny: a new run for Weights & Biases" in capsys.readouterr().out
    assert open_run("runs", *destination).wandb_id == copy.wandb_id, "once"
    shutil.rmtree(path)
    path.parent.mkdir(exist_ok=True)
    shutil.move(tmp_path / "runs" / "tiny", path)
    assert open_run("runs", *destination).wandb_id == first.wandb_id


def test_a_copied_checkpoint_directory_alone_resumes_under_any_name(shards, tmp_path):
    assert run(trainer(tmp_path, shards, *SHORT, "--train.max_minutes", "1e-9")).returncode == 75
    shutil.copytree(tmp_path / "tiny" / "checkpoints", tmp_path / "other" / "checkpoints")
    done = run(trainer(tmp_path, shards, *SHORT, "--name", "other"))
    assert done.returncode == 0, done.stderr
    assert state(tmp_path / "other")["step"] == 4


def test_waiting_for_the_lock_is_reported_once(tmp_path, monkeypatch, capsys):
    """The other process ends during the third pause."""
    config = parse_config(["--config", str(TINY), "--runs_dir", str(tmp_path)])
    training, pauses = RunDirectory(config, "images"), []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            training.close()

    monkeypatch.setattr("regnet.runs.lock.time", SimpleNamespace(monotonic=time.monotonic, sleep=pause))
    RunDirectory(config, "images").close()
    assert capsys.readouterr().out == (
        f"{tmp_path}/tiny: another process is training this run; waiting up to 30 s for it to end\n"
    )
    assert len(pauses) == 3


def test_a_state_that_lacks_the_newer_fields_is_read(tmp_path):
    """Fields may be added to state.json without a new format."""
    open_run(tmp_path)
    path = tmp_path / "tiny" / "state.json"
    record = json.loads(path.read_text())
    for name in ("command", "directory", "diverged", "stale_epochs"):
        del record[name]
    path.write_text(json.dumps(record))
    assert open_run(tmp_path).attempt == 2


def test_a_damaged_state_is_reported_and_the_run_is_counted_anew(tmp_path, capsys):
    first = open_run(tmp_path, step=3)
    (tmp_path / "tiny" / "state.json").write_text("{")
    second = open_run(tmp_path)
    assert (second.attempt, second.wandb_id != first.wandb_id) == (1, True)
    message = capsys.readouterr().err
    assert message.startswith(f"{tmp_path}/tiny/state.json is damaged (")
    assert message.endswith("): the number of attempts and the run's id at Weights & Biases are lost\n")


def test_a_file_system_without_locks_is_rejected(shards, tmp_path):
    done = run(faulty_trainer(tmp_path, shards, "no_locks", *SHORT))
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path}/tiny/.lock: cannot be locked (No locks available): mount this file system with locks "
        "(NFS version 3: start rpc.statd; Lustre: option flock), or use a directory on another one\n"
    )

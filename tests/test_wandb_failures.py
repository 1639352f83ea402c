"""What W&B did not receive is reported and sent later; nothing of W&B ends a run or goes elsewhere unnoticed."""

import os
import signal

import pytest
from disks import mounted_tmpfs
from limits import LIMIT
from processes import ROOT, command_line, faulty_trainer, kill_group, run, start, trainer, wait_until
from run_directory import rows, state
from wandb_helpers import KEY, assert_complete, finish, preempt_after, server, upload

from benchmarks.launch import process_tree

FLAGS = ("--train.epochs", "4", "--tracking.log_every", "1", "--tracking.wandb_timeout", str(LIMIT))
QUICK = ("--train.max_steps_per_epoch", "4", "--tracking.log_every", "2", "--tracking.wandb_timeout", str(LIMIT))


def lines_about_wandb(output):
    return "".join(line for line in output.splitlines(keepends=True) if line.startswith("Weights & Biases"))


@pytest.mark.thorough
def test_rows_that_an_online_attempt_could_not_upload_are_in_the_next_offline_part(shards, tmp_path):
    folder = tmp_path / "tiny"
    offline = trainer(tmp_path, shards, *FLAGS, "--tracking.wandb", "offline")
    preempt_after(8, offline)
    online = (*FLAGS, "--tracking.wandb", "online", "--tracking.wandb_timeout", "3")
    with server("falling silent") as wandb:
        connected = faulty_trainer(tmp_path, shards, "connected_wandb", *online)
        output = preempt_after(20, connected, **wandb.environment)
    assert "Weights & Biases did not finish within 3 s (tracking.wandb_timeout)" in output
    assert not list(folder.glob("wandb/*/*.synced")), "the server does not have their rows"
    output = finish(offline)
    with server() as wandb:
        (line,) = (line for line in output.splitlines() if "Upload with: " in line)
        upload(line, **wandb.environment)
        assert_complete(wandb.run()["history"], folder)


@pytest.mark.thorough
def test_a_part_that_a_kill_has_emptied_does_not_stop_the_upload_of_the_others(shards, tmp_path):
    offline = trainer(tmp_path, shards, *FLAGS, "--tracking.wandb", "offline")
    preempt_after(8, offline)
    output = preempt_after(20, offline)
    (line,) = (line for line in output.splitlines() if "Upload with: " in line)
    log = max(tmp_path.glob("tiny/wandb/offline-run-*/*.wandb"))
    log.write_bytes(log.read_bytes()[:7])
    with server() as wandb:
        upload(line, **wandb.environment)
        assert [row["step"] for row in wandb.run()["history"] if "train/loss" in row][:8] == list(range(1, 9))


@pytest.mark.thorough
def test_rows_go_to_the_project_of_the_latest_attempt(shards, tmp_path):
    offline = trainer(tmp_path, shards, *FLAGS, "--tracking.wandb", "offline")
    preempt_after(8, offline, WANDB_PROJECT="first")
    output = finish(offline, WANDB_PROJECT="second")
    with server() as wandb:
        (line,) = (line for line in output.splitlines() if "Upload with: " in line)
        upload(f"Upload with: {line.partition(' && ')[2]}", **wandb.environment)
        assert wandb.run()["project"] == "second"
        assert_complete(wandb.run()["history"], tmp_path / "tiny")


def test_rows_of_another_run_under_the_same_id_are_reported(shards, tmp_path):
    with server() as wandb:
        env = {**wandb.environment, "WANDB_RUN_ID": "same"}
        online = trainer(tmp_path, shards, *QUICK, "--tracking.wandb", "online")
        assert "not of this run" not in finish(online, **env)
        longer = trainer(tmp_path, shards, *QUICK, "--tracking.wandb", "online", "--train.epochs", "3", "--overwrite")
        message = "same already has rows that are not of this run, up to its step 26; only later ones are sent"
        assert message in finish(longer, **env)


def test_a_run_that_is_stopped_at_wandb_saves_and_is_not_started_again_by_a_sweep(shards, tmp_path):
    with server("stopping") as wandb:
        flags = ("--tracking.wandb", "online", "--train.epochs", "1000", "--schedule.name", "baseline")
        done = run(faulty_trainer(tmp_path, shards, "impatient_wandb", *QUICK, *flags), **wandb.environment)
        assert done.returncode == 75, done.stderr
        assert "Weights & Biases: the run was stopped there\n" in done.stdout
        assert state(tmp_path / "tiny")["state"] == "preempted"
        assert (wandb.run()["preempting"], wandb.run()["exit_code"]) == (False, 1)
        assert_complete(wandb.run()["history"], tmp_path / "tiny")


@pytest.mark.parametrize("variable", ["WANDB_MODE=of", "WANDB_BASE_URL=foo", "WANDB_TAGS=a,,b", "WANDB_API_KEY= key"])
def test_an_invalid_setting_ends_no_run_and_is_named(shards, tmp_path, variable):
    name, _, value = variable.partition("=")
    output = finish(trainer(tmp_path, shards, *QUICK, "--tracking.wandb", "online"), **{name: value})
    *_, line = lines_about_wandb(output).splitlines()
    setting = {"WANDB_TAGS": "run_tags", "WANDB_API_KEY": "API key"}.get(name, name[6:].lower())
    assert line.startswith("Weights & Biases cannot be used (")
    assert setting in line
    assert line.endswith("; --tracking.wandb disabled turns it off")
    assert "pydantic" not in line


def test_an_invalid_key_is_named_and_the_run_is_logged_offline(shards, tmp_path):
    output = finish(trainer(tmp_path, shards, *QUICK, "--tracking.wandb", "auto"), WANDB_API_KEY="short")
    first, second = lines_about_wandb(output).splitlines()
    assert first.startswith("Weights & Biases cannot be used online (WANDB_API_KEY invalid: ")
    assert first.endswith("has 5)")
    assert second.startswith("Weights & Biases: logging offline. Upload with: wandb sync ")


def test_a_service_of_wandb_that_has_ended_ends_no_run_and_is_named(shards, tmp_path):
    """A program that has started the run exports its address."""
    variables = {"WANDB_SERVICE": f"3-1-unix-{tmp_path}/gone", "WANDB_API_KEY": KEY}
    output = finish(trainer(tmp_path, shards, *QUICK, "--tracking.wandb", "online"), **variables)
    error = f"Failed to connect to service on socket {tmp_path}/gone"
    assert lines_about_wandb(output).splitlines() == [
        f"Weights & Biases cannot be used online ({error})",
        f"Weights & Biases cannot be used offline ({error}); --tracking.wandb disabled turns it off",
    ]


def test_a_service_of_wandb_that_is_killed_is_reported_once_and_ends_no_run(shards, tmp_path):
    """As by the kernel, for lack of memory."""
    flags = (*FLAGS, "--tracking.wandb", "offline", "--train.epochs", "1000")
    process = start(faulty_trainer(tmp_path, shards, "connected_wandb", *flags))
    try:
        wait_until(lambda: rows(tmp_path / "tiny", "step"))
        (service,) = [pid for pid in process_tree(process.pid) if "wandb-core" in command_line(pid)]
        os.kill(service, signal.SIGKILL)
        steps = len(rows(tmp_path / "tiny", "step"))
        wait_until(lambda: len(rows(tmp_path / "tiny", "step")) > steps + 8)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=LIMIT)
    finally:
        kill_group(process)
    assert (process.returncode, err) == (75, "")
    assert lines_about_wandb(out).count("Weights & Biases failed: ") == 1
    assert state(tmp_path / "tiny")["state"] == "preempted"


@pytest.mark.parametrize("run_id", ["a/b", " a"])
def test_an_id_that_wandb_refuses_is_refused_before_it_is_stored(shards, tmp_path, run_id):
    done = run(trainer(tmp_path, shards, *QUICK), WANDB_RUN_ID=run_id)
    assert done.returncode == 2
    assert f"WANDB_RUN_ID={run_id!r} is invalid" in done.stderr
    assert not (tmp_path / "tiny" / "state.json").exists()


def test_a_directory_that_wandb_cannot_use_is_named(shards, tmp_path):
    with mounted_tmpfs(tmp_path / "home", "ro") as home:
        command = trainer(tmp_path, shards, *QUICK, "--tracking.wandb", "offline")
        output = finish(command, HOME=str(home), WANDB_DIR="~/logs", TMPDIR=str(tmp_path))
    assert f"{home / 'logs'} cannot be written; wandb's files are in {tmp_path / 'wandb'}" in lines_about_wandb(output)
    assert list(tmp_path.glob("wandb/offline-run-*"))
    assert not (ROOT / "~").exists()


@pytest.mark.thorough
def test_a_full_disk_floods_no_console(shards, tmp_path):
    with mounted_tmpfs(tmp_path / "small", "size=64k") as small:
        done = run(trainer(tmp_path, shards, *FLAGS, "--tracking.wandb", "offline"), WANDB_DIR=str(small))
    assert done.returncode == 0
    assert done.stderr == ""
    assert "lacks the last rows; its disk may be full" in lines_about_wandb(done.stdout)

"""W&B has every row of a run once, however the run was interrupted."""

import pytest
from limits import LIMIT
from processes import faulty_trainer, run, trainer
from run_directory import rows, state
from wandb_helpers import assert_complete, finish, kill_after, preempt_after, server, upload

FLAGS = ("--train.epochs", "5", "--tracking.log_every", "1", "--tracking.wandb_timeout", str(LIMIT))
ONLINE = (*FLAGS, "--tracking.wandb", "online")
OFFLINE = (*FLAGS, "--tracking.wandb", "offline")


def parts(folder):
    return sorted((folder / "wandb").glob("offline-run-*"))


@pytest.mark.thorough
def test_a_run_that_was_killed_online_is_complete(shards, tmp_path):
    with server() as wandb:
        command = faulty_trainer(tmp_path, shards, "connected_wandb", *ONLINE)
        kill_after(4, command, **wandb.environment)
        kill_after(25, command, **wandb.environment | {"WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "60"})
        assert len(wandb.run()["history"]) < 25, "the server has everything already"
        out = finish(command, **wandb.environment)
        assert "rows of earlier attempts from metrics.jsonl" in out
        url = f"{wandb.url}/someone/regnet/runs/{state(tmp_path / 'tiny')['wandb_id']}"
        assert f"Weights & Biases: {url}" in out
        assert state(tmp_path / "tiny")["wandb_url"] == url
        assert_complete(wandb.run()["history"], tmp_path / "tiny")
        assert wandb.run()["exit_code"] == 0


def test_a_run_that_was_killed_offline_is_complete_after_the_printed_command(shards, tmp_path):
    home = tmp_path / "a b"
    command = faulty_trainer(home, shards, "connected_wandb", *OFFLINE)
    kill_after(15, command)
    kill_after(36, command)
    out = finish(command)
    assert len(parts(home / "tiny")) == 3
    (line,) = (line for line in out.splitlines() if "Upload with: " in line)
    with server() as wandb:
        upload(line, **wandb.environment)
        assert_complete(wandb.run()["history"], home / "tiny")
        assert wandb.run()["summary"]["best/top1"] == max(row["val_top1"] for row in rows(home / "tiny", "epoch"))
    finish(command)


def test_a_run_trains_while_wandb_connects_and_may_be_killed_before(shards, tmp_path):
    with server() as wandb:
        kill_after(4, faulty_trainer(tmp_path, shards, "unreachable_wandb", *ONLINE), **wandb.environment)
        assert not wandb.runs()
        finish(trainer(tmp_path, shards, *ONLINE), **wandb.environment)
        assert_complete(wandb.run()["history"], tmp_path / "tiny")


@pytest.mark.thorough
def test_rows_that_were_logged_offline_are_sent_online_and_need_no_sync(shards, tmp_path):
    command = trainer(tmp_path, shards, *ONLINE)
    with server() as wandb:
        kill_after(4, command, **wandb.environment)
        with server("refusing") as other:
            preempt_after(25, command, **other.environment)
        (part,) = parts(tmp_path / "tiny")
        finish(command, **wandb.environment)
        assert_complete(wandb.run()["history"], tmp_path / "tiny")
        assert list(part.glob("*.wandb.synced")), "wandb sync would send its rows a second time"


@pytest.mark.thorough
def test_a_preempted_run_is_shown_as_preempted_and_continues_without_a_gap(shards, tmp_path):
    command = faulty_trainer(tmp_path, shards, "declining_metrics", *ONLINE)
    with server() as wandb:
        preempt_after(15, command, **wandb.environment)
        assert (wandb.run()["preempting"], wandb.run()["exit_code"]) == (True, 1)
        assert_complete(wandb.run()["history"], tmp_path / "tiny")
        assert "earlier attempts" not in finish(command, **wandb.environment), "everything had arrived"
        assert_complete(wandb.run()["history"], tmp_path / "tiny")
        assert (wandb.run()["preempting"], wandb.run()["exit_code"]) == (False, 0)
        tops = [row["val_top1"] for row in rows(tmp_path / "tiny", "epoch")]
        assert wandb.run()["summary"]["best/top1"] == max(tops) == tops[0], "that of an earlier attempt"


def test_a_failed_run_is_shown_as_failed(shards, tmp_path):
    with server() as wandb:
        done = run(faulty_trainer(tmp_path, shards, "raises:0:4", *ONLINE), **wandb.environment)
        assert done.returncode == 1, done.stderr
        assert (wandb.run()["preempting"], wandb.run()["exit_code"]) == (False, 1)
        assert_complete(wandb.run()["history"], tmp_path / "tiny")


@pytest.mark.thorough
def test_a_finished_run_that_is_extended_keeps_its_history(shards, tmp_path):
    flags = ("--schedule.name", "baseline", "--tracking.wandb", "online", "--tracking.log_every", "3")
    with server() as wandb:
        for epochs in ("1", "2"):
            finish(trainer(tmp_path, shards, *flags, "--train.epochs", epochs), **wandb.environment)
        assert_complete(wandb.run()["history"], tmp_path / "tiny")
        assert len([row for row in wandb.run()["history"] if "val/classes" in row]) == 2

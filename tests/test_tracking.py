"""Weights & Biases is told everything, and can never hold up or end a run."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from programs import PYTHON, ROOT, kill_group, result, rows, run, skewed, start, state, trainer, wait_until
from wandb_file import read_run

KEY = "0123456789abcdef0123456789abcdef01234567"
QUICK = ("--train.max_steps", "4", "--tracking.log_every", "2")


@contextmanager
def server(behaviour):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "wandb_server.py"), behaviour],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        yield process, url
    finally:
        process.kill()
        process.wait(timeout=10)


def offline_file(folder):
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return path


def test_without_a_key_the_run_is_recorded_offline_and_says_how_to_send_it(shards, tmp_path):
    done = run(trainer(tmp_path, shards, *QUICK, "--tracking.wandb", "auto"), HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "tiny"
    assert f"wandb sync {offline_file(folder).parent}" in done.stdout
    told = read_run(offline_file(folder))
    assert told["id"] == state(folder)["wandb_id"]
    assert told["config"]["optim"]["lr"] == 0.003
    steps = [row for row in told["rows"] if "loss" in row]
    assert [(row["step"], row["loss"], row["lr"]) for row in steps] == [
        (row["step"], row["loss"], row["lr"]) for row in rows(folder, "step")
    ]
    epochs = [row for row in told["rows"] if "val_accuracy" in row]
    assert [row["val_accuracy"] for row in epochs] == [row["val_accuracy"] for row in rows(folder, "epoch")]
    assert told["summary"]["test_accuracy"] == result(folder)["top1"]
    assert told["stats"] > 0, "system metrics"
    (table,) = folder.glob("wandb/offline-run-*/files/media/table/*.json")
    assert {row[0]: row[1] for row in json.loads(table.read_text())["data"]} == result(folder)["class_accuracy"]


def test_only_rank_zero_talks_to_wandb(shards, tmp_path):
    done = run(trainer(tmp_path, shards, *QUICK, "--tracking.wandb", "offline", processes=2))
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "tiny").glob("wandb/offline-run-*"))) == 1


def test_online_the_server_gets_every_row(shards, tmp_path):
    with server("well") as (process, url):
        done = run(trainer(tmp_path, shards, *QUICK, "--tracking.wandb", "auto"), WANDB_API_KEY=KEY, WANDB_BASE_URL=url)
        assert done.returncode == 0, done.stderr
        assert "offline" not in done.stdout
        process.kill()
        sent = [json.loads(line) for line in process.stdout]
    streamed = "".join(json.dumps(line["stream"]) for line in sent if "stream" in line)
    for row in rows(tmp_path / "tiny", "step"):
        assert str(row["loss"]) in streamed
    assert any("UpsertBucket" in line.get("query", "") for line in sent)


KILLED = {
    "killed at work": lambda folder: rows(folder, "step"),
    "killed at the end": lambda folder: (folder / "result.json").exists(),
}


@pytest.fixture(scope="module")
def without(shards, tmp_path_factory):
    """The steps of a run without Weights & Biases, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("without")
    began = time.monotonic()
    assert run(trainer(folder, shards, *QUICK, launcher=PYTHON)).returncode == 0
    return rows(folder / "tiny", "step"), time.monotonic() - began


@pytest.mark.parametrize("behaviour", ["absent", "refusing", "failing", "silent", "falling silent", "dying", *KILLED])
def test_a_server_that_fails_delays_a_run_by_seconds_and_never_ends_it(shards, tmp_path, without, behaviour):
    steps, alone = without
    folder = tmp_path / "tiny"
    with server("well" if behaviour in KILLED else behaviour) as (process, url):
        if behaviour == "absent":
            process.kill()
        began = time.monotonic()
        flags = (*QUICK, "--tracking.wandb", "online", "--tracking.wandb_timeout", "3")
        training = start(trainer(tmp_path, shards, *flags, launcher=PYTHON), WANDB_API_KEY=KEY, WANDB_BASE_URL=url)
        try:
            if behaviour in KILLED:
                wait_until(lambda: KILLED[behaviour](folder))
                process.kill()
            out, err = training.communicate(timeout=alone + 90)
        finally:
            kill_group(training)
        delay = time.monotonic() - began - alone
    print(f"{behaviour}: a delay of {delay:.1f} s")
    assert training.returncode == 0, err
    assert rows(folder, "step") == steps
    assert state(folder)["state"] == "finished"
    if behaviour not in ("falling silent", "dying", *KILLED):
        assert "cannot be used online" in out
        assert len(read_run(offline_file(folder))["rows"]) >= 8


def test_a_call_that_never_comes_back_is_not_waited_for(shards, tmp_path):
    flags = (*QUICK, "--tracking.wandb", "offline", "--tracking.wandb_timeout", "1")
    done = run(skewed(tmp_path, shards, "stuck_wandb", *flags, launcher=PYTHON), timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Weights & Biases does not answer: the run ends without it" in done.stdout
    assert state(tmp_path / "tiny")["state"] == "finished"


def test_a_resumed_run_stays_the_same_run_and_the_key_is_written_nowhere(shards, tmp_path):
    flags = ("--tracking.wandb", "offline", "--tracking.log_every", "1")
    process = start(trainer(tmp_path, shards, *flags), WANDB_API_KEY=KEY)
    wait_until(lambda: len(rows(tmp_path / "tiny", "step")) >= 12)
    kill_group(process)
    done = run(trainer(tmp_path, shards, *flags), WANDB_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    files = list((tmp_path / "tiny").glob("wandb/offline-run-*/run-*.wandb"))
    assert len({path.name for path in files}) == 1
    assert read_run(max(files, key=lambda path: path.stat().st_mtime))["id"] == state(tmp_path / "tiny")["wandb_id"]
    for path in (tmp_path / "tiny").rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in done.stdout + done.stderr

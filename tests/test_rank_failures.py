"""If a rank dies, hangs or fails, all ranks exit within seconds and report which one it was."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from fork_server import free_port
from limits import LIMIT, scaled
from processes import (
    PYTHON,
    TORCHRUN,
    faulty_trainer,
    has_exited,
    kill_group,
    ranks_of,
    run,
    start,
    trainer,
    wait_until,
)
from run_directory import outcome, rows, state
from thoroughness import parametrize_some

SLOW = ("--train.epochs", "400")


def start_training(folder, command):
    """Starts a command and waits for its first steps; returns it and the process ids of its ranks, by rank."""
    process = start(command)
    wait_until(lambda: len(rows(folder / "tiny", "step")) >= 8)
    return process, ranks_of(process)


def wait_for_exit(process):
    started = time.monotonic()
    try:
        return process.communicate(timeout=LIMIT)
    finally:
        print(f"all processes exited after {time.monotonic() - started:.1f} s")
        kill_group(process)


@parametrize_some(("victim", "processes"), [(2, 3), (0, 2)])
def test_when_a_rank_is_killed_the_job_ends_and_names_it(shards, tmp_path, victim, processes):
    process, pids = start_training(tmp_path, trainer(tmp_path, shards, *SLOW, processes=processes, launcher=TORCHRUN))
    os.kill(pids[victim], signal.SIGKILL)
    _, err = wait_for_exit(process)
    assert process.returncode != 0
    assert all(map(has_exited, pids))
    for survivor in set(range(processes)) - {victim}:
        assert f"failed (rank {survivor}): rank {victim} stopped responding" in err
    last = err[err.rindex("Root Cause") :]
    assert f"rank      : {victim} " in last
    assert "SIGKILL" in last
    assert state(tmp_path / "tiny")["state"] == "failed", "written by a surviving rank"
    assert f"rank {victim} stopped responding" in state(tmp_path / "tiny")["reason"]


def test_without_a_launcher_all_ranks_exit_when_rank_zero_dies_with_the_store(shards, tmp_path):
    process, pids = start_training(tmp_path, trainer(tmp_path, shards, *SLOW, processes=3))
    os.kill(pids[0], signal.SIGKILL)
    _, err = wait_for_exit(process)
    for survivor in (1, 2):
        assert f"failed (rank {survivor}): lost the connection to the rendezvous store" in err
    assert state(tmp_path / "tiny")["state"] == "failed"


def test_a_hanging_rank_counts_as_dead_after_heartbeat_timeout(shards, tmp_path):
    silence = scaled(3)
    flags = (*SLOW, "--distributed.heartbeat_timeout", str(silence))
    process, pids = start_training(tmp_path, trainer(tmp_path, shards, *flags, processes=3))
    os.kill(pids[1], signal.SIGSTOP)
    wait_until(lambda: has_exited(pids[0]) and has_exited(pids[2]))
    os.kill(pids[1], signal.SIGKILL)  # as a launcher does eventually
    _, err = wait_for_exit(process)
    for survivor in (0, 2):
        assert f"failed (rank {survivor}): rank 1 stopped responding: no heartbeat for {silence:g} s" in err
    assert state(tmp_path / "tiny")["reason"] == f"rank 1 stopped responding: no heartbeat for {silence:g} s"


@pytest.mark.thorough
def test_a_suspended_and_resumed_job_reports_no_dead_rank(shards, tmp_path):
    """Ranks are resumed one by one; the first to resume sees the other's last heartbeat before the suspension."""
    flags = (*SLOW, "--distributed.heartbeat_timeout", str(scaled(4)))
    process, pids = start_training(tmp_path, trainer(tmp_path, shards, *flags, processes=2))
    for rank in (1, 0):
        os.kill(pids[rank], signal.SIGSTOP)
    time.sleep(scaled(8))
    for rank in (0, 1):
        os.kill(pids[rank], signal.SIGCONT)
        time.sleep(scaled(1))
    time.sleep(scaled(7))  # if a rank were reported, the job would exit after a grace period of five seconds
    steps = len(rows(tmp_path / "tiny", "step"))
    wait_until(lambda: len(rows(tmp_path / "tiny", "step")) >= steps + 8)
    process.send_signal(signal.SIGTERM)
    wait_for_exit(process)
    assert state(tmp_path / "tiny")["state"] == "preempted"


@pytest.mark.thorough
def test_torchrun_restarts_the_process_group_and_it_resumes(shards, uninterrupted, tmp_path):
    flags = ("--train.epochs", "8", "--checkpoint.every_steps", "3", "--tracking.log_every", "1")
    launcher = (*TORCHRUN, "--max-restarts=1", "--monitor-interval=1")
    command = faulty_trainer(tmp_path, shards, "never_finishes", *flags, processes=2, launcher=launcher)
    process, pids = start_training(tmp_path, command)
    os.kill(pids[1], signal.SIGKILL)
    out, err = wait_for_exit(process)
    assert process.returncode == 0, err
    assert "Resuming from" in out
    assert state(tmp_path / "tiny")["attempt"] == 2
    expected = uninterrupted("--train.epochs", "8", "--tracking.log_every", "5", processes=2)
    assert outcome(tmp_path / "tiny") == expected, "independent of tracking.log_every"


@pytest.mark.thorough
def test_ranks_exit_after_their_launcher_is_killed_and_the_next_attempt_waits_for_them(shards, tmp_path):
    """torchrun starts its ranks in a new session, so a signal to its process group does not reach them."""
    flags = (*SLOW, "--checkpoint.every_steps", "5")
    process, pids = start_training(tmp_path, trainer(tmp_path, shards, *flags, processes=2, launcher=TORCHRUN))
    kill_group(process)
    next_attempt = start(trainer(tmp_path, shards, *flags, "--train.max_minutes", "1e-9"))
    try:
        wait_until(lambda: all(map(has_exited, pids)))
        out, err = next_attempt.communicate(timeout=LIMIT)
    finally:
        kill_group(next_attempt)
    assert next_attempt.returncode == 75, err
    assert "Resuming from" in out


@pytest.mark.thorough
def test_a_rank_does_not_wait_for_a_launcher_that_is_gone(shards, tmp_path):
    """A launcher's store is up before its ranks start, so distributed.timeout does not apply to it."""
    orphan = {"TORCHELASTIC_USE_AGENT_STORE": "True", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
    finished = run(trainer(tmp_path, shards), MASTER_ADDR="127.0.0.1", MASTER_PORT="1", **orphan)
    assert finished.returncode == 1
    message = "failed (rank 1): rendezvous failed: waited 10 s for the rendezvous store at 127.0.0.1:1"
    assert message in finished.stderr


@pytest.mark.thorough
def test_a_failure_is_reported_immediately_even_if_the_disk_hangs(shards, tmp_path):
    """Rank zero itself may wait for the disk, but the other ranks must not."""
    flags = (*SLOW, "--checkpoint.every_steps", "2", "--distributed.heartbeat_timeout", str(scaled(5)))
    process = start(faulty_trainer(tmp_path, shards, "raises_while_disk_hangs:0:3", *flags, processes=3))
    _, err = wait_for_exit(process)
    assert process.returncode != 0
    for rank in (1, 2):
        assert f"failed (rank {rank}): rank 0 failed: a defect on this rank alone" in err


@pytest.mark.thorough
def test_rank_zero_hosts_the_store_until_the_last_rank_has_exited(shards, tmp_path):
    finished = run(faulty_trainer(tmp_path, shards, "slow_shutdown:1", "--train.max_steps_per_epoch", "2", processes=2))
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.thorough
def test_ranks_started_by_srun_need_no_torchrun(shards, uninterrupted, tmp_path):
    """Rank zero hosts the store then; it does not have to start first."""
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    command = trainer(tmp_path, shards, launcher=PYTHON)
    ranks = [start(command, RANK=str(rank), LOCAL_RANK=str(rank), **variables) for rank in (1, 0)]
    for process in ranks:
        _, err = wait_for_exit(process)
        assert (process.returncode, "Traceback" in err) == (0, False), err
    assert outcome(tmp_path / "tiny") == uninterrupted(processes=2)


@parametrize_some(
    ("fault", "reason"),
    [
        ("raises:1:5", "rank 1 failed: a defect on this rank alone"),
        ("broken_loader:1:5", "rank 1 failed: the loader failed: ValueError: no such pixel"),
        (
            "stalled_loader:1:5",
            "rank 1 failed: the loader's thread stalled: no batch for SECONDS s (data.loader_timeout)",
        ),
    ],
)
def test_a_failure_on_one_rank_ends_all_ranks_and_all_report_it(shards, tmp_path, fault, reason):
    seconds = scaled(8)
    reason = reason.replace("SECONDS", f"{seconds:g}")
    flags = (*SLOW, "--data.loader_timeout", str(seconds))
    finished = run(faulty_trainer(tmp_path, shards, fault, *flags, processes=3))
    assert finished.returncode != 0
    for rank in (0, 2):
        assert f"failed (rank {rank}): {reason}" in finished.stderr
    assert state(tmp_path / "tiny")["state"] == "failed"
    assert state(tmp_path / "tiny")["reason"] == reason


def truncate(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size // 2)


@parametrize_some(("damage", "reason"), [(truncate, "changed during the run"), (Path.unlink, "was deleted")])
@pytest.mark.parametrize("processes", [0, 2])
def test_a_shard_that_is_deleted_or_truncated_during_training_is_named(shards, tmp_path, damage, reason, processes):
    """No rank reads a batch at that time, in the second epoch: reading what is cut off ends a process with SIGBUS."""
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    process = start(faulty_trainer(tmp_path, copy, "pauses_reading::20", *SLOW, processes=processes))
    wait_until(lambda: len(list(copy.glob("paused-*"))) == max(1, processes))
    shard = sorted(copy.glob("train-*.beton"))[1]
    damage(shard)
    (copy / "continue").touch()
    _, err = wait_for_exit(process)
    assert process.returncode == 1
    for prefix in [f"failed (rank {rank}): " for rank in range(processes)] or ["failed: "]:
        assert prefix in err
    assert str(shard) in err
    assert reason in err
    assert state(tmp_path / "tiny")["state"] == "failed"


def resources(pid):
    """Threads, open files and resident memory in MB of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["Threads"]), len(os.listdir(f"/proc/{pid}/fd")), int(status["VmRSS"].split()[0]) / 1024


@pytest.mark.thorough
def test_threads_files_and_memory_do_not_grow_over_20_shortened_epochs(shards, tmp_path):
    process = start(trainer(tmp_path, shards, *SLOW, "--train.max_steps_per_epoch", "3"))
    samples = []
    for epoch in range(1, 26):
        wait_until(lambda epoch=epoch: len(rows(tmp_path / "tiny", "epoch")) >= epoch)
        samples.append(resources(process.pid))
    process.send_signal(signal.SIGTERM)
    wait_for_exit(process)
    assert process.returncode == 75
    early, late = ([max(values) for values in zip(*part, strict=True)] for part in (samples[2:7], samples[-5:]))
    print(f"threads, files, MB in epochs 3 to 7 {early}, in the last five {late}")
    assert late[0] <= early[0] + 1, "a loader or a writer may be at work"
    assert late[1] <= early[1] + 2
    assert late[2] <= early[2] + 10

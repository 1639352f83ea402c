"""A rank that dies, hangs or fails ends all the others, soon, and is named."""

import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from programs import (
    PYTHON,
    TORCHRUN,
    faulty_trainer,
    has_exited,
    kill_group,
    outcome,
    ranks_of,
    rows,
    run,
    start,
    state,
    trainer,
    wait_until,
)

SLOW = ("--train.epochs", "400")
WITHIN = 30  # seconds from a death until every process is gone


def at_work(folder, command):
    """The started command once its run has done some steps, and its ranks' processes."""
    process = start(command)
    wait_until(lambda: len(rows(folder / "tiny", "step")) >= 8)
    return process, ranks_of(process)


def ended(process, timeout=WITHIN):
    began = time.monotonic()
    try:
        return process.communicate(timeout=timeout)
    finally:
        print(f"everything gone after {time.monotonic() - began:.1f} s")
        kill_group(process)


@pytest.mark.parametrize(("victim", "processes"), [(0, 2), (2, 3)])
def test_a_killed_rank_ends_the_job_and_is_named(shards, tmp_path, victim, processes):
    process, ranks = at_work(tmp_path, trainer(tmp_path, shards, *SLOW, processes=processes, launcher=TORCHRUN))
    os.kill(ranks[victim], signal.SIGKILL)
    _, err = ended(process)
    assert process.returncode != 0
    assert all(map(has_exited, ranks))
    for survivor in set(range(processes)) - {victim}:
        assert f"failed (rank {survivor}): rank {victim} is gone" in err
    last = err[err.rindex("Root Cause") :]
    assert f"rank      : {victim} " in last
    assert "SIGKILL" in last
    assert state(tmp_path / "tiny")["state"] == "failed", "whoever is left to say so"
    assert f"rank {victim} is gone" in state(tmp_path / "tiny")["reason"]


def test_without_a_launcher_rank_zero_takes_the_store_along_and_the_others_end(shards, tmp_path):
    process, ranks = at_work(tmp_path, trainer(tmp_path, shards, *SLOW, processes=3))
    os.kill(ranks[0], signal.SIGKILL)
    _, err = ended(process)
    for survivor in (1, 2):
        assert f"failed (rank {survivor}): the store that holds the ranks together is gone" in err
    assert state(tmp_path / "tiny")["state"] == "failed"


def test_a_rank_that_hangs_counts_as_gone_after_the_configured_time(shards, tmp_path):
    flags = (*SLOW, "--distributed.heartbeat_timeout", "3")
    process, ranks = at_work(tmp_path, trainer(tmp_path, shards, *flags, processes=3))
    os.kill(ranks[1], signal.SIGSTOP)
    wait_until(lambda: has_exited(ranks[0]) and has_exited(ranks[2]), WITHIN)
    os.kill(ranks[1], signal.SIGKILL)  # as launchers do in the end
    _, err = ended(process)
    for survivor in (0, 2):
        assert f"failed (rank {survivor}): rank 1 is gone: no sign of life for 3 s" in err
    assert state(tmp_path / "tiny")["reason"] == "rank 1 is gone: no sign of life for 3 s"


def test_a_job_that_was_suspended_as_a_whole_accuses_nobody(shards, tmp_path):
    """Rank by rank; the first that wakes sees the other where it was before the night."""
    flags = (*SLOW, "--distributed.heartbeat_timeout", "4")
    process, ranks = at_work(tmp_path, trainer(tmp_path, shards, *flags, processes=2))
    for asked, order in ((signal.SIGSTOP, (1, 0)), (signal.SIGCONT, (0, 1))):
        for rank in order:
            os.kill(ranks[rank], asked)
            threading.Event().wait(1)
        threading.Event().wait(6 if asked == signal.SIGSTOP else 0)
    threading.Event().wait(7)  # an accused job would be given five seconds to end by itself
    seen = len(rows(tmp_path / "tiny", "step"))
    wait_until(lambda: len(rows(tmp_path / "tiny", "step")) >= seen + 8)
    process.send_signal(signal.SIGTERM)
    ended(process)
    assert state(tmp_path / "tiny")["state"] == "preempted"


def test_torchrun_starts_the_group_again_and_it_resumes(shards, uninterrupted, tmp_path):
    flags = ("--train.epochs", "8", "--checkpoint.every_steps", "3", "--tracking.log_every", "1")
    launcher = (*TORCHRUN, "--max-restarts=1", "--monitor-interval=1")
    process, ranks = at_work(tmp_path, trainer(tmp_path, shards, *flags, processes=2, launcher=launcher))
    os.kill(ranks[1], signal.SIGKILL)
    out, err = ended(process, 120)
    assert process.returncode == 0, err
    assert "continuing from" in out
    assert state(tmp_path / "tiny")["attempt"] == 2
    whole = uninterrupted("--train.epochs", "8", "--tracking.log_every", "5", processes=2)
    assert outcome(tmp_path / "tiny") == whole, "however steps are reported"


def test_ranks_do_not_outlive_their_launcher_and_the_next_attempt_waits_for_them(shards, tmp_path):
    """torchrun gives its ranks a session of their own, so what kills it does not reach them."""
    flags = ("--train.epochs", "40", "--checkpoint.every_steps", "5")
    process, ranks = at_work(tmp_path, trainer(tmp_path, shards, *flags, processes=2, launcher=TORCHRUN))
    kill_group(process)
    again = start(trainer(tmp_path, shards, *flags, "--train.max_minutes", "1e-9"))
    try:
        wait_until(lambda: all(map(has_exited, ranks)), WITHIN)
        out, err = again.communicate(timeout=60)
    finally:
        kill_group(again)
    assert again.returncode == 75, err
    assert "continuing from" in out


def test_a_rank_that_finds_its_launcher_gone_does_not_wait_for_it(shards, tmp_path):
    """A launcher's store was there before its ranks were; the patience for ranks that are still to come is another."""
    orphan = {"TORCHELASTIC_USE_AGENT_STORE": "True", "WORLD_SIZE": "2", "RANK": "1"}
    done = run(trainer(tmp_path, shards), MASTER_ADDR="127.0.0.1", MASTER_PORT="1", **orphan)
    assert done.returncode == 1
    assert "failed (rank 1): the ranks could not be joined: there was no store at 127.0.0.1:1 for 10 s" in done.stderr


def test_a_rank_that_raises_while_disk_hangs_is_heard_at_once(shards, tmp_path):
    """Rank zero itself may wait for the disk in vain; the others need not."""
    flags = (*SLOW, "--checkpoint.every_steps", "2", "--distributed.heartbeat_timeout", "5")
    process = start(faulty_trainer(tmp_path, shards, "raises_while_disk_hangs:0:3", *flags, processes=3))
    _, err = ended(process, timeout=2 * WITHIN)
    assert process.returncode != 0
    for rank in (1, 2):
        assert f"failed (rank {rank}): rank 0 failed: a defect on this rank alone" in err


def test_rank_zero_keeps_the_store_until_the_last_has_left(shards, tmp_path):
    done = run(faulty_trainer(tmp_path, shards, "slow_shutdown:1", "--train.max_steps_per_epoch", "2", processes=2))
    assert (done.returncode, done.stderr) == (0, "")


def test_ranks_that_srun_starts_need_no_torchrun(shards, uninterrupted, tmp_path):
    """Rank zero, which need not be the first to come, keeps the store then."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    command = trainer(tmp_path, shards, launcher=PYTHON)
    ranks = [start(command, RANK=str(rank), LOCAL_RANK=str(rank), **places) for rank in (1, 0)]
    for process in ranks:
        _, err = ended(process, timeout=120)
        assert (process.returncode, "Traceback" in err) == (0, False), err
    assert outcome(tmp_path / "tiny") == uninterrupted(processes=2)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("raises:1:5", "rank 1 failed: a defect on this rank alone"),
        ("broken_loader:1:5", "rank 1 failed: the loader failed: ValueError: no such pixel"),
        ("stalled_loader:1:5", "rank 1 failed: the loader's thread stalled: no batch for 8 s"),
    ],
)
def test_what_fails_on_one_rank_ends_all_and_is_told_by_all(shards, tmp_path, what, words):
    flags = (*SLOW, "--data.loader_timeout", "8")
    done = run(faulty_trainer(tmp_path, shards, what, *flags, processes=3), timeout=60)
    assert done.returncode != 0
    for rank in (0, 2):
        assert f"failed (rank {rank}): {words}" in done.stderr
    assert state(tmp_path / "tiny")["state"] == "failed"
    assert state(tmp_path / "tiny")["reason"] == words


def cut(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size // 2)


@pytest.mark.parametrize(("damage", "words"), [(Path.unlink, "was deleted"), (cut, "it changed while it was in use")])
@pytest.mark.parametrize("processes", [0, 2])
def test_a_shard_that_is_taken_away_from_a_running_job_is_named(shards, tmp_path, damage, words, processes):
    own = tmp_path / "shards"
    shutil.copytree(shards, own)
    process = start(trainer(tmp_path, own, *SLOW, processes=processes))
    wait_until(lambda: len(rows(tmp_path / "tiny", "step")) >= 8)
    shard = sorted(own.glob("train-*.beton"))[1]
    damage(shard)
    _, err = ended(process)
    assert process.returncode == 1
    for rank in range(processes or 1):
        assert f"failed (rank {rank}): " in err
    assert str(shard) in err
    assert words in err
    assert state(tmp_path / "tiny")["state"] == "failed"


def levels(pid):
    """Threads, open files, resident memory in MB of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["Threads"]), len(os.listdir(f"/proc/{pid}/fd")), int(status["VmRSS"].split()[0]) / 1024


def test_threads_files_and_memory_stay_level_over_20_epochs_left_early(shards, tmp_path):
    process = start(trainer(tmp_path, shards, "--train.epochs", "26", "--train.max_steps_per_epoch", "3"))
    seen = []
    for epoch in range(1, 26):
        wait_until(lambda epoch=epoch: len(rows(tmp_path / "tiny", "epoch")) >= epoch)
        seen.append(levels(process.pid))
    ended(process)
    assert process.returncode == 0
    early, late = ([max(level) for level in zip(*part, strict=True)] for part in (seen[2:7], seen[-5:]))
    print(f"threads, files, MB in epochs 3 to 7 {early}, in the last five {late}")
    assert late[0] <= early[0] + 1, "a loader or a writer may be at work"
    assert late[1] <= early[1] + 2
    assert late[2] <= early[2] + 10

"""A run that is asked to leave saves itself at the next step, on all ranks at the same one."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from programs import (
    PYTHON,
    TORCHRUN,
    faulty_trainer,
    outcome,
    ranks_of,
    rows,
    run,
    signal_pending,
    start,
    state,
    trainer,
    wait_until,
)

from regnet.checkpoint.file import load

SLOW = ("--train.epochs", "400")


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_single_process_asked_to_leave_saves_and_exits_75(shards, tmp_path, signal_name):
    process = start(trainer(tmp_path, shards, *SLOW, launcher=PYTHON))
    wait_until(lambda: rows(tmp_path / "tiny", "step"))
    process.send_signal(getattr(signal, signal_name))
    began = time.monotonic()
    out, err = process.communicate(timeout=30)
    print(f"saved and gone after {time.monotonic() - began:.1f} s")
    assert process.returncode == 75, out + err
    told = state(tmp_path / "tiny")
    assert told["state"] == "preempted"
    assert signal_name in told["reason"]
    assert "the same command continues" in out
    assert (tmp_path / "tiny" / "checkpoints" / f"step-{told['step']:09d}.pt").exists()


def test_one_rank_asked_to_leave_takes_all_ranks_along_at_the_same_step(shards, tmp_path):
    process = start(trainer(tmp_path, shards, *SLOW, "--schedule.name", "baseline", processes=3))
    wait_until(lambda: rows(tmp_path / "tiny", "step"))
    os.kill(ranks_of(process)[2], signal.SIGUSR1)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, out + err
    told = state(tmp_path / "tiny")
    assert told["state"] == "preempted"
    more = ("--schedule.name", "baseline", "--train.epochs", str(told["epoch"] + 1))
    again = run(trainer(tmp_path, shards, *more, processes=3))
    assert again.returncode == 0, again.stderr
    steps = [row["step"] for row in rows(tmp_path / "tiny", "step")]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGINT"])
def test_torchrun_asked_to_leave_lets_its_ranks_save(shards, tmp_path, signal_name):
    process = start(trainer(tmp_path, shards, *SLOW, processes=2, launcher=TORCHRUN))
    wait_until(lambda: rows(tmp_path / "tiny", "step"))
    process.send_signal(getattr(signal, signal_name))
    process.communicate(timeout=60)
    told = state(tmp_path / "tiny")
    assert told["state"] == "preempted"
    assert (tmp_path / "tiny" / "checkpoints" / f"step-{told['step']:09d}.pt").exists()


@pytest.mark.parametrize("processes", [0, 2])
def test_a_time_limit_saves_and_leaves_as_a_signal_does(shards, tmp_path, processes):
    launcher = TORCHRUN if processes else ()
    done = run(trainer(tmp_path, shards, *SLOW, "--train.max_minutes", "0.05", processes=processes, launcher=launcher))
    assert done.returncode == (0 if processes else 75), done.stderr
    told = state(tmp_path / "tiny")
    assert told["state"] == "preempted"
    assert "the time limit (train.max_minutes)" in told["reason"]
    assert told["step"] >= 1, "three seconds, counted from the first step"


def listens(process):
    """Whether the process has a handler for SIGTERM; it is there before torch is."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1
    return False


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGINT"])
def test_a_signal_before_the_first_step_is_heard(shards, uninterrupted, tmp_path, signal_name):
    process = start(trainer(tmp_path, shards, launcher=PYTHON))
    wait_until(lambda: listens(process))
    process.send_signal(getattr(signal, signal_name))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (75, ""), out
    assert state(tmp_path / "tiny")["state"] == "preempted"
    assert rows(tmp_path / "tiny", "step") == []
    assert run(trainer(tmp_path, shards)).returncode == 0
    assert outcome(tmp_path / "tiny") == uninterrupted()


@pytest.mark.parametrize("second", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_signals_that_come_twice_and_while_a_checkpoint_is_written_cost_nothing(
    shards, uninterrupted, tmp_path, second
):
    flags = ("--checkpoint.every_steps", "4", "--tracking.log_every", "1")
    folder = tmp_path / "tiny"
    process = start(faulty_trainer(tmp_path, shards, "slow_disk", *flags))
    wait_until(lambda: list(folder.glob(".attempt-*/step-*")))
    process.send_signal(signal.SIGTERM)
    process.send_signal(getattr(signal, second))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, out + err
    assert "asked to leave by SIG" in state(folder)["reason"]
    assert not list(folder.glob(".attempt-*"))
    assert load(folder / "checkpoints" / f"step-{state(folder)['step']:09d}.pt")
    assert run(trainer(tmp_path, shards, *flags)).returncode == 0
    assert outcome(folder) == uninterrupted()


@pytest.mark.parametrize("processes", [0, 2])
def test_an_evaluation_is_left_at_once_and_done_again(shards, uninterrupted, tmp_path, processes):
    """It would take three seconds and more; nothing of its epoch is lost."""
    folder = tmp_path / "tiny"
    process = start(
        faulty_trainer(tmp_path, shards, "slow_evaluation", "--train.batch_size", "60", processes=processes)
    )
    wait_until((folder / "checkpoints" / "step-000000017.pt").exists)
    os.kill(ranks_of(process)[-1], signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, out + err
    assert (state(folder)["epoch"], state(folder)["step"]) == (0, 17)
    assert rows(folder, "epoch") == []
    assert run(trainer(tmp_path, shards, "--train.batch_size", "60", processes=processes)).returncode == 0
    assert outcome(folder) == uninterrupted("--train.batch_size", "60", processes=processes)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_whose_peers_have_not_come_leaves_when_asked(shards, tmp_path, rank):
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "WORLD_SIZE": "2", "RANK": rank}
    if rank == "0":
        with socket.create_server(("127.0.0.1", 0)) as free:
            places["MASTER_PORT"] = str(free.getsockname()[1])
    process = start(trainer(tmp_path, shards, launcher=PYTHON), **places)
    wait_until(lambda: listens(process))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, out + err
    assert "asked to leave by SIGTERM while" in out
    assert len(out.splitlines()) == 1


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
def test_a_second_interrupt_ends_at_once(shards, tmp_path, first):
    """In the middle of a step that takes a minute; whatever came before the first."""
    process = start(faulty_trainer(tmp_path, shards, "slow_step::3", "--tracking.log_every", "1"))
    wait_until(lambda: len(rows(tmp_path / "tiny", "step")) == 2)
    for asked in dict.fromkeys((first, "SIGINT")):
        process.send_signal(getattr(signal, asked))
        wait_until(
            lambda: not signal_pending(process.pid, signal.SIGINT) and not signal_pending(process.pid, signal.SIGTERM)
        )
    assert process.poll() is None
    # Again until it is heard: one that comes before Python has taken note of the first is the same one to it.
    wait_until(lambda: process.poll() is not None or process.send_signal(signal.SIGINT), 20)
    assert process.returncode == -signal.SIGINT


def test_an_interrupt_from_the_terminal_reaches_torchrun_and_saves_once(shards, tmp_path):
    process = start(trainer(tmp_path, shards, *SLOW, processes=2, launcher=TORCHRUN))
    wait_until(lambda: rows(tmp_path / "tiny", "step"))
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert state(tmp_path / "tiny")["state"] == "preempted"

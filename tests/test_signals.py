"""Preemption: a run that gets a signal saves a checkpoint at the next step, the same on all ranks, and exits."""

import os
import signal
import time

import pytest
from fork_server import free_port
from limits import LIMIT
from processes import (
    PYTHON,
    TORCHRUN,
    faulty_trainer,
    has_handler,
    ranks_of,
    run,
    signal_pending,
    start,
    trainer,
    wait_until,
)
from run_directory import outcome, rows, state
from thoroughness import parametrize_some

from regnet.checkpoint.file import load

SLOW = ("--train.epochs", "400")
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")


def handles_signals(process):
    """Whether the trainer has installed its handlers. That of SIGINT replaces Python's own, so the others tell."""
    return all(has_handler(process, getattr(signal, name)) for name in SIGNALS if name != "SIGHUP")  # nohup ignores it


@parametrize_some("signal_name", SIGNALS)
def test_a_preempted_single_process_saves_a_checkpoint_and_exits_with_75(shards, tmp_path, signal_name):
    process = start(trainer(tmp_path, shards, *SLOW, launcher=PYTHON))
    wait_until(lambda: rows(tmp_path / "tiny", "step"))
    process.send_signal(getattr(signal, signal_name))
    started = time.monotonic()
    out, err = process.communicate(timeout=LIMIT)
    print(f"saved and exited after {time.monotonic() - started:.1f} s")
    assert process.returncode == 75, out + err
    run_state = state(tmp_path / "tiny")
    assert run_state["state"] == "preempted"
    assert signal_name in run_state["reason"]
    assert f"Interrupted by {signal_name}; checkpoint saved at step {run_state['step']}" in out
    assert "Re-run the same command to resume" in out
    assert (tmp_path / "tiny" / "checkpoints" / f"step-{run_state['step']:09d}.pt").exists()


def test_a_signal_to_one_rank_preempts_all_ranks_at_the_same_step(shards, tmp_path):
    process = start(trainer(tmp_path, shards, *SLOW, "--schedule.name", "baseline", processes=3))
    wait_until(lambda: rows(tmp_path / "tiny", "step"))
    os.kill(ranks_of(process)[2], signal.SIGUSR1)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 75, out + err
    run_state = state(tmp_path / "tiny")
    assert (run_state["state"], run_state["reason"]) == ("preempted", "interrupted by SIGUSR1")
    more = ("--schedule.name", "baseline", "--train.epochs", str(run_state["epoch"] + 1))
    resumed = run(trainer(tmp_path, shards, *more, processes=3))
    assert resumed.returncode == 0, resumed.stderr
    steps = [row["step"] for row in rows(tmp_path / "tiny", "step")]
    assert steps == list(range(1, len(steps) + 1))


@parametrize_some("signal_name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_torchrun_lets_its_ranks_save_a_checkpoint(shards, tmp_path, signal_name):
    process = start(trainer(tmp_path, shards, *SLOW, processes=2, launcher=TORCHRUN))
    wait_until(lambda: rows(tmp_path / "tiny", "step"))
    process.send_signal(getattr(signal, signal_name))
    process.communicate(timeout=LIMIT)
    run_state = state(tmp_path / "tiny")
    assert run_state["state"] == "preempted"
    assert (tmp_path / "tiny" / "checkpoints" / f"step-{run_state['step']:09d}.pt").exists()


@parametrize_some("processes", [0, 2])
def test_a_time_limit_preempts_like_a_signal(shards, tmp_path, processes):
    launcher = TORCHRUN if processes else ()
    done = run(trainer(tmp_path, shards, *SLOW, "--train.max_minutes", "0.05", processes=processes, launcher=launcher))
    assert done.returncode == (0 if processes else 75), done.stderr
    run_state = state(tmp_path / "tiny")
    assert run_state["state"] == "preempted"
    assert "the time limit (train.max_minutes)" in run_state["reason"]
    assert run_state["step"] >= 1, "three seconds, counted from the first step"


@parametrize_some("signal_name", ["SIGTERM", "SIGINT"])
def test_a_signal_before_the_first_step_preempts_the_run(shards, uninterrupted, tmp_path, signal_name):
    script = ("tests/helpers/signalled_imports.py", signal_name, "torch", "train_ddp")
    done = run(trainer(tmp_path, shards, launcher=PYTHON, script=script))
    assert (done.returncode, done.stderr) == (75, ""), done.stdout
    assert (
        f"Interrupted by {signal_name} before the first checkpoint. Re-run the same command to resume." in done.stdout
    )
    assert state(tmp_path / "tiny")["state"] == "preempted"
    assert rows(tmp_path / "tiny", "step") == []
    assert run(trainer(tmp_path, shards)).returncode == 0
    assert outcome(tmp_path / "tiny") == uninterrupted()


@parametrize_some("second", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_repeated_signals_while_a_checkpoint_is_written_lose_nothing(shards, uninterrupted, tmp_path, second):
    flags = ("--checkpoint.every_steps", "4", "--tracking.log_every", "1")
    folder = tmp_path / "tiny"
    process = start(faulty_trainer(tmp_path, shards, "slow_disk", *flags))
    wait_until(lambda: list(folder.glob(".attempt-*/step-*")))
    process.send_signal(signal.SIGTERM)
    process.send_signal(getattr(signal, second))
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 75, out + err
    assert "interrupted by SIG" in state(folder)["reason"]
    assert not list(folder.glob(".attempt-*"))
    assert load(folder / "checkpoints" / f"step-{state(folder)['step']:09d}.pt")
    assert run(trainer(tmp_path, shards, *flags)).returncode == 0
    assert outcome(folder) == uninterrupted()


@parametrize_some("processes", [2, 0])
def test_an_evaluation_is_interrupted_immediately_and_repeated(shards, uninterrupted, tmp_path, processes):
    """Its first of four batches takes until the signal comes. No training step of its epoch is lost."""
    folder = tmp_path / "tiny"
    fault = f"evaluation_until_signal:{max(0, processes - 1)}"
    process = start(faulty_trainer(tmp_path, shards, fault, "--train.batch_size", "60", processes=processes))
    wait_until((folder / "checkpoints" / "step-000000017.pt").exists)
    os.kill(ranks_of(process)[-1], signal.SIGTERM)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 75, out + err
    assert (state(folder)["epoch"], state(folder)["step"]) == (0, 17)
    assert rows(folder, "epoch") == []
    assert run(trainer(tmp_path, shards, "--train.batch_size", "60", processes=processes)).returncode == 0
    assert outcome(folder) == uninterrupted("--train.batch_size", "60", processes=processes)


@parametrize_some("rank", ["0", "1"])
def test_a_rank_that_waits_for_its_peers_can_be_preempted(shards, tmp_path, rank):
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port() if rank == "0" else "1", "WORLD_SIZE": "2"}
    variables |= {"RANK": rank, "LOCAL_RANK": rank}
    process = start(trainer(tmp_path, shards, launcher=PYTHON), **variables)
    wait_until(lambda: handles_signals(process))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 75, out + err
    assert "interrupted by SIGTERM while waiting for" in out
    assert len(out.splitlines()) == 1


@parametrize_some("first", ["SIGINT", "SIGTERM"])
def test_a_second_interrupt_ends_the_process_immediately(shards, tmp_path, first):
    """During a step that takes a minute, whichever signal came first."""
    process = start(faulty_trainer(tmp_path, shards, "slow_step::3", "--tracking.log_every", "1"))
    wait_until(lambda: len(rows(tmp_path / "tiny", "step")) == 2)
    for signal_name in dict.fromkeys((first, "SIGINT")):
        process.send_signal(getattr(signal, signal_name))
        wait_until(
            lambda: not signal_pending(process.pid, signal.SIGINT) and not signal_pending(process.pid, signal.SIGTERM)
        )
    assert process.poll() is None
    # Repeated, because Python merges a signal with an earlier one that it has not handled yet.
    wait_until(lambda: process.poll() is not None or process.send_signal(signal.SIGINT))
    assert process.returncode == -signal.SIGINT


@pytest.mark.thorough
def test_an_interrupt_from_the_terminal_preempts_a_run_under_torchrun(shards, tmp_path):
    process = start(trainer(tmp_path, shards, *SLOW, processes=2, launcher=TORCHRUN))
    wait_until(lambda: rows(tmp_path / "tiny", "step"))
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=LIMIT)
    assert state(tmp_path / "tiny")["state"] == "preempted"

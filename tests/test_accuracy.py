"""python -m benchmarks.accuracy: several seeds in one table, with interrupted runs resumed."""

import json
import os
import signal
import statistics
import sys

import pytest
from fork_server import ForkedCommand
from limits import LIMIT
from processes import has_exited, is_stopped, run, signal_pending, start, wait_until
from run_directory import result, state

from benchmarks import attempts
from benchmarks.launch import Launcher, kill_tree, process_tree

pytestmark = pytest.mark.xdist_group("benchmarks")


def accuracy_command(folder, shards, *options, trainer=()):
    """The benchmark in a forked process; the runs that it launches are fresh processes."""
    trainer = ("--runs_dir", str(folder), "--data.shards", str(shards), *trainer)
    return ForkedCommand(["-m", "benchmarks.accuracy", "--config", "tests/tiny.yaml", *options, "--", *trainer])


@pytest.mark.thorough
def test_an_interrupted_run_resumes_and_every_seed_is_reported(shards, tmp_path):
    report, runs = tmp_path / "report.json", tmp_path / "runs"
    options = ("--seeds", "2", "--target", "0.5", "--json", str(report))

    def command(epochs):  # this schedule allows train.epochs to change
        flags = ("--schedule.name", "baseline", "--train.epochs", str(epochs))
        return accuracy_command(runs, shards, *options, trainer=flags)

    process = start(command(1000))  # more than before any signal
    wait_until(lambda: (runs / "tiny-0" / "state.json").exists() and state(runs / "tiny-0")["epoch"] >= 1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + signal.SIGTERM
    assert state(runs / "tiny-0")["state"] == "preempted", "the run must save a checkpoint before it exits"

    epochs = state(runs / "tiny-0")["epoch"] + 2
    finished = run(command(epochs))
    assert finished.returncode == 0, finished.stderr
    assert [state(runs / f"tiny-{seed}")["attempt"] for seed in (0, 1)] == [2, 1]
    measured = json.loads(report.read_text())
    assert [(each["seed"], each["epochs"]) for each in measured["runs"]] == [(0, epochs), (1, epochs)]
    accuracies = [result(runs / f"tiny-{seed}")["top1"] for seed in (0, 1)]
    assert [each["top1"] for each in measured["runs"]] == accuracies
    assert measured["mean"] == pytest.approx(sum(accuracies) / 2)
    assert measured["std"] == pytest.approx(statistics.stdev(accuracies))
    assert f"top-1 of 2 seeds: {measured['mean']:.2%} +- {measured['std']:.2%}" in finished.stdout
    assert measured["runs"][0]["reached"] is None, "the run was interrupted"
    assert measured["runs"][1]["reached"] > 1, "must include the imports"
    assert (runs / "tiny-accuracy" / "index.html").exists()


@pytest.mark.thorough
def test_a_second_ctrl_c_kills_all_processes(shards, tmp_path):
    flags = ("--train.epochs", "1000", "--train.max_minutes", "6")  # ends by itself even if this test fails
    forked = accuracy_command(tmp_path, shards, "--seeds", "1", trainer=flags)
    # Not forked, because multiprocessing prints exceptions differently.
    process = start([sys.executable, *forked.arguments])
    try:
        wait_until(lambda: (tmp_path / "tiny-0" / "metrics.jsonl").exists())
        children = process_tree(process.pid)[1:]
        os.kill(children[0], signal.SIGSTOP)  # the trainer can then neither save nor exit
        wait_until(lambda: is_stopped(children[0]))
        process.send_signal(signal.SIGINT)
        wait_until(lambda: signal_pending(children[0], signal.SIGTERM))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == -signal.SIGINT, "a shell script that runs it must stop too"
        assert not err, out
        wait_until(lambda: all(map(has_exited, children)))
    finally:
        kill_tree(process)


@pytest.mark.thorough
def test_a_finished_run_is_reused_only_for_the_same_number_of_epochs(shards, tmp_path):
    report, metrics = tmp_path / "report.json", tmp_path / "tiny-0" / "metrics.jsonl"

    def measure(epochs):
        # This schedule allows train.epochs to change.
        flags = ("--schedule.name", "baseline", "--train.epochs", str(epochs))
        options = ("--seeds", "1", "--target", "0.5", "--json", str(report))
        return run(accuracy_command(tmp_path, shards, *options, trainer=flags))

    assert measure(2).returncode == 0
    first, trained = json.loads(report.read_text())["runs"], metrics.read_bytes()
    assert first[0]["reached"] > 1
    assert measure(2).returncode == 0
    assert json.loads(report.read_text())["runs"] == first
    fewer = measure(1)
    assert fewer.returncode == 1
    assert "tiny-0 was trained for 2 epochs, but train.epochs is 1" in fewer.stderr
    assert metrics.read_bytes() == trained, "nothing must be trained again"


def test_a_run_without_progress_fails_with_one_line(shards, tmp_path):
    finished = run(accuracy_command(tmp_path, shards, trainer=("--optim.name", "sgd", "--optim.lr", "1e6")))
    assert finished.returncode == 1
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("failed: tiny-0: no progress, exit code 1: failed: the loss is ")
    assert lines[0].endswith(f" (output: {tmp_path / 'tiny-0.log'})")
    assert "learning rate" in (tmp_path / "tiny-0.log").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config", "no/such.yaml"], "no/such.yaml"),
        (["--json", "no/such/report.json"], "--json no/such/report.json: directory no/such does not exist"),
        (["--", "--seed=3"], "--seed=3: this benchmark sets --seed itself"),
        (["--", "--overwrite"], "--overwrite: this benchmark sets --overwrite itself"),
    ],
)
def test_invalid_usage_is_reported_in_one_line(options, message):
    finished = run(ForkedCommand(["-m", "benchmarks.accuracy", *options]))
    assert finished.returncode == 2
    assert message in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1


def test_the_first_error_of_the_current_attempt_is_reported(tmp_path):
    launcher = Launcher(1, 1, 60.0, tmp_path)
    log = tmp_path / "tiny.log"

    def print_and_fail(output):
        return attempts.attempt(
            tmp_path / "tiny", [sys.executable, "-c", f"print({output!r}); exit(3)"], launcher, None
        )

    first = print_and_fail("error (rank 0): no shards\nerror (rank 1): no shards either")
    assert (first.exit_code, first.error) == (3, ": error (rank 0): no shards")
    assert print_and_fail("nothing").error == "", "the error belongs to an earlier attempt"
    assert log.read_text().count("no shards\n") == 1


def test_the_target_may_be_reached_just_before_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "POLL_SECONDS", 1.0)
    launcher, run_directory = Launcher(1, 1, LIMIT, tmp_path), tmp_path / "tiny"
    run_directory.mkdir()
    row = json.dumps({"kind": "epoch", "val_top1": 0.7})
    command = [
        sys.executable,
        "-S",
        "-c",
        f"open({str(run_directory / 'metrics.jsonl')!r}, 'w').write({row!r} + '\\n')",
    ]
    assert attempts.attempt(run_directory, command, launcher, 0.6).reached > 0
    assert attempts.attempt(run_directory, ["true"], launcher, 0.8).reached is None

"""python -m benchmarks.accuracy: many seeds, one table, and nothing is lost that was trained."""

import json
import os
import signal
import statistics
import sys

import pytest
from nursery import ForkedCommand
from programs import has_exited, is_stopped, result, run, signal_pending, start, state, wait_until

from benchmarks.attempts import attempt
from benchmarks.launch import Launcher, end, family

pytestmark = pytest.mark.xdist_group("benchmarks")


def accuracy(folder, shards, *options, trainer=()):
    """The benchmark, forked; what it launches starts as users start it."""
    trainer = ("--runs_dir", str(folder), "--data.shards", str(shards), *trainer)
    return ForkedCommand(["-m", "benchmarks.accuracy", "--config", "tests/tiny.yaml", *options, "--", *trainer])


@pytest.mark.timeout(700)
def test_a_run_that_was_cut_off_goes_on_and_every_seed_is_told(shards, tmp_path):
    report, runs = tmp_path / "report.json", tmp_path / "runs"
    options = ("--seeds", "2", "--target", "0.5", "--json", str(report))
    command = accuracy(runs, shards, *options, trainer=("--train.epochs", "4"))
    process = start(command)
    wait_until(lambda: (runs / "tiny-0" / "state.json").exists() and state(runs / "tiny-0")["epoch"] >= 1, timeout=120)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM
    assert state(runs / "tiny-0")["state"] == "preempted", "it was let save itself"

    done = run(command, timeout=400)
    assert done.returncode == 0, done.stderr
    assert [state(runs / f"tiny-{seed}")["attempt"] for seed in (0, 1)] == [2, 1]
    told = json.loads(report.read_text())
    assert [(one["seed"], one["epochs"]) for one in told["runs"]] == [(0, 4), (1, 4)]
    found = [result(runs / f"tiny-{seed}")["top1"] for seed in (0, 1)]
    assert [one["top1"] for one in told["runs"]] == found
    assert told["mean"] == pytest.approx(sum(found) / 2)
    assert told["deviation"] == pytest.approx(statistics.stdev(found))
    assert f"top-1 of 2 seeds: {told['mean']:.2%} +- {told['deviation']:.2%}" in done.stdout
    assert told["runs"][0]["reached"] is None, "it was interrupted"
    assert told["runs"][1]["reached"] > 1, "of any chance"
    assert (runs / "tiny-accuracy" / "index.html").exists()


@pytest.mark.timeout(500)
def test_a_second_ctrl_c_leaves_nothing_behind(shards, tmp_path):
    flags = ("--train.epochs", "1000", "--train.max_minutes", "6")  # ends by itself, whatever becomes of this test
    forked = accuracy(tmp_path, shards, "--seeds", "1", trainer=flags)
    # A forked one tells exceptions in its own way; and what a shell runs in the background is deaf to Ctrl-C.
    process = start(["env", "--default-signal=INT", sys.executable, *forked.arguments])
    try:
        wait_until(lambda: (tmp_path / "tiny-0" / "metrics.jsonl").exists(), timeout=240)
        launched = family(process.pid)[1:]
        os.kill(launched[0], signal.SIGSTOP)  # the trainer, which then saves nothing and does not end
        wait_until(lambda: is_stopped(launched[0]))
        process.send_signal(signal.SIGINT)
        wait_until(lambda: signal_pending(launched[0], signal.SIGTERM))
        process.send_signal(signal.SIGINT)
        out, told = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGINT, "a script that it is part of ends with it"
        assert not told, out
        wait_until(lambda: all(map(has_exited, launched)))
    finally:
        end(process)


@pytest.mark.timeout(600)
def test_a_finished_run_is_told_again_but_not_for_another(shards, tmp_path):
    report, metrics = tmp_path / "report.json", tmp_path / "tiny-0" / "metrics.jsonl"

    def told(epochs):
        # Under this schedule a run may be trained further.
        flags = ("--schedule.name", "baseline", "--train.epochs", str(epochs))
        options = ("--seeds", "1", "--target", "0.5", "--json", str(report))
        return run(accuracy(tmp_path, shards, *options, trainer=flags), timeout=180)

    assert told(2).returncode == 0
    first, trained = json.loads(report.read_text())["runs"], metrics.read_bytes()
    assert first[0]["reached"] > 1
    assert told(2).returncode == 0
    assert json.loads(report.read_text())["runs"] == first
    fewer = told(1)
    assert fewer.returncode == 1
    assert "tiny-0: has 2 epochs, and 1 are asked for" in fewer.stderr
    assert metrics.read_bytes() == trained, "nothing is repeated"


def test_a_run_that_gets_no_further_ends_it_with_one_line(shards, tmp_path):
    done = run(accuracy(tmp_path, shards, trainer=("--optim.name", "sgd", "--optim.lr", "1e6")), timeout=200)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("failed: tiny-0: got no further, exit status 1: failed: the loss is ")
    assert lines[0].endswith(f" (its output: {tmp_path / 'tiny-0.log'})")
    assert "learning rate" in (tmp_path / "tiny-0.log").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--config", "no/such.yaml"], "no/such.yaml"),
        (["--json", "no/such/report.json"], "--json no/such/report.json: no such directory"),
        (["--", "--seed=3"], "--seed=3: this benchmark says itself what that is"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(options, words):
    done = run(ForkedCommand(["-m", "benchmarks.accuracy", *options]), timeout=60)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_of_an_attempt_its_own_first_error_is_told(tmp_path):
    launcher = Launcher(1, 1, 60.0, tmp_path)
    log = tmp_path / "tiny.log"

    def told(output):
        return attempt(tmp_path / "tiny", [sys.executable, "-c", f"print({output!r}); exit(3)"], launcher, None)

    first = told("error (rank 0): no shards\nerror (rank 1): no shards either")
    assert (first.status, first.error) == (3, ": error (rank 0): no shards")
    assert told("nothing").error == "", "that was of another attempt"
    assert log.read_text().count("no shards\n") == 1

"""python -m benchmarks.accuracy: many seeds, one table, and nothing is lost that was trained."""

import json
import signal
import statistics
import sys

import pytest
from programs import result, run, start, state, wait_until

pytestmark = pytest.mark.xdist_group("benchmarks")


def accuracy(folder, shards, *options):
    trainer = ("--runs_dir", str(folder), "--data.shards", str(shards))
    return [sys.executable, "-m", "benchmarks.accuracy", "--config", "tests/tiny.yaml", *options, "--", *trainer]


def test_every_seed_is_trained_once_and_told(shards, tmp_path):
    report = tmp_path / "report.json"
    runs = tmp_path / "runs"

    def command(seeds, epochs):
        told = ("--seeds", str(seeds), "--target", "0.5", "--json", str(report))
        # Under this schedule a run may be trained further.
        return [*accuracy(runs, shards, *told), "--schedule.name", "reference", "--train.epochs", str(epochs)]

    process = start(command(2, 12))
    wait_until(lambda: (runs / "tiny-0" / "state.json").exists() and state(runs / "tiny-0")["epoch"] >= 1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    left = state(runs / "tiny-0")
    assert left["state"] == "preempted", "it was let save itself"

    done = run(command(2, 12), timeout=200)
    assert done.returncode == 0, done.stderr
    assert state(runs / "tiny-0")["attempt"] == 2
    assert state(runs / "tiny-1")["attempt"] == 1
    told = json.loads(report.read_text())
    assert [(one["seed"], one["epochs"]) for one in told["runs"]] == [(0, 12), (1, 12)]
    found = [result(runs / f"tiny-{seed}")["top1"] for seed in (0, 1)]
    assert [one["top1"] for one in told["runs"]] == found
    assert told["mean"] == pytest.approx(sum(found) / 2)
    assert told["deviation"] == pytest.approx(statistics.stdev(found))
    assert f"top-1 of 2 seeds: {told['mean']:.2%} +- {told['deviation']:.2%}" in done.stdout
    assert told["runs"][0]["reached"] is None, "it was interrupted"
    assert told["runs"][1]["reached"] > 1, "of any chance"
    assert (runs / "tiny-accuracy" / "index.html").exists()

    before = {path: path.stat().st_mtime_ns for path in runs.glob("tiny-?/metrics.jsonl")}
    assert run(command(1, 12), timeout=100).returncode == 0
    assert json.loads(report.read_text())["runs"] == told["runs"][:1]
    fewer = run(command(1, 11), timeout=100)
    assert fewer.returncode == 1
    assert "tiny-0: has 12 epochs, and 11 are asked for" in fewer.stderr
    assert before == {path: path.stat().st_mtime_ns for path in runs.glob("tiny-?/metrics.jsonl")}, (
        "nothing is repeated"
    )


def test_a_run_that_gets_no_further_ends_it_with_one_line(shards, tmp_path):
    done = run([*accuracy(tmp_path, shards), "--optim.name", "sgd", "--optim.lr", "1e6"], timeout=100)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("failed: tiny-0: got no further, exit status 1 (its output: ")
    assert "learning rate" in (tmp_path / "tiny-0.log").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--config", "no/such.yaml"], "no/such.yaml"),
        (["--json", "no/such/report.json"], "--json no/such/report.json: no such directory"),
        (["--", "--seed=3"], "--seed=3: this benchmark says itself what that is"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(shards, tmp_path, options, words):
    done = run([*accuracy(tmp_path, shards)[:3], *options], timeout=60)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

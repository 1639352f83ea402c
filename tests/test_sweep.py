"""What a sweep's runs are told, and what is made of their results; a verdict on how an attempt ended."""

import json
import sys
from pathlib import Path

import pytest
from programs import TINY, faulty_trainer, run, trainer

from regnet.errors import UsageError
from regnet.relaunch import judge
from regnet.runs.status import RunState, Status
from regnet.sweep import flags, gather, read_sweep

ARGUMENTS = ["--config", str(TINY)]


def sweep(folder, text):
    path = folder / "rates.yaml"
    path.write_text(text)
    return path


def test_each_run_has_its_own_name_and_all_have_one_group(tmp_path):
    path = sweep(tmp_path, "- 7\n- {optim.lr: 0.01, train.channels_last: false}\n")
    shared = [*ARGUMENTS, "--tracking.wandb_group=tiny-rates"]
    assert sorted(flags(path, 0, ARGUMENTS)) == sorted([*shared, "--name=tiny-rates-0", "--seed=7"])
    changed = ["--name=tiny-rates-1", "--optim.lr=0.01", "--train.channels_last=false"]
    assert sorted(flags(path, 1, ARGUMENTS)) == sorted([*shared, *changed])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{a: 1}", "a list is needed"),
        ("[]", "a list is needed"),
        ("- {optim.rl: 1}", "did you mean optim.lr?"),
        ("- [1]", "entry 0 is [1]"),
        ("- {name: x}", "which the sweep sets itself"),
        ("- {optim.lr: -1}", "optim.lr"),
        ("- 'x", "not readable as YAML"),
    ],
)
def test_a_wrong_sweep_is_refused_in_one_line(tmp_path, text, words):
    done = run([sys.executable, "-m", "regnet.sweep", "flags", str(sweep(tmp_path, text)), "0", *ARGUMENTS])
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert words in done.stderr


def test_a_run_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no run 2; there are 2"):
        flags(sweep(tmp_path, "- 1\n- 2\n"), 2, ARGUMENTS)


def test_results_that_differ_in_seeds_alone_share_a_row(tmp_path):
    path = sweep(tmp_path, "- 1\n- 2\n- 3\n- {optim.lr: 0.01, seed: 1}\n")
    arguments = [*ARGUMENTS, "--runs_dir", str(tmp_path)]
    for index, top1 in ((0, 0.5), (1, 0.7), (3, 0.2)):
        folder = tmp_path / f"tiny-rates-{index}"
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps({"top1": top1}))
    seeds, rate = gather(path, arguments)
    assert (seeds.changes, seeds.accuracies, seeds.missing) == ("", (0.5, 0.7), 1)
    assert (seeds.mean, seeds.deviation) == (pytest.approx(0.6), pytest.approx(0.1414, abs=1e-4))
    assert (rate.changes, rate.accuracies, rate.missing) == ("optim.lr=0.01", (0.2,), 0)
    shown = run([sys.executable, "-m", "regnet.sweep", "table", str(path), *arguments]).stdout
    assert "60.00%" in shown
    assert "2 of 3" in shown


def test_shipped_sweeps_can_be_read():
    for path in (Path(__file__).parents[1] / "configs" / "sweeps").glob("*.yaml"):
        assert read_sweep(path)


def state(status, step=9, began=4, fruitless=0):
    return RunState(status, 1, step, began, 3, fruitless, 5, "data", "a reason", "id")


@pytest.mark.parametrize(
    ("left", "verdict", "words"),
    [
        (None, 2, "was not begun"),
        (state(Status.finished), 0, "finished: a reason"),
        (state(Status.preempted, step=4), 75, "preempted: a reason"),
        (state(Status.preempted, step=4, fruitless=2), 1, "3 attempts got no further"),
        (state(Status.preempted, step=5, fruitless=2), 75, "preempted: a reason"),
        (state(Status.failed), 3, "to be tried again"),
        (state(Status.failed, step=4), 3, "to be tried again"),
        (state(Status.failed, step=4, fruitless=1), 3, "to be tried again"),
        (state(Status.failed, step=4, fruitless=2), 1, "3 attempts got no further"),
        (state(Status.running, step=4, fruitless=2), 1, "3 attempts got no further"),
        (state(Status.failed, step=5, fruitless=2), 3, "to be tried again"),
    ],
)
def test_the_verdict_on_an_attempt(left, verdict, words):
    status, line = judge(left, Path("runs/x"), limit=3)
    assert status == verdict
    assert words in line


def aftermath(launch, *arguments):
    return run([sys.executable, "-m", "regnet.relaunch", "--launch", launch, "--", *map(str, arguments)])


def test_setbacks_in_a_row_are_counted_and_progress_or_another_job_ends_the_row(shards, tmp_path):
    where = (*ARGUMENTS, "--runs_dir", tmp_path)
    for launch, expected in (("7.0.1", 3), ("7.0.2", 3), ("7.1.1", 1), ("8.0.1", 3)):
        assert run(faulty_trainer(tmp_path, shards, "raises:0:2"), REGNET_LAUNCH=launch).returncode == 1
        done = aftermath(launch, *where)
        assert done.returncode == expected, done.stdout
    assert "a defect on this rank alone" in done.stdout
    going_on = faulty_trainer(tmp_path, shards, "raises:0:8", "--checkpoint.every_steps", "2")
    assert run(going_on, REGNET_LAUNCH="8.0.2").returncode == 1
    assert aftermath("8.0.2", *where).returncode == 3
    assert aftermath("8.0.3", *where).returncode == 2, "of this attempt there is nothing"
    for launch in ("8.0.3", "9.0.1"):
        assert run(trainer(tmp_path, shards), REGNET_LAUNCH=launch).returncode == 0
        assert aftermath(launch, *where).returncode == 0, "also where all was done before"
    assert aftermath("9.0.1", "--no.such", "1").returncode == 2

"""The options and results of a sweep's runs, and what a launcher does after an attempt has ended."""

import json
import re
import sys
from pathlib import Path

import pytest
from processes import TINY, faulty_trainer, run, trainer

from regnet.errors import UsageError
from regnet.relaunch import decide
from regnet.runs.status import RunState, Status
from regnet.sweep import collect_results, read_sweep, run_flags
from regnet.sweep import run as sweep_command

ARGUMENTS = ["--config", str(TINY)]


def sweep(folder, text):
    path = folder / "rates.yaml"
    path.write_text(text)
    return path


def test_each_run_has_its_own_name_and_all_have_one_group(tmp_path):
    path = sweep(tmp_path, "- 7\n- {optim.lr: 0.01, train.channels_last: false}\n")
    shared = [*ARGUMENTS, "--tracking.wandb_group=tiny-rates"]
    assert sorted(run_flags(path, 0, ARGUMENTS)) == sorted([*shared, "--name=tiny-rates-0", "--seed=7"])
    changed = ["--name=tiny-rates-1", "--optim.lr=0.01", "--train.channels_last=false"]
    assert sorted(run_flags(path, 1, ARGUMENTS)) == sorted([*shared, *changed])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{a: 1}", "must be a list"),
        ("[]", "must be a list"),
        ("- {optim.rl: 1}", "did you mean optim.lr?"),
        ("- [1]", "entry 0 must be a seed or a mapping from options to values, got [1]"),
        ("- {name: x}", "entry 0 must not set name, which the sweep itself sets"),
        ("- {optim.lr: -1}", "optim.lr"),
        ("- 'x", "not readable as YAML"),
    ],
)
def test_an_invalid_sweep_is_rejected_in_one_line(tmp_path, text, words):
    done = run([sys.executable, "-m", "regnet.sweep", "flags", str(sweep(tmp_path, text)), "0", *ARGUMENTS])
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert words in done.stderr


def test_a_run_number_that_does_not_exist_is_rejected(tmp_path):
    with pytest.raises(UsageError, match="there is no run 2: its 2 runs are numbered from 0"):
        run_flags(sweep(tmp_path, "- 1\n- 2\n"), 2, ARGUMENTS)


def test_runs_that_differ_only_in_their_seeds_share_a_row(tmp_path):
    path = sweep(tmp_path, "- 1\n- 2\n- 3\n- {optim.lr: 0.01, seed: 1}\n")
    arguments = [*ARGUMENTS, "--runs_dir", str(tmp_path)]
    for index, top1 in ((0, 0.5), (1, 0.7), (3, 0.2)):
        folder = tmp_path / f"tiny-rates-{index}"
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps({"top1": top1}))
    seeds, rate = collect_results(path, arguments)
    assert (seeds.changes, seeds.accuracies, seeds.missing) == ("", (0.5, 0.7), 1)
    assert (seeds.mean, seeds.deviation) == (pytest.approx(0.6), pytest.approx(0.1414, abs=1e-4))
    assert (rate.changes, rate.accuracies, rate.missing) == ("optim.lr=0.01", (0.2,), 0)
    shown = run([sys.executable, "-m", "regnet.sweep", "table", str(path), *arguments]).stdout
    assert "60.00%" in shown
    assert "2 of 3" in shown


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"top1": null}', '{"top1": "a"}'])
def test_a_damaged_result_is_a_missing_one(tmp_path, capsys, content):
    path = sweep(tmp_path, "- 1\n- 2\n")
    for index, text in enumerate(('{"top1": 0.5}', content)):
        (tmp_path / f"tiny-rates-{index}").mkdir()
        (tmp_path / f"tiny-rates-{index}" / "result.json").write_text(text)
    (row,) = collect_results(path, [*ARGUMENTS, "--runs_dir", str(tmp_path)])
    assert (row.accuracies, row.missing) == ((0.5,), 1)
    assert f"skipped: {tmp_path}/tiny-rates-1/result.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("rest", [[], [*ARGUMENTS, "1"], ["-1"], ["1.0"], ["٣"]])
def test_the_number_of_a_run_follows_the_file(tmp_path, rest):
    path = sweep(tmp_path, "- 1\n- 2\n")
    message = f"flags requires the number of a run after {path}, counted from 0: got {[*rest, 'nothing'][0]}"
    with pytest.raises(UsageError, match=re.escape(message)):
        sweep_command(["flags", str(path), *rest])


def test_counting_the_runs_of_a_sweep_takes_no_options(tmp_path):
    with pytest.raises(UsageError, match="count takes no further arguments, got --optim"):
        sweep_command(["count", str(sweep(tmp_path, "- 1\n")), "--optim.lr", "1"])


def test_shipped_sweeps_can_be_read():
    paths = (Path(__file__).parents[1] / "configs" / "sweeps").glob("*.yaml")
    for path in (path for path in paths if path.name != "wandb.yaml"):  # which wandb reads
        assert read_sweep(path)


def run_state(status, step=9, resumed_from=4, earlier=0):
    return RunState(status, 1, step, resumed_from, 3, earlier, 5, "data", "a reason", "id")


@pytest.mark.parametrize(
    ("after", "expected", "words"),
    [
        (None, 2, "the run did not start"),
        (run_state(Status.finished), 0, "a reason. Results: runs/x"),
        (run_state(Status.preempted, step=4), 75, "preempted: a reason; completed 1 epochs, 4 steps (attempt 3)"),
        (run_state(Status.preempted, step=4, earlier=2), 1, "not started again after 3 attempts without progress"),
        (run_state(Status.preempted, step=5, earlier=2), 75, "preempted: a reason"),
        (run_state(Status.failed), 3, "starting it again"),
        (run_state(Status.failed, step=4), 3, "starting it again"),
        (run_state(Status.failed, step=4, earlier=1), 3, "starting it again"),
        (run_state(Status.failed, step=4, earlier=2), 1, "not started again after 3 attempts without progress"),
        (run_state(Status.running, step=4, earlier=2), 1, "not started again after 3 attempts without progress"),
        (run_state(Status.failed, step=5, earlier=2), 3, "starting it again"),
    ],
)
def test_the_state_of_a_run_decides_what_a_launcher_does_next(after, expected, words):
    status, line = decide(after, Path("runs/x"), limit=3)
    assert status == expected
    assert words in line


def relaunch(launch, *arguments):
    return run([sys.executable, "-m", "regnet.relaunch", "--launch", launch, "--", *map(str, arguments)])


@pytest.mark.thorough
def test_attempts_without_progress_are_counted_until_there_is_progress_or_a_new_job(shards, tmp_path):
    flags = (*ARGUMENTS, "--runs_dir", tmp_path)
    for launch, expected in (("7.0.1", 3), ("7.0.2", 3), ("7.1.1", 1), ("8.0.1", 3)):
        assert run(faulty_trainer(tmp_path, shards, "raises:0:2"), REGNET_LAUNCH=launch).returncode == 1
        done = relaunch(launch, *flags)
        assert done.returncode == expected, done.stdout
    assert "a defect on this rank alone" in done.stdout
    progressing = faulty_trainer(tmp_path, shards, "raises:0:8", "--checkpoint.every_steps", "2")
    assert run(progressing, REGNET_LAUNCH="8.0.2").returncode == 1
    assert relaunch("8.0.2", *flags).returncode == 3
    assert relaunch("8.0.3", *flags).returncode == 2, "this attempt has not opened the run"
    for launch in ("8.0.3", "9.0.1"):
        assert run(trainer(tmp_path, shards), REGNET_LAUNCH=launch).returncode == 0
        assert relaunch(launch, *flags).returncode == 0, "also if the run was finished before"
    assert relaunch("9.0.1", "--no.such", "1").returncode == 2

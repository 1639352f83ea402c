"""python -m regnet.runs: the status of the runs in a directory."""

import fcntl
import json
import signal

import no_locks
from fork_server import ForkedCommand
from limits import LIMIT
from processes import kill_group, run, start, trainer, wait_until
from run_attempts import start_attempt
from run_directory import rows, state

from regnet.runs.listing import as_age, read_runs

SLOW = ("--train.epochs", "4000")


def printed_list(*arguments):
    done = run(ForkedCommand(["-m", "regnet.runs", *map(str, arguments)]))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_finished_preempted_dead_and_running_runs_are_distinguished(shards, tmp_path):
    assert run(trainer(tmp_path, shards, "--name", "done")).returncode == 0
    names = ("preempted", "dead", "alive")
    processes = {name: start(trainer(tmp_path, shards, *SLOW, "--name", name)) for name in names}
    try:
        wait_until(lambda: all(list(tmp_path.glob(f"{name}/checkpoints/step-*.pt")) for name in processes))
        processes["preempted"].send_signal(signal.SIGTERM)
        kill_group(processes["dead"])
        wait_until(lambda: state(tmp_path / "preempted")["state"] == "preempted")
        processes["preempted"].communicate(timeout=LIMIT)
        (tmp_path / "no-run").mkdir()
        (tmp_path / "a-file").touch()
        found = {entry["name"]: entry for entry in json.loads(printed_list(tmp_path, "--json"))}
        shown = printed_list(tmp_path)
    finally:
        for process in processes.values():
            kill_group(process)
    assert {name: entry["state"] for name, entry in found.items()} == {
        "done": "finished",
        "preempted": "preempted",
        "dead": "died",
        "alive": "running",
    }
    best = max(row["val_top1"] for row in rows(tmp_path / "done", "epoch"))
    assert (found["done"]["best_top1"], found["done"]["epoch"], found["done"]["next"]) == (best, 2, "")
    assert found["alive"]["next"] == ""
    for name in ("preempted", "dead"):
        assert found[name]["next"].startswith("resume with: python train_ddp.py --config ")
        assert found[name]["next"] in shown
    assert state(tmp_path / "preempted")["reason"] in shown


def test_a_run_is_a_line_of_a_pipe_however_long_its_name_and_however_narrow_the_terminal(shards, tmp_path):
    name = "a" * 200
    assert run(trainer(tmp_path, shards, "--name", name, "--train.epochs", "1")).returncode == 0
    done = run(ForkedCommand(["-m", "regnet.runs", str(tmp_path)]), COLUMNS="40")
    assert [line.split()[:2] for line in done.stdout.splitlines()][1:] == [[name, "finished"]]


def test_an_empty_directory_has_no_runs_and_a_missing_one_is_an_error(tmp_path):
    assert "no runs yet" in printed_list(tmp_path)
    done = run(ForkedCommand(["-m", "regnet.runs", str(tmp_path / "none")]))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_a_directory_that_cannot_be_read_does_not_hide_the_others(shards, tmp_path):
    assert run(trainer(tmp_path, shards, "--train.epochs", "1")).returncode == 0
    (tmp_path / "tiny").rename(tmp_path / "[red]tiny")
    (tmp_path / "other" / "state.json").mkdir(parents=True)
    done = run(ForkedCommand(["-m", "regnet.runs", str(tmp_path)]))
    assert (done.returncode, done.stderr) == (0, f"skipped: {tmp_path}/other/state.json: Is a directory\n")
    assert [line.split()[:2] for line in done.stdout.splitlines()][1:] == [["[red]tiny", "finished"]]


def test_a_run_is_listed_alone(shards, tmp_path):
    assert run(trainer(tmp_path, shards, "--train.epochs", "1")).returncode == 0
    assert [entry["name"] for entry in json.loads(printed_list(tmp_path / "tiny", "--json"))] == ["tiny"]


def test_a_run_whose_lock_was_not_copied_is_not_running(tmp_path, monkeypatch):
    start_attempt(monkeypatch, tmp_path)
    (tmp_path / "tiny" / ".lock").unlink()
    assert [entry["state"] for entry in json.loads(printed_list(tmp_path, "--json"))] == ["died"]


def test_runs_on_a_file_system_without_locks_are_listed_as_their_files_say(tmp_path, monkeypatch):
    start_attempt(monkeypatch, tmp_path)
    monkeypatch.setattr(fcntl, "flock", no_locks.flock)
    assert [run.state for run in read_runs(tmp_path)] == ["running"]


def test_a_run_that_ends_while_it_is_listed_has_not_died(tmp_path, monkeypatch):
    """Between the reading of its state and the look at its lock."""
    directory = start_attempt(monkeypatch, tmp_path)
    ended = json.loads((directory.path / "state.json").read_text()) | {"state": "preempted"}

    def end(_):
        (directory.path / "state.json").write_text(json.dumps(ended))
        return False

    monkeypatch.setattr("regnet.runs.listing.is_locked", end)
    assert [run.state for run in read_runs(tmp_path)] == ["preempted"]


def test_ages_are_readable():
    assert [as_age(seconds) for seconds in (0, 59, 61, 7200, 200_000)] == ["0 s", "59 s", "1 min", "2 h", "2 d"]

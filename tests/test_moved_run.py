"""A run directory that is moved or deleted while the run trains."""

import os
import shutil

import pytest
from limits import LIMIT
from processes import run, start, trainer, wait_until
from run_directory import rows, state

from regnet.runs.atomic_write import AtomicWriter, DirectoryTakenOver

FLAGS = ("--train.epochs", "400", "--checkpoint.every_steps", "1", "--tracking.log_every", "1")


@pytest.mark.parametrize("what", ["moved", "deleted"])
def test_the_run_fails_in_one_line_and_makes_no_new_directory(shards, tmp_path, what):
    process, runs, elsewhere = start(trainer(tmp_path / "runs", shards, *FLAGS)), tmp_path / "runs", tmp_path / "moved"
    wait_until(lambda: len(rows(runs / "tiny", "step")) >= 3)
    (runs / "tiny").rename(elsewhere)
    if what == "deleted":
        shutil.rmtree(elsewhere)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert err == f"failed: {runs}/tiny was moved or deleted while the run was training\n"
    assert list(runs.iterdir()) == []
    if what == "moved":
        resumed = run(trainer(tmp_path, shards, *FLAGS, "--name", "moved", "--train.max_minutes", "1e-9"))
        assert resumed.returncode == 75, resumed.stderr
        assert "Resuming from" in resumed.stdout
        assert state(elsewhere)["state"] == "preempted"
        assert not list(elsewhere.glob(".attempt-*"))


@pytest.mark.parametrize("name", ["state.json", "checkpoints/best.pt"])
def test_a_directory_that_is_moved_while_a_file_is_written_is_not_created_again(tmp_path, monkeypatch, name):
    runs, elsewhere, fsync = tmp_path / "runs", tmp_path / "moved", os.fsync
    (runs / "tiny").mkdir(parents=True)
    writer = AtomicWriter(runs / "tiny")
    monkeypatch.setattr(os, "fsync", lambda file: (fsync(file), (runs / "tiny").rename(elsewhere)))
    with pytest.raises(DirectoryTakenOver, match="tiny was moved or deleted while the run was training"):
        writer.write(runs / "tiny" / name, b"complete")
    assert list(runs.iterdir()) == []

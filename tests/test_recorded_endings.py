"""How a run ended is recorded in state.json, also by ranks that outlive rank zero and on disks that fail."""

import errno
import os
import subprocess

import pytest
from disks import mounted_tmpfs
from limits import LIMIT
from processes import TINY
from run_directory import state

from regnet.config.parser import parse_config
from regnet.runs.directory import RunDirectory, mark_failed
from regnet.runs.status import Ending, Status


def open_run(parent):
    return RunDirectory(parse_config(["--config", str(TINY), "--runs_dir", str(parent)]), "images")


def start_run(parent):
    """A run whose rank zero is gone."""
    directory = open_run(parent)
    directory.begin(0, 0, "1 x cpu")
    directory.close()


@pytest.mark.parametrize("content", [None, "{", "{}", '{"class_accuracy": {}}'])
def test_a_run_has_finished_only_with_a_result(tmp_path, content):
    directory = open_run(tmp_path)
    directory.begin(2, 22, "1 x cpu")
    directory.write_state(2, 22, Ending(Status.finished, "Finished after 2 epochs"))
    directory.close()
    if content is not None:
        (tmp_path / "tiny" / "result.json").write_text(content)
    complete = content is not None and "class_accuracy" in content
    assert open_run(tmp_path).finished == ("Already finished" if complete else "")


def test_on_a_failing_disk_only_a_failure_is_recorded_in_place(tmp_path, monkeypatch):
    """A state that is written in place may be torn."""
    directory = open_run(tmp_path)
    directory.begin(0, 0, "1 x cpu")

    def fail(file):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        directory.write_state(1, 11, Ending(Status.preempted, "SIGTERM"))
    assert (state(tmp_path / "tiny")["state"], state(tmp_path / "tiny")["step"]) == ("running", 0)
    directory.write_state(1, 11, Ending(Status.failed, "a reason"))
    assert (state(tmp_path / "tiny")["state"], state(tmp_path / "tiny")["step"]) == ("failed", 11)


def test_a_rank_records_the_failure_of_rank_zero(tmp_path):
    start_run(tmp_path)
    mark_failed(tmp_path / "tiny", "a reason")
    assert (state(tmp_path / "tiny")["state"], state(tmp_path / "tiny")["reason"]) == ("failed", "a reason")


def test_a_rank_that_does_not_see_the_run_directory_says_nothing(tmp_path, capsys):
    """It is on a disk of another node."""
    mark_failed(tmp_path / "tiny", "a reason")
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "tiny").exists()


def test_a_disk_on_which_a_failure_cannot_be_recorded_is_named(tmp_path, capsys):
    with mounted_tmpfs(tmp_path / "disk") as disk:
        start_run(disk)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, timeout=LIMIT)
        mark_failed(disk / "tiny", "a reason")
        assert state(disk / "tiny")["state"] == "running"
    assert capsys.readouterr().out == f"{disk}/tiny/state.json still says running: Read-only file system\n"

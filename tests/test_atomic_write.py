"""Atomic writes of a run's files: what an attempt replaces, what it leaves behind, and what a newer one takes away."""

import contextlib
import errno
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from limits import LIMIT

from regnet.runs.atomic_write import AtomicWriter, DirectoryTakenOver, make_directory, replace_file


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def run_directory(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def failing_disk(monkeypatch):
    def fail(file):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)


def test_a_file_is_replaced_and_its_directory_created(run_directory):
    writer = AtomicWriter(run_directory)
    for content in (b"one", b"two"):
        for path in (run_directory / "state.json", run_directory / "checkpoints" / "best.pt"):
            writer.write(path, content)
            assert path.read_bytes() == content
    assert names_in(writer.path) == []
    writer.close()
    assert names_in(run_directory) == ["checkpoints", "state.json"]


def test_two_threads_may_write_the_same_file(run_directory, monkeypatch):
    """A thread that ends the process records the failure while another one, which the disk blocks, writes the state."""
    writer, path, both_have_written = AtomicWriter(run_directory), run_directory / "state.json", threading.Barrier(2)
    monkeypatch.setattr(os, "fsync", lambda file: os.path.isfile(file) and both_have_written.wait(LIMIT))
    contents = (b"running" * 9, b"failed")
    with ThreadPoolExecutor(2) as pool:
        for writing in [pool.submit(writer.write, path, content) for content in contents]:
            writing.result(LIMIT)
    assert path.read_bytes() in contents


def test_files_of_earlier_attempts_are_removed_and_others_are_not(run_directory):
    for name in (".attempt-1", ".attempt-2", "checkpoints", "attempt-3"):
        (run_directory / name).mkdir()
        (run_directory / name / "file").touch()
    writer = AtomicWriter(run_directory)
    assert names_in(run_directory) == sorted([writer.path.name, "attempt-3", "checkpoints"])


def test_an_attempt_can_no_longer_write_once_a_newer_one_has_started(run_directory):
    old, path = AtomicWriter(run_directory), run_directory / "state.json"
    old.write(path, b"old")
    newer = AtomicWriter(run_directory)
    with pytest.raises(DirectoryTakenOver, match=r"state\.json: a newer attempt has taken over this run"):
        old.write(path, b"older")
    assert path.read_bytes() == b"old"
    newer.write(path, b"new")
    old.close()
    newer.close()
    assert names_in(run_directory) == ["state.json"]


@pytest.mark.parametrize("what", ["moved", "deleted"])
def test_a_directory_that_was_moved_or_deleted_is_named(run_directory, what):
    writer = AtomicWriter(run_directory)
    run_directory.rename(run_directory.with_name("elsewhere"))
    if what == "deleted":
        shutil.rmtree(run_directory.with_name("elsewhere"))
    with pytest.raises(DirectoryTakenOver) as raised:
        writer.write(run_directory / "state.json", b"content")
    assert str(raised.value) == f"{run_directory} was moved or deleted while the run was training"
    assert not run_directory.exists()
    writer.close()


def test_a_missing_directory_is_not_mistaken_for_a_newer_attempt(run_directory, monkeypatch):
    """Somebody deletes the directory of checkpoints just after it was created."""
    writer, fsync = AtomicWriter(run_directory), os.fsync

    def delete_checkpoints(file):
        fsync(file)
        with contextlib.suppress(FileNotFoundError):
            (run_directory / "checkpoints").rmdir()

    monkeypatch.setattr(os, "fsync", delete_checkpoints)
    with pytest.raises(FileNotFoundError, match=r"checkpoints/best\.pt"):
        writer.write(run_directory / "checkpoints" / "best.pt", b"content")
    assert names_in(writer.path) == []


def test_a_failing_disk_is_reported_with_the_name_of_the_file(run_directory, failing_disk, monkeypatch):
    path = run_directory / "state.json"
    path.write_bytes(b"previous")
    with monkeypatch.context() as working:
        working.setattr(os, "fsync", lambda file: None)
        writer = AtomicWriter(run_directory)
    for write in (writer.write, replace_file):
        with pytest.raises(OSError, match="Input/output error") as raised:
            write(path, b"new")
        assert raised.value.filename == str(path)
    assert path.read_bytes() == b"previous"
    assert names_in(run_directory) == sorted([writer.path.name, "state.json"])
    assert names_in(writer.path) == []


def test_replacing_a_directory_is_an_error_that_leaves_no_file(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path / "out", b"content")
    assert names_in(tmp_path) == ["out"]


def test_a_file_in_a_missing_directory_is_not_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "missing" / "out.json", b"content")
    assert names_in(tmp_path) == []


def test_threads_may_create_the_same_directory(tmp_path):
    """As two commands do."""
    barrier, errors = threading.Barrier(8, timeout=LIMIT), []

    def create():
        for number in range(50):
            barrier.wait()
            try:
                make_directory(tmp_path / str(number) / "a" / "b")
            except OSError as error:
                errors.append(error)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert all((tmp_path / str(number) / "a" / "b").is_dir() for number in range(50))

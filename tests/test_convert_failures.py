"""Conversions that are killed, stall or run out of disk space."""

import pytest
from converting import assert_rejected, convert, faulty_convert
from disks import mounted_tmpfs
from limits import scaled
from processes import PYTHON, has_exited, kill_group, run, start, trainer, wait_until

from data.manifest import Verify, read_manifest, verify


def two_writers(tmp_path):
    options = ["--source", "synthetic", "--per-class", "1", "--shards", "2", "--workers", "2"]
    return [*options, "--out", str(tmp_path / "out")]


def test_a_killed_conversion_has_no_manifest_and_can_be_repeated(tmp_path, writers):
    command = two_writers(tmp_path)
    process = start([*PYTHON, *faulty_convert("blocked_in_sample:9", *command).arguments])
    try:
        wait_until(writers)
    finally:
        kill_group(process)
    assert list((tmp_path / "out").glob(".conversion-*/*.beton"))
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert_rejected(run(trainer(tmp_path, tmp_path / "out")), "manifest.json")
    assert convert(*command).returncode == 0
    assert not list((tmp_path / "out").glob(".*"))
    verify(tmp_path / "out", read_manifest(tmp_path / "out"), Verify.always)


def test_a_writer_that_dies_aborts_the_conversion(tmp_path, writers):
    done = run([*PYTHON, *faulty_convert("killed_writer:9", *two_writers(tmp_path)).arguments])
    assert_rejected(done, "its writer process died (signal 9)", exit_code=1)
    assert [has_exited(pid) for pid in writers()] == [True, True]
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_writers_that_stall_are_killed(tmp_path, writers):
    """One of them is stopped, and ends only by SIGKILL."""
    done = run(faulty_convert("stopped_writer:9", *two_writers(tmp_path), "--timeout", scaled(2)))
    assert_rejected(done, f"no progress for {scaled(2):g} s", "--timeout", exit_code=1)
    assert [has_exited(pid) for pid in writers()] == [True, True]
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_a_one_line_error(tmp_path):
    """With one writer at a time some shards are complete when the disk is full; nothing remains of them."""
    command = ("--source", "synthetic", "--per-class", 10, "--workers", 1)
    with mounted_tmpfs(tmp_path / "disk", "size=10m") as disk:
        assert_rejected(convert(*command, "--shards", 2, "--out", disk / "out"), "No space left on device", exit_code=1)
        assert not (disk / "out").exists()
        done = convert(*command, "--per-class", 5, "--shards", 1, "--out", disk / "out")
        assert done.returncode == 0, done.stderr
        verify(disk / "out", read_manifest(disk / "out"), Verify.always)


@pytest.mark.thorough
def test_a_short_write_without_an_error_is_detected(tmp_path):
    """The kernel writes all but five bytes of the last page of images, and reports success."""
    options = ("--source", "synthetic", "--per-class", 1, "--shards", 1)
    assert convert(*options, "--out", tmp_path / "complete").returncode == 0
    size = next((tmp_path / "complete").glob("train-*")).stat().st_size
    limit = size - 24 * 100 - 5  # FFCV ends a file with 24 bytes for each of the 100 samples
    done = convert(*options, "--out", tmp_path / "short", launcher=("prlimit", f"--fsize={limit}", *PYTHON))
    assert_rejected(done, "short write", exit_code=1)


def test_a_read_only_disk_is_a_one_line_error(tmp_path):
    with mounted_tmpfs(tmp_path / "disk", "ro") as disk:
        options = ("--source", "synthetic", "--per-class", 5, "--out", disk / "out")
        assert_rejected(convert(*options), "Read-only file system", exit_code=1)

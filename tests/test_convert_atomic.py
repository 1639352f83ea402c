"""A conversion replaces a dataset by a complete one or not at all, one at a time, and no process outlives it."""

import fcntl
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from converting import assert_rejected, convert, faulty_convert
from images import class_folders
from limits import LIMIT, scaled
from processes import PYTHON, ROOT, has_exited, kill_group, run, start, wait_until

from data.manifest import Verify, read_manifest, verify
from data.writing.output_directory import DirectoryBusy, exclusive


def two_shards(root):
    return ("--source", "folder", "--root", root, "--shards", 2, "--workers", 2)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A converted dataset."""
    folder = tmp_path_factory.mktemp("old")
    assert convert(*two_shards(class_folders(folder / "images")), "--out", folder / "out").returncode == 0
    return folder / "out"


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """Options that convert other images."""
    return two_shards(class_folders(tmp_path_factory.mktemp("new"), train=7, val=3))


@pytest.fixture(scope="module")
def new_identity(new, tmp_path_factory):
    out = tmp_path_factory.mktemp("new") / "out"
    assert convert(*new, "--out", out).returncode == 0
    return read_manifest(out).identity


@pytest.fixture
def out(old, tmp_path):
    """A copy of the converted dataset, for a conversion of the other images with --overwrite."""
    return shutil.copytree(old, tmp_path / "out")


def identity(out):
    """The identity of a dataset whose files are all intact."""
    manifest = read_manifest(out)
    verify(out, manifest, Verify.always)
    return manifest.identity


def assert_only_listed_files(out):
    shards = {shard.name for split in read_manifest(out).splits.values() for shard in split}
    assert {path.name for path in out.iterdir()} == {*shards, "manifest.json"}


# The renames of a conversion that has written its shards: the manifest in the private directory, four shards, and the
# manifest in its place. Then the lock file is the fifth file to be deleted, after four shards of the old dataset.
BEFORE = ["killed_in_sample:1", "killed_in_sample:9", *(f"killed_before_rename:{number}" for number in range(1, 7))]
AFTER = [f"killed_before_unlink:{number}" for number in range(1, 6)]


@pytest.mark.parametrize("fault", [*BEFORE, *AFTER])
def test_a_conversion_killed_at_any_moment_leaves_a_valid_dataset(old, new, new_identity, out, writers, fault):
    done = run(faulty_convert(fault, *new, "--out", out, "--overwrite"))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert identity(out) == (identity(old) if fault in BEFORE else new_identity)
    wait_until(lambda: all(has_exited(pid) for pid in writers()))
    repeated = convert(*new, "--out", out, "--overwrite")
    assert repeated.returncode == 0, repeated.stderr
    assert identity(out) == new_identity
    assert_only_listed_files(out)


def test_writers_end_when_their_parent_is_killed(new, tmp_path, writers):
    process = start(faulty_convert("blocked_in_sample:3", *new, "--out", tmp_path / "out"))
    try:
        wait_until(lambda: len(writers()) == 2)
        assert not any(has_exited(pid) for pid in writers())
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: all(has_exited(pid) for pid in writers()))
    finally:
        kill_group(process)


def test_a_writer_whose_parent_was_killed_before_it_began_ends(new, tmp_path, writers):
    options = (*new, "--workers", 1, "--out", tmp_path / "out")
    process = start(faulty_convert("killed_before_a_writer_is_bound_to_it", *options))
    try:
        wait_until(writers)
        wait_until(lambda: all(has_exited(pid) for pid in writers()))
    finally:
        kill_group(process)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_conversion_in_one_line(old, new, out, writers, number):
    """Sent to all processes, as by Ctrl-C."""
    process = start(faulty_convert("blocked_in_sample:3", *new, "--out", out, "--overwrite"))
    wait_until(lambda: len(writers()) == 2)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (128 + number, f"interrupted by {number.name}: nothing was converted\n")
    assert all(has_exited(pid) for pid in writers())
    assert identity(out) == identity(old)
    assert_only_listed_files(out)


def test_a_signal_during_the_import_of_ffcv_ends_a_conversion_in_one_line(new, out, old):
    interrupted = [*PYTHON, "tests/helpers/signalled_imports.py", "SIGTERM", "ffcv", "data.convert"]
    done = run([*interrupted, *map(str, new), "--out", str(out), "--overwrite"])
    assert (done.returncode, done.stderr) == (143, "interrupted by SIGTERM: nothing was converted\n")
    assert identity(out) == identity(old)
    assert_only_listed_files(out)


def test_a_signal_that_another_thread_gets_is_held_back_too():
    program = (
        "import os, signal, threading, time\n"
        "from commandline import interrupts\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "try:\n"
        "    with interrupts.raised_as_exceptions(), interrupts.held_back():\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(0.2)\n"
        "        print('whole')\n"
        "    print('not interrupted')\n"
        "except interrupts.Interrupted as interrupted:\n"
        "    print(interrupted)\n"
    )
    done = run([*PYTHON, "-c", program], PYTHONPATH=str(ROOT))
    assert (done.stdout, done.stderr) == ("whole\ninterrupted by SIGTERM\n", "")


@pytest.mark.parametrize("fault", ["interrupted_before_rename:3", "interrupted_before_unlink:5"])
def test_a_signal_does_not_divide_the_replacement(new, new_identity, out, fault):
    """Nor does it end the command once the dataset is replaced; the fifth deletion is that of the lock."""
    done = run(faulty_convert(fault, *new, "--out", out, "--overwrite"))
    assert (done.returncode, done.stderr) == (0, "")
    assert identity(out) == new_identity
    assert_only_listed_files(out)


def test_a_second_signal_does_not_hide_the_line_about_the_first():
    """Services and users who lose patience send several."""
    program = (
        "import os, signal, sys\n"
        "from commandline import interrupts\n"
        "try:\n"
        "    with interrupts.raised_as_exceptions():\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "except interrupts.Interrupted as interrupted:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print(interrupted)\n"
    )
    done = run([sys.executable, "-c", program], PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stdout) == (0, "interrupted by SIGTERM\n")


def test_a_signal_during_the_imports_ends_the_command_in_one_line(tmp_path):
    """Importing numpy stands for all imports: the handlers are there before it."""
    program = (
        "import os, runpy, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'numpy': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "runpy.run_module('data.convert', run_name='__main__', alter_sys=True)\n"
    )
    done = run([sys.executable, "-c", program, "--out", str(tmp_path / "out")])
    assert (done.returncode, done.stderr) == (130, "interrupted by SIGINT\n")


def test_a_second_conversion_into_a_directory_is_rejected_while_the_first_is_running(new, tmp_path, writers):
    out = tmp_path / "out"
    process = start(faulty_convert("blocked_in_sample:3", *new, "--out", out))
    try:
        wait_until(lambda: len(writers()) == 2)
        second = convert(*new, "--out", out)
        assert_rejected(second, out, f"process {process.pid} on", "another --out")
        assert second.stdout == ""  # before it reads the folder of the images
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: all(has_exited(pid) for pid in writers()))
        assert convert(*new, "--out", out).returncode == 0
        assert_only_listed_files(out)
    finally:
        kill_group(process)


def test_a_directory_that_another_conversion_has_just_filled_is_not_converted_again(new, new_identity, tmp_path):
    """It was empty when the command looked, and was filled and unlocked before the command locked it."""
    out = tmp_path / "out"
    done = run(faulty_convert("converted_before_the_lock", *new, "--out", out))
    assert_rejected(done, f"{out} was converted by another process just now; run the same command again")
    assert identity(out) == new_identity
    assert "already converted" in convert(*new, "--out", out).stdout


def test_a_lock_that_was_deleted_while_it_was_taken_is_taken_again(tmp_path, monkeypatch):
    """Its holder deletes it after another process has opened it."""
    lock, steps = fcntl.flock, ["replaced", "deleted"]

    def deleted_before(file, operation):
        if steps:
            os.unlink(file.name)
            if steps.pop() == "replaced":
                Path(file.name).touch()
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", deleted_before)
    with exclusive(tmp_path), pytest.raises(DirectoryBusy), exclusive(tmp_path):
        pass
    assert not any(tmp_path.iterdir())


def test_files_of_a_conversion_that_is_running_are_no_leftovers(old, out):
    (out / ".conversion-running").mkdir()
    with exclusive(out):
        done = convert(*two_shards(old.parent / "images"), "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert "deleted" not in done.stdout
    assert (out / ".conversion-running").exists()


def test_an_overwrite_that_fails_changes_nothing(new, out):
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in out.iterdir()}
    assert_rejected(convert(*new, "--out", out, "--overwrite", "--shards", 50), "cannot fill 50 shards")
    stalled = faulty_convert("blocked_in_sample:3", *new, "--out", out, "--overwrite", "--timeout", scaled(5))
    assert_rejected(
        run(stalled, WRITERS=str(out.parent)), f"no progress for {scaled(5):g} s after 2 of", "--timeout", exit_code=1
    )
    assert before == {path: (path.stat().st_ino, path.read_bytes()) for path in out.iterdir()}


def test_converting_the_same_images_again_keeps_the_files_that_runs_may_be_reading(old, out):
    before = {path: path.stat().st_ino for path in out.glob("*.beton")}
    assert convert(*two_shards(old.parent / "images"), "--out", out, "--overwrite").returncode == 0
    assert before == {path: path.stat().st_ino for path in out.glob("*.beton")}


def test_slow_images_are_progress(tmp_path):
    """A shard of 21 images takes 4.2 s, more than the timeout; FFCV itself counts hundreds of images."""
    root = class_folders(tmp_path / "images", train=7, val=1)
    options = ("--source", "folder", "--root", root, "--shards", 1, "--workers", 2, "--timeout", scaled(3))
    done = run(faulty_convert("slow_samples", *options, "--out", tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")

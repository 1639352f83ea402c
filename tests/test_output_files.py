"""Output files of commands are replaced by complete files or not at all."""

import errno
import json
import os
import stat
import sys

import pytest
from disks import mounted_tmpfs
from processes import ROOT, run

from benchmarks import accuracy, baseline_curves
from commandline.errors import InputError
from commandline.paths import check_output_file
from regnet.runs.atomic_write import replace_file


def test_a_file_is_replaced_with_its_permissions(tmp_path):
    path = tmp_path / "out.json"
    replace_file(path, b"one")
    path.chmod(0o640)
    replace_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to("file")
    replace_file(tmp_path / "link", b"content")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_pipe_is_written_to(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    replace_file(pipe, b"content")
    assert os.read(reader, 100) == b"content"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_disk_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"previous")
    program = "import sys; from pathlib import Path; from regnet.runs.atomic_write import replace_file\n"
    program += "replace_file(Path(sys.argv[1]), bytes(10_000))"
    done = run(["prlimit", "--fsize=4096", sys.executable, "-c", program, str(path)], PYTHONPATH=str(ROOT))
    assert "File too large" in done.stderr
    assert str(path) in done.stderr
    assert path.read_bytes() == b"previous"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_name_may_have_the_greatest_length(tmp_path):
    path = tmp_path / ("a" * 255)
    replace_file(path, b"content")
    assert path.read_bytes() == b"content"


def test_a_file_that_is_mounted_by_itself_is_written_to(tmp_path):
    """As a file that is given to a container as a volume."""
    volume, path = tmp_path / "volume", tmp_path / "out.json"
    volume.touch()
    path.touch()
    if os.geteuid() != 0 or run(["mount", "--bind", str(volume), str(path)]).returncode != 0:
        pytest.skip("mounting needs root and the permission to mount")
    try:
        replace_file(path, b"content")
    finally:
        run(["umount", str(path)])
    assert volume.read_bytes() == b"content"
    assert {file.name for file in tmp_path.iterdir()} == {"volume", "out.json"}


def test_a_directory_in_which_no_file_can_be_created_is_rejected(tmp_path):
    """The file itself could be written, but it would be replaced when the work is done."""
    with mounted_tmpfs(tmp_path / "disk", "size=1m") as disk:
        (disk / "out.json").touch()
        run(["mount", "-o", "remount,ro", str(disk)])
        with pytest.raises(InputError, match=f"--json {disk / 'out.json'}"):
            check_output_file("--json", disk / "out.json")


def test_benchmarks_replace_their_files(tmp_path, monkeypatch):
    figure, run_directory, stored = tmp_path / "figure.png", tmp_path / "run-0", tmp_path / "run-0.json"
    run_directory.mkdir()
    (run_directory / "result.json").write_text('{"top1": 0.5, "top5": 0.9}')
    row = {"kind": "epoch", "epoch": 1, "train_loss": 1, "seconds": 1, "images_per_second": 1}
    (run_directory / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    hardware = accuracy.Hardware("cpu", 1, 1)

    def write():
        baseline_curves.draw(figure, "run", [], [])

    def store():
        accuracy.read_result(run_directory, 0, hardware, None, None)

    for action, path in ((write, figure), (store, stored)):
        action()
        previous = path.read_bytes()
        with monkeypatch.context() as failing:
            failing.setattr(os, "fsync", fail)
            with pytest.raises(OSError, match="Input/output error"):
                action()
        assert path.read_bytes() == previous
        assert not list(tmp_path.glob(".*"))


def fail(file):
    os.ftruncate(file, 1)  # as much as has reached the disk
    raise OSError(errno.EIO, os.strerror(errno.EIO))

"""Output files of commands are replaced by complete files or not at all."""

import os
import stat
import sys

from programs import ROOT, run

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

"""Files and folders that a conversion may not read, and links to nothing: one line names them."""

from contextlib import contextmanager

import pytest
from converting import assert_rejected
from fork_server import ForkedCommand
from images import class_folders
from processes import run

from data.manifest import read_manifest


@contextmanager
def permissions(path, mode):
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


@pytest.fixture
def root(tmp_path):
    return class_folders(tmp_path / "images")


def convert(root, *options):
    options = ("--root", root, "--out", root.parent / "out", "--shards", 1, "--workers", 1, *options)
    return run(ForkedCommand(["tests/helpers/unprivileged.py", "data.convert", *map(str, options)]))


@pytest.mark.parametrize(
    ("path", "mode", "message"),
    [
        (".", 0, "images: Permission denied"),
        ("train/bee", 0, "images/train/bee: Permission denied"),
        ("train/bee", 0o644, "images/train/bee/0.png: Permission denied"),
        ("train/bee/1.png", 0, "images/train/bee/1.png: cannot be read (Permission denied); remove it, or use --skip"),
    ],
)
def test_what_may_not_be_read_is_named(root, path, mode, message):
    with permissions(root / path, mode):
        assert_rejected(convert(root), f"error: {root.parent}/{message}")
    assert not (root.parent / "out").exists()


def test_a_folder_in_a_folder_that_may_only_be_listed_is_named(root):
    (root / "train" / "bee" / "more").mkdir()
    with permissions(root / "train" / "bee", 0o644):
        assert_rejected(convert(root), f"error: {root}/train/bee/more: Permission denied")


def test_a_root_in_a_file_is_named(root):
    path = root / "train" / "bee" / "1.png" / "images"
    done = convert(path, "--source", "folder", "--out", root.parent / "out")
    assert_rejected(done, f"error: {path}: Not a directory")


def test_official_files_that_may_not_be_read_are_named(tmp_path):
    root = tmp_path / "official"
    path = root / "cifar-100-python" / "train"
    path.parent.mkdir(parents=True)
    path.touch()
    with permissions(path, 0):
        done = convert(root)
    assert_rejected(done, f"error: {root}: cannot be read ([Errno 13] Permission denied: '{path}')")
    assert "--download" not in done.stderr


@pytest.mark.parametrize("name", ["manifest.json", "train-*"])
def test_a_file_of_a_dataset_that_may_not_be_read_is_not_called_damaged(root, name):
    assert convert(root).returncode == 0
    (path,) = (root.parent / "out").glob(name)
    with permissions(path, 0):
        done = convert(root, "--verify")
    assert (done.returncode, done.stderr) == (2, f"error: {path}: Permission denied\n")


def test_a_link_to_nothing_is_an_image_that_cannot_be_stored(root):
    link, out = root / "train" / "bee" / "9.png", root.parent / "out"
    link.symlink_to("nothing")
    assert_rejected(convert(root), f"{link}: cannot be read (No such file or directory); remove it, or use --skip-bad")
    done = convert(root, "--skip-bad")
    assert (done.returncode, done.stderr) == (0, "")
    assert read_manifest(out).skipped == (str(link),)
    assert "the image files have not changed" in convert(root, "--skip-bad").stdout
    (root / "train" / "bee" / "nothing").write_bytes((root / "train" / "bee" / "1.png").read_bytes())
    assert_rejected(convert(root, "--skip-bad"), f"{root} changed since {out} was converted")


@pytest.mark.parametrize("command", ["evaluate --json", "export --weights"])
def test_a_file_in_a_folder_that_may_not_be_changed_is_rejected_before_the_work(tmp_path, command):
    command, option = command.split()
    file = tmp_path / "results" / "file"
    file.parent.mkdir()
    arguments = ["--checkpoint", str(tmp_path / "absent.pt"), option, str(file)]
    with permissions(file.parent, 0o555):
        done = run(ForkedCommand(["tests/helpers/unprivileged.py", f"regnet.{command}", *arguments]))
    assert_rejected(done, f"error: {option} {file}: no files can be created in {file.parent} (permission denied)")


def test_a_file_that_may_not_be_written_is_rejected_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    arguments = ["--checkpoint", str(tmp_path / "absent.pt"), "--json", str(tmp_path / "file")]
    with permissions(tmp_path / "file", 0o444):
        done = run(ForkedCommand(["tests/helpers/unprivileged.py", "regnet.evaluate", *arguments]))
    assert_rejected(done, f"error: --json {tmp_path / 'file'}: permission denied")

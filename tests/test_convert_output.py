"""The directory that a conversion writes to: what it may be, and which files there are deleted."""

import shutil
import sys
from dataclasses import replace

import pytest
from converting import assert_rejected, convert, faulty_convert, one_class_per_folder
from disks import mounted_tmpfs
from images import class_folders
from processes import PYTHON, ROOT, run

from data.errors import DataError
from data.manifest import MANIFEST, Verify, read_manifest, shard_names, verify, write_manifest

OPTIONS = ("--shards", 1, "--workers", 1)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def converted(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "out"
    assert convert("--root", images, "--out", out, *OPTIONS).returncode == 0
    return out


@pytest.fixture
def out(converted, tmp_path):
    return shutil.copytree(converted, tmp_path / "out")


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_an_output_path_that_is_no_directory_is_rejected_before_images_are_read(images, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nothing")
    for path in ("file", "file/below", "link"):
        done = convert("--root", images, "--out", tmp_path / path, *OPTIONS)
        assert_rejected(done, f"--out {tmp_path / path}", "is not a directory")
        assert done.stdout == ""


def test_files_of_others_are_neither_deleted_nor_replaced(images, tmp_path):
    foreign = {"manifest.json": '{"name": "a web application"}', ".lock": "x", "train-00000-of-00001.beton": "of FFCV"}
    for name, text in foreign.items():
        (tmp_path / name).write_text(text)
    for overwrite in ((), ("--overwrite",)):
        done = convert("--root", images, "--out", tmp_path, *OPTIONS, *overwrite)
        assert_rejected(done, tmp_path / "manifest.json", "not the manifest of a converted dataset")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == foreign
    (tmp_path / "manifest.json").unlink()
    assert convert("--root", images, "--out", tmp_path, *OPTIONS).returncode == 0
    assert names_in(tmp_path) > {".lock", "train-00000-of-00001.beton"}
    verify(tmp_path, read_manifest(tmp_path), Verify.always)


def test_the_shards_of_the_previous_manifest_are_deleted_whatever_their_names(images, out):
    manifest = read_manifest(out)
    renamed = {}
    for split, (shard,) in manifest.splits.items():
        (out / shard.name).rename(out / f"{split}.beton")
        renamed[split] = (replace(shard, name=f"{split}.beton"),)
    write_manifest(out, replace(manifest, splits=renamed))
    assert convert("--root", images, "--out", out, *OPTIONS, "--overwrite").returncode == 0
    assert names_in(out) == {MANIFEST, *shard_names(manifest)}


def test_a_failed_conversion_deletes_nothing_that_was_there(images, out):
    """Without its manifest, which can be restored from a copy."""
    (out / MANIFEST).unlink()
    before = names_in(out)
    assert_rejected(convert("--root", images, "--out", out, "--shards", 99), "cannot fill 99 shards")
    assert names_in(out) == before


def test_shards_are_removed_again_if_the_manifest_cannot_be_replaced(images, tmp_path):
    (tmp_path / MANIFEST).mkdir()
    done = convert("--root", images, "--out", tmp_path, *OPTIONS, "--overwrite")
    assert_rejected(done, tmp_path / MANIFEST, exit_code=1)
    assert names_in(tmp_path) == {MANIFEST}


def test_the_same_command_deletes_what_a_killed_conversion_left(images, out):
    expected = names_in(out)
    (out / ".conversion-abc").mkdir()
    (out / "train-00009-of-00010-0123abcd.beton").touch()
    done = convert("--root", images, "--out", out, *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert f"note: {out}: deleted 2 files and directories of an interrupted conversion\n" in done.stdout
    assert names_in(out) == expected


def test_a_dataset_in_a_read_only_directory_counts_as_converted(images, tmp_path):
    with mounted_tmpfs(tmp_path / "disk", "size=32m") as disk:
        assert convert("--root", images, "--out", disk / "out", *OPTIONS).returncode == 0
        (disk / "out" / ".conversion-abc").mkdir()
        run(["mount", "-o", "remount,ro", str(disk)])
        done = convert("--root", images, "--out", disk / "out", *OPTIONS)
        assert (done.returncode, done.stderr) == (0, "")
        assert "already converted" in done.stdout


def test_the_output_may_be_among_the_classes(tmp_path):
    root = one_class_per_folder(tmp_path / "images", [(8, 8)] * 2)
    (root / "ant" / "1.png").write_text("no image")
    options = ("--root", root, "--out", root / "shards", *OPTIONS)
    assert_rejected(convert(*options), root / "ant" / "1.png")
    (root / "ant" / "1.png").unlink()
    for overwrite in ((), (), ("--overwrite",)):
        done = convert(*options, *overwrite)
        assert done.returncode == 0, done.stderr
    assert read_manifest(root / "shards").classes == ("ant", "bee", "cat")


def test_one_class_is_rejected(tmp_path):
    root = one_class_per_folder(tmp_path / "images", [(8, 8)] * 2, classes=["ant"])
    assert_rejected(convert("--root", root, "--out", tmp_path / "out"), f"{root} has only one class folder, ant")
    assert not (tmp_path / "out").exists()


def test_a_file_system_without_locks_is_rejected(images, tmp_path):
    done = run(faulty_convert("no_locks", "--root", images, "--out", tmp_path / "out", *OPTIONS))
    assert_rejected(
        done, tmp_path / "out", "cannot be locked (No locks available)", "mount this file system with locks"
    )
    assert not (tmp_path / "out").exists()


def test_a_dataset_that_is_replaced_while_it_is_verified_is_not_called_damaged(images, out):
    before = read_manifest(out)
    assert convert("--root", images, "--out", out, "--shards", 2, "--overwrite").returncode == 0
    with pytest.raises(DataError, match=f"{out} was replaced by another conversion just now: start again"):
        verify(out, before, Verify.sizes)


@pytest.mark.thorough
def test_the_bytes_depend_on_neither_workers_nor_umask_nor_hash_seed(images, tmp_path):
    program = "import os, runpy, sys; os.umask(0o077); sys.argv[0] = 'convert'; runpy.run_module('data.convert', "
    program += "run_name='__main__', alter_sys=True)"
    options = ["--root", str(images), "--shards", "3"]
    command = [sys.executable, "-c", program, *options, "--out", str(tmp_path / "one"), "--workers", "1"]
    assert run(command, PYTHONPATH=str(ROOT), PYTHONHASHSEED="1", LC_ALL="C").returncode == 0
    command = [*PYTHON, "-m", "data.convert", *options, "--out", str(tmp_path / "two"), "--workers", "5"]
    assert run(command, PYTHONHASHSEED="2").returncode == 0
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two

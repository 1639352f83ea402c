"""Converting into a directory that holds converted images."""

import hashlib
import json
import os
import shutil

import pytest
from converting import assert_rejected, convert
from images import class_folders
from PIL import Image

from data.manifest import MANIFEST, read_manifest


def test_a_second_call_writes_nothing_and_other_options_are_rejected(tmp_path):
    options = ("--source", "synthetic", "--per-class", 5, "--out", tmp_path / "out")
    assert convert(*options).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = convert(*options)
    assert (again.returncode, "already converted" in again.stdout) == (0, True)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert_rejected(convert(*options, "--shards", 5), "--shards was not given, now 5", "--overwrite")
    assert convert(*options, "--shards", 5, "--overwrite").returncode == 0
    assert len(read_manifest(tmp_path / "out").splits["train"]) == 5


def test_a_dataset_of_version_4_is_rejected_until_it_is_overwritten(tmp_path):
    """Version 4 had other names for the options in `source`, which would all appear to have changed."""
    options = ("--source", "synthetic", "--per-class", 5, "--out", tmp_path / "out")
    assert convert(*options).returncode == 0
    path = tmp_path / "out" / MANIFEST
    record = json.loads(path.read_text())
    del record["sha256"], record["source"]["source"]
    record["version"] = 4
    record["source"] |= {"kind": "synthetic", "convert_rgb": False}
    record["sha256"] = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(record))
    done = convert(*options)
    assert_rejected(done, "converted by an older version of this program (manifest format 4, ", "--overwrite")
    assert "--kind" not in done.stderr
    assert convert(*options, "--overwrite").returncode == 0
    assert "already converted" in convert(*options).stdout


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    root = class_folders(folder / "images")
    assert convert("--source", "folder", "--root", root, "--out", folder / "out", "--shards", 1).returncode == 0
    return folder


@pytest.fixture
def folder(converted, tmp_path):
    """A folder with images/, and out/, which was converted from them; and the options that did it."""
    shutil.copytree(converted, tmp_path, dirs_exist_ok=True)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    del manifest["sha256"]
    manifest["source"]["root"] = str(tmp_path / "images")
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(manifest))
    return tmp_path


def convert_again(folder, *options):
    options = ("--source", "folder", "--root", folder / "images", "--out", folder / "out", "--shards", 1, *options)
    return convert(*options)


def test_unchanged_images_are_not_converted_again(folder):
    done = convert_again(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{folder / 'out'}: already converted; its shards have the recorded sizes (--verify compares SHA-256), "
        "and the image files have not changed\n"
    )


def test_images_that_are_gone_are_not_compared(folder):
    shutil.rmtree(folder / "images")
    done = convert_again(folder)
    assert done.returncode == 0, done.stderr
    assert f"{folder / 'images'} is gone, so its images were not compared" in done.stdout


def test_images_that_were_moved_are_not_converted_again(folder):
    moved = folder / "moved"
    (folder / "images").rename(moved)
    done = convert_again(folder, "--root", moved)
    assert done.returncode == 0, done.stderr
    assert "and the image files have not changed" in done.stdout
    add(moved / "train" / "bee")
    recorded = folder / "images"
    assert_rejected(convert_again(folder, "--root", moved), f"converted from {recorded}, not from {moved}", "2 more")
    assert_rejected(convert_again(folder, "--root", folder / "none"), f"{folder / 'none'}: no such directory")


def test_the_source_of_images_that_are_gone_is_the_recorded_one(tmp_path):
    """CIFAR-100's archive is often deleted after the conversion; without it, --root looks like a folder of images."""
    options = ("--source", "synthetic", "--per-class", 1, "--out", tmp_path / "out")
    assert convert(*options).returncode == 0
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    del manifest["sha256"], manifest["source"]["per_class"]
    manifest["source"] |= {"source": "cifar100", "root": str(tmp_path / "downloads")}
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(manifest))
    done = convert("--root", tmp_path / "downloads", "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert "already converted" in done.stdout


def add(folder):
    for name in ("8.png", "9.png"):
        Image.new("RGB", (32, 32)).save(folder / name)


def remove(folder):
    (folder / "2.png").unlink()


def rename(folder):
    (folder / "2.png").rename(folder / "3a.png")


def modify(folder):
    Image.new("RGB", (32, 32)).save(folder / "2.png")


def touch(folder):
    os.utime(folder / "2.png", (1, 1))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (add, "20 image files, 2 more than then"),
        (remove, "17 image files, 1 fewer than then"),
        (rename, "18 image files as then, but with other names"),
        (modify, "the same 18 image files, but with other sizes."),
        (touch, "the same 18 image files, but with other modification times (contents were not compared)"),
    ],
)
def test_changed_images_are_noticed(folder, change, difference):
    change(folder / "images" / "train" / "bee")
    done = convert_again(folder)
    assert_rejected(done, f"{folder / 'images'} changed since", difference, "Use --overwrite")


def test_damaged_shards_are_named_with_the_remedy(folder):
    """A shard with another size at once, one with another byte with --verify."""
    shard = next((folder / "out").glob("val-*"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert convert_again(folder).returncode == 0
    assert_rejected(convert_again(folder, "--verify"), shard, "SHA-256", "--overwrite")
    shard.write_bytes(content[:-1])
    assert_rejected(convert_again(folder), shard, f"{len(content) - 1} bytes", "--overwrite")
    shard.unlink()
    assert_rejected(convert_again(folder), shard, "No such file", "--overwrite")
    assert convert_again(folder, "--overwrite").returncode == 0
    done = convert_again(folder, "--verify")
    assert "its shards have the recorded SHA-256, and the image files have not changed" in done.stdout

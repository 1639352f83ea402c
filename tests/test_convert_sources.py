"""Folders and CIFAR-100 as sources of images."""

import hashlib
import pickle
import shutil
import tarfile

import numpy as np
import pytest
from converting import assert_rejected, convert, one_class_per_folder, read_all
from fork_server import ForkedCommand
from images import class_folders
from processes import run

from data.convert import main
from data.manifest import read_manifest
from data.sources.registry import Kind, open_source
from data.sources.synthetic import SyntheticImages


def test_unusable_folders_are_rejected_with_the_expected_layout(tmp_path):
    out = ("--out", tmp_path / "out")
    layout = "one folder of images per class, or train/ and val/ (or test/) with one folder per class each"
    assert_rejected(
        convert("--source", "folder", "--root", tmp_path / "no", *out), tmp_path / "no", "no such directory"
    )
    (tmp_path / "empty").mkdir()
    assert_rejected(convert("--source", "folder", "--root", tmp_path / "empty", *out), tmp_path / "empty", layout)
    one = one_class_per_folder(tmp_path / "one", [(40, 40)], classes=("images",))
    assert_rejected(convert("--source", "folder", "--root", one, *out), "only one class folder, images", "at least two")
    source = class_folders(tmp_path / "images")
    (source / "train" / "dog").mkdir()
    (source / "test" / "dog").mkdir()
    assert_rejected(convert("--source", "folder", "--root", source, *out), "dog", layout)
    (source / "test" / "dog").rmdir()
    assert_rejected(convert("--source", "folder", "--root", source, *out), "dog")
    (source / "train" / "dog").rmdir()
    shutil.rmtree(source / "test" / "bee")
    assert_rejected(convert("--source", "folder", "--root", source, *out), "train/ and test/", "bee", "every class")
    shutil.rmtree(source / "train")
    assert_rejected(convert("--source", "folder", "--root", source, *out), "has test/, but no train/", layout)


def test_training_folders_without_validation_folders_are_split(tmp_path):
    source, out = class_folders(tmp_path / "images"), tmp_path / "out"
    shutil.rmtree(source / "test")
    done = convert("--source", "folder", "--root", source, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "has no val/ or test/: 3 of 12 images, 10% (at least one) of every class, are the" in done.stdout
    assert [read_manifest(out).samples(split) for split in ("train", "val")] == [9, 3]


def test_a_missing_cifar100_is_rejected_with_the_alternatives(tmp_path):
    options = ("--source", "cifar100", "--root", tmp_path, "--out", tmp_path / "out")
    assert_rejected(convert(*options), "CIFAR100=", "--root", "--download", "network")
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "train").write_bytes(b"not the official file")
    assert_rejected(convert(*options), "CIFAR100=", "official")
    archive = tmp_path / "cifar-100-python.tar.gz"
    archive.write_bytes(b"not an archive")
    assert_rejected(convert("--source", "cifar100", "--root", archive, "--out", tmp_path / "out"), archive, "tar")


def official_archive(folder, train=6, test=3):
    """A small archive in the format of the official one, and the MD5 of every file."""
    directory = folder / "cifar-100-python"
    directory.mkdir()
    random = np.random.default_rng(0)
    for name, count in (("train", train), ("test", test)):
        data = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        (directory / name).write_bytes(pickle.dumps({"data": data, "fine_labels": list(range(count))}))
    (directory / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class_{k}" for k in range(100)]}))
    archive = folder / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(directory, directory.name)
    digests = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in directory.iterdir()}
    return archive, digests


def expect_digests(monkeypatch, digests):
    """torchvision checks the MD5 of the official files, so it gets those of a small replacement."""
    from data.sources.torchvision_datasets import CIFAR100

    monkeypatch.setattr(CIFAR100, "train_list", [["train", digests["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", digests["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": digests["meta"]})


@pytest.mark.parametrize("root", ["cifar-100-python.tar.gz", "cifar-100-python", "."])
def test_the_official_files_are_read_packed_and_unpacked(tmp_path, monkeypatch, root):
    archive, digests = official_archive(tmp_path)
    expect_digests(monkeypatch, digests)
    if root == archive.name:
        shutil.rmtree(tmp_path / "cifar-100-python")
    source, notes = open_source(Kind.cifar100, tmp_path / root)
    assert notes == []
    assert (len(source.train), len(source.val), source.classes[99]) == (6, 3, "class_99")
    assert [source.train[index][1] for index in range(6)] == list(range(6))


def test_the_official_files_are_converted_once(tmp_path, monkeypatch, capsys):
    """In this process, whose torchvision expects other digests. The images have no files that could be compared."""
    _, digests = official_archive(tmp_path, train=100, test=10)
    expect_digests(monkeypatch, digests)
    command = ["--root", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert f"{tmp_path / 'out'}: 100 train + 10 val images, 100 classes" in capsys.readouterr().out
    stored = pickle.loads((tmp_path / "cifar-100-python" / "train").read_bytes())["data"]
    pixels, labels, _ = read_all(tmp_path / "out", "train")
    assert np.array_equal(pixels, stored.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    assert labels.tolist() == list(range(100))
    assert main(command) == 0
    assert capsys.readouterr().out.endswith(
        "already converted; its shards have the recorded sizes (--verify compares SHA-256)\n"
    )


def test_a_download_that_fails_is_one_line_with_the_alternatives(tmp_path):
    """Through a proxy that nobody runs."""
    proxy = {"http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1", "no_proxy": ""}
    options = ["--root", str(tmp_path / "downloads"), "--download", "--out", str(tmp_path / "out")]
    done = run(ForkedCommand(["-m", "data.convert", *options]), **proxy)
    failed = (
        f"CIFAR-100 could not be downloaded into {tmp_path / 'downloads'} (<urlopen error [Errno 111] Connection ref"
    )
    assert_rejected(done, failed, "--root", "CIFAR100=")
    assert not (tmp_path / "out").exists()


def test_generated_images_are_a_sequence_with_an_end():
    assert [label for _, label in SyntheticImages("val", 1)] == list(range(100))

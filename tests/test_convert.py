"""python -m data.convert as its users call it, and what can be read back from what it wrote."""

import hashlib
import os
import pickle
import shutil
import signal
import tarfile
from dataclasses import replace as replace_field

import numpy as np
import pytest
import torch
from images import class_folders
from nursery import ForkedCommand
from PIL import Image
from programs import PYTHON, kill_group, mounted_tmpfs, run, start, trainer, wait_until

from data.errors import DataError
from data.manifest import Verify, read_manifest, verify, write_manifest
from data.reading.shard_reader import ShardReader
from data.sampler import epoch_order
from data.sources.registry import Kind, open_source


def convert(*options, launcher=()):
    command = ["-m", "data.convert", *map(str, options)]
    return run([*launcher, *command] if launcher else ForkedCommand(command))


def refused(done, *words, status=2):
    assert done.returncode == status, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert str(word) in lines[0]


def read_all(out, split, batch=7):
    """Every stored sample of a split: pixels, labels, ids, in the order of ids."""
    manifest = read_manifest(out)
    reader = ShardReader(out, manifest, batch, workers=1, prefetch_batches=2, timeout=30)
    batches = torch.arange(manifest.samples(split)).split(batch)
    parts = [tuple(part.clone() for part in item) for item in reader.read(split, batches)]
    return tuple(torch.cat(part).numpy() for part in zip(*parts, strict=True))


@pytest.mark.parametrize("shards", [1, 3, 4])
def test_what_is_read_back_is_what_was_there(tmp_path, shards):
    source = class_folders(tmp_path / "images")
    options = ("--source", "folder", "--root", source, "--out", tmp_path / "out", "--shards", shards)
    done = convert(*options, launcher=PYTHON)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    kinds = [f"{split}-{k:05d}-of-{shards:05d}.beton" for split in ("train", "val") for k in range(shards)]
    assert names == sorted([*kinds, "manifest.json"])
    opened = open_source(Kind.folder, source)
    for split in ("train", "val"):
        pixels, labels, ids = read_all(tmp_path / "out", split)
        assert ids.tolist() == list(range(len(opened.split(split))))
        for index in ids:
            image, label = opened.split(split)[index]
            assert label == labels[index]
            assert np.array_equal(np.asarray(image), pixels[index])


def test_the_manifest_describes_the_images(tmp_path):
    source = class_folders(tmp_path / "images")
    assert convert("--source", "folder", "--root", source, "--out", tmp_path / "out", "--shards", 2).returncode == 0
    manifest = read_manifest(tmp_path / "out")
    verify(tmp_path / "out", manifest, Verify.always)
    assert manifest.classes == ("ant", "bee", "cat")
    assert (manifest.samples("train"), manifest.samples("val"), manifest.resolution) == (12, 6, 32)
    pixels = read_all(tmp_path / "out", "train")[0].astype(np.float64) / 255
    assert manifest.mean == pytest.approx(pixels.mean((0, 1, 2)))
    assert manifest.std == pytest.approx(pixels.std((0, 1, 2)))


def test_samples_come_in_any_order_across_shards(tmp_path):
    source = class_folders(tmp_path / "images")
    assert convert("--source", "folder", "--root", source, "--out", tmp_path / "out", "--shards", 3).returncode == 0
    straight = read_all(tmp_path / "out", "train")
    reader = ShardReader(tmp_path / "out", read_manifest(tmp_path / "out"), 5, workers=1, prefetch_batches=1, timeout=30)
    for images, labels, ids in reader.read("train", epoch_order(12, seed=1, epoch=2).split(5)):
        assert np.array_equal(images, straight[0][ids])
        assert np.array_equal(labels, straight[1][ids])


def test_the_same_images_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        out = tmp_path / name
        assert convert("--source", "synthetic", "--per-class", 5, "--out", out, "--shards", 3).returncode == 0
    for path in (tmp_path / "one").glob("*"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_the_same_images_under_other_labels_are_another_data_set(tmp_path):
    source = class_folders(tmp_path / "images")
    options = ("--source", "folder", "--root", source)
    for name, shards in (("one", 1), ("three", 3)):
        assert convert(*options, "--out", tmp_path / name, "--shards", shards).returncode == 0
    ants, bees = (source / "train" / name / "1.png" for name in ("ant", "bee"))
    ant, bee = ants.read_bytes(), bees.read_bytes()
    ants.write_bytes(bee)
    bees.write_bytes(ant)
    assert convert(*options, "--out", tmp_path / "other", "--shards", 1).returncode == 0
    one, three, other = (read_manifest(tmp_path / name) for name in ("one", "three", "other"))
    assert one.identity == three.identity
    assert (one.mean, one.std) == (other.mean, other.std)
    assert one.identity != other.identity


def test_a_second_call_repeats_nothing_and_other_options_are_refused(tmp_path):
    options = ("--source", "synthetic", "--per-class", 5, "--out", tmp_path / "out")
    assert convert(*options).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = convert(*options)
    assert (again.returncode, "already converted" in again.stdout) == (0, True)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    refused(convert(*options, "--shards", 5), "shards (4 then, 5 now)", "--overwrite")
    assert convert(*options, "--shards", 5, "--overwrite").returncode == 0
    assert len(read_manifest(tmp_path / "out").splits["train"]) == 5


def test_held_out_images_are_of_the_training_set_and_no_longer_in_it(tmp_path):
    options = ("--source", "folder", "--root", class_folders(tmp_path / "images"), "--shards", 1)
    for name, more in (("whole", ()), ("parted", ("--hold-out", 4)), ("again", ("--hold-out", 4))):
        done = convert(*options, *more, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr

    def stored(name, split):
        pixels, labels, _ = read_all(tmp_path / name, split)
        return [(image.tobytes(), label) for image, label in zip(pixels, labels.tolist(), strict=True)]

    kept, held_out = stored("parted", "train"), stored("parted", "val")
    assert (len(kept), len(held_out)) == (8, 4)
    assert sorted(kept + held_out) == sorted(stored("whole", "train"))
    assert len({label for _, label in held_out}) > 1, "not the last of them"
    assert stored("again", "val") == held_out
    where = tmp_path / "parted"
    refused(convert(*options, "--out", where), "hold_out (4 then, None now)")
    refused(convert(*options, "--hold-out", 12, "--out", tmp_path / "none"), "leaves none of 12 training images")


def test_larger_images_are_resized_and_compressed_when_asked(tmp_path):
    """Smooth images survive both nearly unchanged."""
    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    pixels = np.stack(
        [np.broadcast_to(ramp, (64, 96)), np.broadcast_to(ramp[:64, None], (64, 96)), np.full((64, 96), 90)], 2
    )
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / split / name / "0.png")
    options = ("--source", "folder", "--root", tmp_path, "--out", tmp_path / "out", "--shards", 1)
    refused(convert(*options), "96x64 pixels, not 32x32", "--resize")
    done = convert(*options, "--resize", "--resolution", 48, "--mode", "jpg", "--quality", 95)
    assert done.returncode == 0, done.stderr
    stored = read_all(tmp_path / "out", "train")[0][0].astype(int)
    expected = Image.fromarray(pixels.astype(np.uint8)).resize((72, 48), Image.Resampling.BICUBIC).crop((12, 0, 60, 48))
    assert np.abs(stored - np.asarray(expected, dtype=int)).mean() < 4


def replace(folder, image):
    path = folder / "train" / "bee" / "1.png"
    image.save(path)
    return path


def test_wrong_images_are_named(tmp_path):
    source, out = class_folders(tmp_path / "images"), tmp_path / "out"
    options = ("--source", "folder", "--root", source, "--out", out, "--shards", 2)
    path = replace(source, Image.new("L", (32, 32)))
    refused(convert(*options), path, "mode L", "--convert-rgb")
    replace(source, Image.new("RGB", (33, 32)))
    refused(convert(*options), path, "33x32", "--resize")
    path.write_bytes(path.read_bytes()[:40])
    refused(convert(*options), path, "cannot be decoded")
    assert not (out / "manifest.json").exists()
    done = convert(*options, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert read_manifest(out).skipped == (str(path),)
    assert read_manifest(out).samples("train") == 11
    assert read_all(out, "train")[2].tolist() == list(range(11))


def test_grey_images_are_taken_when_asked(tmp_path):
    source = class_folders(tmp_path / "images")
    replace(source, Image.new("L", (32, 32), 77))
    options = ("--source", "folder", "--root", source, "--out", tmp_path / "out", "--shards", 1)
    assert convert(*options, "--convert-rgb").returncode == 0
    assert (read_all(tmp_path / "out", "train")[0][5] == 77).all()


def test_missing_and_foreign_places_are_told_in_one_line(tmp_path):
    out = ("--out", tmp_path / "out")
    refused(convert("--source", "folder", "--root", tmp_path / "no", *out), tmp_path / "no", "no such directory")
    refused(convert("--source", "folder", "--root", tmp_path, *out), "train/")
    source = class_folders(tmp_path / "images")
    (source / "train" / "dog").mkdir()
    (source / "test" / "dog").mkdir()
    refused(convert("--source", "folder", "--root", source, *out), "dog")
    (source / "test" / "dog").rmdir()
    refused(convert("--source", "folder", "--root", source, *out), "dog")
    refused(convert("--source", "folder", *out), "--root is needed")
    refused(convert("--source", "flickr", *out), "flickr", "--help")
    few = class_folders(tmp_path / "few", train=1)
    refused(convert("--source", "folder", "--root", few, *out, "--shards", 9), "cannot fill 9 shards")


def test_cifar100_that_is_neither_there_nor_to_be_had_names_the_two_ways_out(tmp_path):
    options = ("--source", "cifar100", "--root", tmp_path, "--out", tmp_path / "out")
    refused(convert(*options), "CIFAR100=", "network")
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "train").write_bytes(b"not the official file")
    refused(convert(*options), "CIFAR100=", "official")
    archive = tmp_path / "cifar-100-python.tar.gz"
    archive.write_bytes(b"not an archive")
    refused(convert("--source", "cifar100", "--root", archive, "--out", tmp_path / "out"), archive, "tar")


def official_archive(folder):
    """A small archive in the official files' format, and the MD5 of each file."""
    place = folder / "cifar-100-python"
    place.mkdir()
    random = np.random.default_rng(0)
    for name, count in (("train", 6), ("test", 3)):
        data = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        (place / name).write_bytes(pickle.dumps({"data": data, "fine_labels": list(range(count))}))
    (place / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class_{k}" for k in range(100)]}))
    archive = folder / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(place, place.name)
    return archive, {name: hashlib.md5((place / name).read_bytes()).hexdigest() for name in ("train", "test", "meta")}


@pytest.mark.parametrize("given", ["cifar-100-python.tar.gz", "cifar-100-python", "."])
def test_the_official_files_are_read_packed_and_unpacked(tmp_path, monkeypatch, given):
    """torchvision accepts these files by their MD5 alone, so it is told those of a small stand-in."""
    from data.sources.torchvision_datasets import CIFAR100

    archive, digests = official_archive(tmp_path)
    monkeypatch.setattr(CIFAR100, "train_list", [["train", digests["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", digests["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": digests["meta"]})
    if given == archive.name:
        shutil.rmtree(tmp_path / "cifar-100-python")
    source = open_source(Kind.cifar100, tmp_path / given)
    assert (len(source.train), len(source.val), source.classes[99]) == (6, 3, "class_99")
    assert [source.train[index][1] for index in range(6)] == list(range(6))


def test_labels_outside_the_classes_are_refused_at_both_ends(tmp_path):
    from data.shard_writer import Encoding, load_pixels
    from data.sources.registry import Source

    source = open_source(Kind.synthetic, None, per_class=1)
    assert load_pixels(source, "train", 42, Encoding(32, "raw", 90, False, False, False))[1] == 42
    wrong = Source(source.train, source.val, source.name)
    wrong.train.classes = source.classes[:42]
    with pytest.raises(DataError, match="label 42, but there are 42 classes"):
        load_pixels(wrong, "train", 42, Encoding(32, "raw", 90, False, False, False))
    out = tmp_path / "out"
    assert convert("--source", "synthetic", "--per-class", 1, "--out", out, "--shards", 1).returncode == 0
    manifest = read_manifest(out)
    write_manifest(out, replace_field(manifest, classes=manifest.classes[:50]))
    with pytest.raises(DataError, match="label outside 0 to 49"):
        ShardReader(out, read_manifest(out), 10, workers=1, prefetch_batches=1, timeout=10)


def test_a_killed_conversion_leaves_no_manifest_and_is_safely_repeated(tmp_path):
    command = ["--source", "synthetic", "--per-class", "40", "--shards", "2"]
    process = start([*PYTHON, "-m", "data.convert", *command, "--out", str(tmp_path / "out")])
    wait_until(lambda: list((tmp_path / "out").glob(".*.tmp")))
    os.kill(process.pid, signal.SIGKILL)
    kill_group(process)
    assert not (tmp_path / "out" / "manifest.json").exists()
    refused(run(trainer(tmp_path, tmp_path / "out")), "manifest.json")
    assert convert(*command, "--out", tmp_path / "out").returncode == 0
    assert not list((tmp_path / "out").glob(".*"))
    verify(tmp_path / "out", read_manifest(tmp_path / "out"), Verify.always)


def writers_of(process):
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return [int(pid) for pid in file.read().split()]


def test_a_writer_that_dies_ends_the_conversion(tmp_path):
    command = ["--source", "synthetic", "--per-class", "400", "--shards", "2", "--out", str(tmp_path / "out")]
    process = start([*PYTHON, "-m", "data.convert", *command])
    wait_until(lambda: list((tmp_path / "out").glob(".*.tmp")))
    os.kill(writers_of(process)[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1, out + err
    assert "its writer died (signal 9)" in err
    assert not list((tmp_path / "out").glob("*.json"))
    assert not list((tmp_path / "out").glob(".*.tmp"))


def test_a_writer_that_hangs_is_killed(tmp_path):
    source = class_folders(tmp_path / "images")
    path = source / "train" / "cat" / "2.png"
    path.unlink()
    os.mkfifo(path)  # reading it waits for a writer that never comes
    done = convert("--source", "folder", "--root", source, "--out", tmp_path / "out", "--shards", 2, "--timeout", 2)
    refused(done, "no progress for 2 s", status=1)


def test_a_disk_that_fills_up_ends_the_conversion_with_one_line(tmp_path):
    """One writer after the other, so that whole shards lie there when one finds no room; they are in nobody's way."""
    command = ("--source", "synthetic", "--per-class", 10, "--workers", 1)
    with mounted_tmpfs(tmp_path / "disk", "size=10m") as disk:
        refused(convert(*command, "--shards", 2, "--out", disk / "out"), "No space left on device", status=1)
        left = sorted(path.name for path in (disk / "out").iterdir())
        assert left == ["train-00000-of-00002.beton", "train-00001-of-00002.beton"]
        done = convert(*command, "--per-class", 5, "--shards", 1, "--out", disk / "out")
        assert done.returncode == 0, done.stderr
        verify(disk / "out", read_manifest(disk / "out"), Verify.always)


def test_a_write_that_was_cut_short_without_an_error_is_noticed(tmp_path):
    """The kernel takes all of the last page of images but five bytes, and calls that a success."""
    options = ("--source", "synthetic", "--per-class", 1, "--shards", 1)
    assert convert(*options, "--out", tmp_path / "whole").returncode == 0
    size = (tmp_path / "whole" / "train-00000-of-00001.beton").stat().st_size
    limit = size - 24 * 100 - 5  # FFCV ends a file with 24 bytes for each of the 100 samples
    done = convert(*options, "--out", tmp_path / "cut", launcher=("prlimit", f"--fsize={limit}", *PYTHON))
    refused(done, "short write", status=1)


def test_a_place_that_cannot_be_written_to_is_told_in_one_line(tmp_path):
    with mounted_tmpfs(tmp_path / "disk", "ro") as disk:
        options = ("--source", "synthetic", "--per-class", 5, "--out", disk / "out")
        refused(convert(*options), "Read-only file system", status=1)

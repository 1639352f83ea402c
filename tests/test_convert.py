"""python -m data.convert as users call it, and what can be read back from the shards."""

import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import tarfile
from dataclasses import replace as replace_field
from pathlib import Path

import numpy as np
import pytest
import torch
from fork_server import ForkedCommand
from images import class_folders
from PIL import Image
from programs import PYTHON, kill_group, mounted_tmpfs, result, run, start, trainer, wait_until

from data.convert import parser
from data.errors import DataError
from data.image_encoding import Encoding, load_image
from data.manifest import MANIFEST, Verify, read_manifest, verify, write_manifest
from data.reading.ffcv_imports import IMAGE_MODES
from data.reading.mmap_shards import MappedShards
from data.reading.shard_reader import ShardReader
from data.sampler import epoch_order
from data.sources.registry import Kind, open_source
from data.sources.source import Source


def convert(*options, launcher=()):
    command = ["-m", "data.convert", *map(str, options)]
    return run([*launcher, *command] if launcher else ForkedCommand(command))


def assert_rejected(done, *words, exit_code=2):
    assert done.returncode == exit_code, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert str(word) in lines[0]


def read_all(out, split, batch=7):
    """Every stored sample of a split, in the order of ids: pixels, labels, ids."""
    manifest = read_manifest(out)
    reader = ShardReader(out, manifest, batch, workers=1, prefetch_batches=2, timeout=30)
    batches = torch.arange(manifest.samples(split)).split(batch)
    parts = [tuple(part.clone() for part in item) for item in reader.read(split, batches)]
    return tuple(torch.cat(part).numpy() for part in zip(*parts, strict=True))


@pytest.mark.parametrize("shards", [1, 3, 4])
def test_shards_contain_the_pixels_and_labels_of_the_files(tmp_path, shards):
    source = class_folders(tmp_path / "images")
    options = ("--source", "folder", "--root", source, "--out", tmp_path / "out", "--shards", shards)
    done = convert(*options, launcher=PYTHON)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    kinds = [f"{split}-{k:05d}-of-{shards:05d}.beton" for split in ("train", "val") for k in range(shards)]
    assert names == sorted([*kinds, "manifest.json"])
    opened, _ = open_source(Kind.folder, source)
    for split in ("train", "val"):
        pixels, labels, ids = read_all(tmp_path / "out", split)
        assert ids.tolist() == list(range(len(opened.split(split))))
        for index in ids:
            image, label = opened.split(split)[index]
            assert label == labels[index]
            assert np.array_equal(np.asarray(image), pixels[index])


def test_the_manifest_describes_the_dataset(tmp_path):
    source = class_folders(tmp_path / "images")
    assert convert("--source", "folder", "--root", source, "--out", tmp_path / "out", "--shards", 2).returncode == 0
    manifest = read_manifest(tmp_path / "out")
    verify(tmp_path / "out", manifest, Verify.always)
    assert manifest.classes == ("ant", "bee", "cat")
    assert (manifest.samples("train"), manifest.samples("val"), manifest.resolution) == (12, 6, 32)
    pixels = read_all(tmp_path / "out", "train")[0].astype(np.float64) / 255
    assert manifest.mean == pytest.approx(pixels.mean((0, 1, 2)))
    assert manifest.std == pytest.approx(pixels.std((0, 1, 2)))


def test_samples_can_be_read_in_any_order_across_shards(tmp_path):
    source = class_folders(tmp_path / "images")
    assert convert("--source", "folder", "--root", source, "--out", tmp_path / "out", "--shards", 3).returncode == 0
    in_order = read_all(tmp_path / "out", "train")
    out = tmp_path / "out"
    reader = ShardReader(out, read_manifest(out), 5, workers=1, prefetch_batches=1, timeout=30)
    for images, labels, ids in reader.read("train", epoch_order(12, seed=1, epoch=2).split(5)):
        assert np.array_equal(images, in_order[0][ids])
        assert np.array_equal(labels, in_order[1][ids])


def test_the_same_images_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        out = tmp_path / name
        assert convert("--source", "synthetic", "--per-class", 5, "--out", out, "--shards", 3).returncode == 0
    for path in (tmp_path / "one").glob("*"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_the_same_images_with_other_labels_are_another_dataset(tmp_path):
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


def images_and_labels(out, split):
    pixels, labels, _ = read_all(out, split)
    return [(image.tobytes(), label) for image, label in zip(pixels, labels.tolist(), strict=True)]


def test_held_out_images_are_training_images_and_no_longer_used_for_training(tmp_path):
    options = ("--source", "folder", "--root", class_folders(tmp_path / "images"), "--shards", 1)
    for name, more in (("all", ()), ("split", ("--hold-out", 4)), ("again", ("--hold-out", 4))):
        done = convert(*options, *more, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    kept, held_out = (images_and_labels(tmp_path / "split", split) for split in ("train", "val"))
    assert (len(kept), len(held_out)) == (8, 4)
    assert sorted(kept + held_out) == sorted(images_and_labels(tmp_path / "all", "train"))
    assert images_and_labels(tmp_path / "again", "val") == held_out
    assert_rejected(convert(*options, "--out", tmp_path / "split"), "--hold-out was 4, now not given")
    too_many = convert(*options, "--hold-out", 10, "--out", tmp_path / "none")
    assert_rejected(too_many, "--hold-out 10 is too large", "12 training images in 3 classes", "9 at most")


def numbers_per_class(source):
    return [torch.tensor(images.targets).bincount(minlength=3).tolist() for images in (source.train, source.val)]


@pytest.mark.parametrize(
    ("amount", "train", "val"),
    [
        (6, [9, 7, 6], [2, 2, 2]),
        (7, [8, 7, 6], [3, 2, 2]),
        (25, [1, 1, 1], [10, 8, 7]),
        (0.1, [10, 8, 7], [1, 1, 1]),
        (0.5, [5, 5, 4], [6, 4, 4]),
        (0.99, [1, 1, 1], [10, 8, 7]),
    ],
)
def test_the_held_out_images_are_stratified_by_class(tmp_path, amount, train, val):
    """Eleven, nine and eight images: numbers in proportion, largest remainders first; fractions of every class."""
    for name, count in (("ant", 11), ("bee", 9), ("cat", 8)):
        class_folders(tmp_path, classes=(name,), train=count, val=1)
    source, notes = open_source(Kind.folder, tmp_path, validation=amount)
    assert numbers_per_class(source) == [train, val]
    assert notes == []
    names = [source.name(split, index) for split in ("train", "val") for index in range(len(source.split(split)))]
    assert len(set(names)) == 28


def test_a_class_with_one_image_is_only_trained_on(tmp_path):
    class_folders(tmp_path, classes=("ant", "bee"), train=5, val=1)
    class_folders(tmp_path, classes=("cat",), train=1, val=1)
    for amount in (1, 2, 8, 0.2, 0.9):
        train, val = numbers_per_class(open_source(Kind.folder, tmp_path, validation=amount)[0])
        assert (train[2], val[2]) == (1, 0)
    with pytest.raises(DataError, match=r"--hold-out 9 is too large: of 11 training images .* 8 at most"):
        open_source(Kind.folder, tmp_path, validation=9)
    class_folders(tmp_path / "ones", train=1, val=1)
    with pytest.raises(DataError, match="3 training images in 3 classes are too few"):
        open_source(Kind.folder, tmp_path / "ones", validation=0.5)


@pytest.mark.parametrize("value", ["0", "-3", "1.5", "0.0", "nan", "many", "1e3"])
def test_an_impossible_hold_out_is_rejected_with_examples(tmp_path, value):
    done = convert("--source", "synthetic", "--out", tmp_path / "out", f"--hold-out={value}")
    assert_rejected(done, f"got '{value}'", "a number of images such as 500, or a fraction between 0 and 1 such as 0.2")


def test_larger_images_are_resized_and_compressed_on_request(tmp_path):
    """Smooth images are nearly unchanged by both."""
    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    pixels = np.stack(
        [np.broadcast_to(ramp, (64, 96)), np.broadcast_to(ramp[:64, None], (64, 96)), np.full((64, 96), 90)], 2
    )
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / split / name / "0.png")
    options = ("--source", "folder", "--root", tmp_path, "--out", tmp_path / "out", "--shards", 1)
    assert_rejected(convert(*options, "--resolution", 32), "96x64 pixels instead of 32x32", "--resize")
    done = convert(*options, "--resize", "--resolution", 48, "--mode", "jpg", "--quality", 95)
    assert done.returncode == 0, done.stderr
    stored = read_all(tmp_path / "out", "train")[0][0].astype(int)
    expected = Image.fromarray(pixels.astype(np.uint8)).resize((72, 48), Image.Resampling.BICUBIC).crop((12, 0, 60, 48))
    assert np.abs(stored - np.asarray(expected, dtype=int)).mean() < 4


def replace_image(folder, image):
    path = folder / "train" / "bee" / "1.png"
    image.save(path)
    return path


def test_unsuitable_images_are_named_and_can_be_skipped(tmp_path):
    source, out = class_folders(tmp_path / "images"), tmp_path / "out"
    options = ("--source", "folder", "--root", source, "--out", out, "--shards", 2, "--resolution", 32)
    path = replace_image(source, Image.new("RGB", (33, 32)))
    assert_rejected(convert(*options), path, "33x32", "--resize", "--longest-side", "--skip-bad")
    path.write_bytes(path.read_bytes()[:40])
    assert_rejected(convert(*options), path, "cannot be decoded", "--skip-bad")
    assert not (out / "manifest.json").exists()
    done = convert(*options, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert read_manifest(out).skipped == (str(path),)
    assert read_manifest(out).samples("train") == 11
    assert read_all(out, "train")[2].tolist() == list(range(11))


def test_images_that_are_not_rgb_are_converted_and_counted(tmp_path):
    source = class_folders(tmp_path / "images")
    replace_image(source, Image.new("L", (32, 32), 77))
    options = ("--source", "folder", "--root", source, "--shards", 1)
    done = convert(*options, "--out", tmp_path / "one")
    assert (done.returncode, done.stderr) == (0, "")
    assert "note: 1 greyscale image converted to RGB\n" in done.stdout
    assert (read_all(tmp_path / "one", "train")[0][5] == 77).all()
    palette = Image.new("P", (32, 32))
    palette.putpalette([10, 20, 30] * 256)
    folder = source / "train" / "cat"
    Image.new("LA", (32, 32), (99, 0)).save(folder / "0.png")
    Image.new("RGBA", (32, 32), (1, 2, 3, 40)).save(folder / "1.png")
    palette.save(folder / "2.png", transparency=bytes([0, 128]))
    Image.new("CMYK", (32, 32), (0, 0, 0, 255)).save(source / "test" / "ant" / "0.tiff")
    done = convert(*options, "--out", tmp_path / "several")
    assert (done.returncode, done.stderr) == (0, "")
    assert "note: 5 images converted to RGB: 1 CMYK, 2 greyscale, 1 palette, 1 transparent\n" in done.stdout
    pixels = read_all(tmp_path / "several", "train")[0]
    assert [pixels[index, 0, 0].tolist() for index in (8, 9, 10)] == [[99, 99, 99], [1, 2, 3], [10, 20, 30]]
    assert read_all(tmp_path / "several", "val")[0][1, 0, 0].tolist() == [0, 0, 0]


def one_class_per_folder(root, sizes, classes=("ant", "bee", "cat"), suffix=".png"):
    """Noise images of these (width, height) in folders of a class each, without train/ and val/."""
    random = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for index, (width, height) in enumerate(sizes):
            pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}{suffix}")
    return root


@pytest.mark.parametrize("size", [(40, 40), (500, 24), (24, 40)])
def test_images_of_one_small_size_are_stored_as_they_are(tmp_path, size):
    root, out = one_class_per_folder(tmp_path / "images", [size] * 5), tmp_path / "out"
    done = convert("--source", "folder", "--root", root, "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"note: all images are {size[0]}x{size[1]} pixels and are stored at this size\n" in done.stdout
    manifest = read_manifest(out)
    assert (manifest.resolution, manifest.mixed) == (max(size), size[0] != size[1])
    stored = b"".join(path.read_bytes() for path in sorted(out.glob("*.beton")))
    for path in root.glob("*/*"):
        with Image.open(path) as image:
            assert image.tobytes() in stored


@pytest.mark.parametrize(("size", "stored"), [((800, 600), (500, 375)), ((501, 501), (500, 500))])
def test_images_of_one_large_size_are_stored_like_images_of_different_sizes(tmp_path, size, stored):
    root, out = one_class_per_folder(tmp_path / "images", [size] * 2, suffix=".jpg"), tmp_path / "out"
    done = convert("--source", "folder", "--root", root, "--out", out, "--hold-out", 1)
    assert done.returncode == 0, done.stderr
    assert (
        f"note: all images are {size[0]}x{size[1]} pixels: they keep their shapes, sides longer than 500 pixels are "
        "shrunk, and they are stored as JPEG, as with --longest-side 500 --mode jpg\n"
    ) in done.stdout
    manifest = read_manifest(out)
    assert (manifest.resolution, manifest.mixed) == (500, True)
    shards = MappedShards(out, manifest, "train")
    assert {(width, height) for height, width in shards.sizes.tolist()} == {stored}
    assert set(shards.metadata["f0"]["mode"].tolist()) == {IMAGE_MODES["jpg"]}


def test_images_of_different_sizes_keep_their_shapes(tmp_path):
    sizes = [(40, 40), (41, 40), (600, 300), (20, 501), (500, 30)]
    root, out = one_class_per_folder(tmp_path / "images", sizes, suffix=".jpg"), tmp_path / "out"
    done = convert("--source", "folder", "--root", root, "--out", out, "--hold-out", 1)
    assert done.returncode == 0, done.stderr
    assert "sides longer than 500 pixels are shrunk, and they are stored as JPEG, as with" in done.stdout
    assert "the validation split" not in done.stdout, "it was given"
    manifest = read_manifest(out)
    assert (manifest.resolution, manifest.mixed) == (500, True)
    shards = MappedShards(out, manifest, "train")
    stored = {(40, 40), (41, 40), (500, 250), (20, 500), (500, 30)}
    assert {(width, height) for height, width in shards.sizes.tolist()} == stored
    assert set(shards.metadata["f0"]["mode"].tolist()) == {IMAGE_MODES["jpg"]}
    again = convert("--source", "folder", "--root", root, "--out", out, "--hold-out", 1)
    assert "already converted" in again.stdout
    done = convert("--source", "folder", "--root", root, "--out", out, "--hold-out", 1, "--mode", "raw", "--overwrite")
    assert "they are stored as raw bytes, as with --longest-side 500 --mode raw\n" in done.stdout
    shards = MappedShards(out, read_manifest(out), "train")
    assert set(shards.metadata["f0"]["mode"].tolist()) == {IMAGE_MODES["raw"]}


def test_a_damaged_image_does_not_decide_about_sizes(tmp_path):
    root = one_class_per_folder(tmp_path / "images", [(40, 40)] * 5)
    (root / "ant" / "0.png").write_bytes(b"damaged")
    options = ("--source", "folder", "--root", root, "--out", tmp_path / "out")
    assert_rejected(convert(*options), root / "ant" / "0.png", "cannot be decoded")
    assert convert(*options, "--skip-bad").returncode == 0
    assert read_manifest(tmp_path / "out").resolution == 40


def test_resizing_needs_a_size(tmp_path):
    root = one_class_per_folder(tmp_path / "images", [(40, 40)] * 5)
    options = ("--source", "folder", "--root", root, "--out", tmp_path / "out", "--resize")
    assert_rejected(convert(*options), "--resize needs a size: add --resolution N")
    assert convert(*options, "--resolution", 16).returncode == 0
    assert read_manifest(tmp_path / "out").resolution == 16


def test_a_small_split_has_one_shard_per_image(tmp_path):
    root = one_class_per_folder(tmp_path / "images", [(40, 40)] * 2)
    assert convert("--source", "folder", "--root", root, "--out", tmp_path / "out").returncode == 0
    manifest = read_manifest(tmp_path / "out")
    assert [len(manifest.splits[split]) for split in ("train", "val")] == [3, 3]
    verify(tmp_path / "out", manifest, Verify.always)
    assert convert("--source", "folder", "--root", root, "--out", tmp_path / "one", "--hold-out", 1).returncode == 0
    assert [len(read_manifest(tmp_path / "one").splits[split]) for split in ("train", "val")] == [4, 1]


def test_ones_own_images_need_two_commands_and_no_further_options(tmp_path):
    """60 JPEGs of different sizes in three folders, one of them greyscale; a batch is larger than the dataset."""
    random = np.random.default_rng(2)
    sizes = random.integers(60, 260, (20, 2)).tolist()
    root, out = one_class_per_folder(tmp_path / "images", sizes, suffix=".jpg"), tmp_path / "out"
    Image.open(root / "bee" / "3.jpg").convert("L").save(root / "bee" / "3.jpg")
    done = convert("--source", "folder", "--root", root, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"note: {root} has no val/ or test/: 6 of 60 images, 10% of every class, are the validation" in done.stdout
    assert "note: 1 greyscale image converted to RGB\n" in done.stdout
    assert f"{out}: 54 train + 6 val images, 3 classes" in done.stdout
    flags = ["--data.shards", str(out), "--runs_dir", str(tmp_path), "--tracking.wandb", "disabled"]
    flags += ["--train.epochs", "1", "--data.resolution", "32", "--train.device", "cpu", "--tracking.report", "false"]
    done = run([*PYTHON, "train_ddp.py", "--config", "configs/folder.yaml", *flags])
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "folder")["samples"] == 6


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
    assert "has no val/ or test/: 3 of 12 images, 10% of every class, are the validation split" in done.stdout
    assert [read_manifest(out).samples(split) for split in ("train", "val")] == [9, 3]


def test_wrong_usage_is_rejected_with_the_remedy(tmp_path):
    out = ("--out", tmp_path / "out")
    assert_rejected(convert("--source", "folder", *out), "--source folder needs --root")
    assert_rejected(convert("--source", "imagenet", *out), "'imagenet'", "'cifar100', 'folder', 'synthetic'", "--help")
    assert_rejected(convert("--source", "synthetic", *out, "--quality", 101), "must be 1 to 100, got 101")
    assert_rejected(convert("--source", "synthetic", *out, "--shards", "no"), "must be a positive integer, got 'no'")
    assert_rejected(convert("--source", "synthetic", *out, "--timeout", "nan"), "positive number of seconds, got 'nan'")
    few = class_folders(tmp_path / "few", train=1)
    done = convert("--source", "folder", "--root", few, *out, "--shards", 9)
    assert_rejected(done, "3 train images cannot fill 9 shards; use a smaller --shards")


def test_help_describes_every_option_with_its_default():
    command = parser()
    for option in command._actions:
        assert option.help, option.dest
        has_default = option.nargs != 0 and not option.required and option.dest != "root"
        assert ("(default: " in option.help) == has_default, option.dest
    text = command.format_help()
    for name, arguments in re.findall(r"^  python -m data\.convert (.*--out (\S+).*)$", text, re.MULTILINE):
        assert command.parse_args(name.split()).out == Path(arguments)


def test_a_missing_cifar100_is_rejected_with_the_alternatives(tmp_path):
    options = ("--source", "cifar100", "--root", tmp_path, "--out", tmp_path / "out")
    assert_rejected(convert(*options), "CIFAR100=", "--root", "--download", "network")
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "train").write_bytes(b"not the official file")
    assert_rejected(convert(*options), "CIFAR100=", "official")
    archive = tmp_path / "cifar-100-python.tar.gz"
    archive.write_bytes(b"not an archive")
    assert_rejected(convert("--source", "cifar100", "--root", archive, "--out", tmp_path / "out"), archive, "tar")


def official_archive(folder):
    """A small archive in the format of the official one, and the MD5 of every file."""
    directory = folder / "cifar-100-python"
    directory.mkdir()
    random = np.random.default_rng(0)
    for name, count in (("train", 6), ("test", 3)):
        data = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        (directory / name).write_bytes(pickle.dumps({"data": data, "fine_labels": list(range(count))}))
    (directory / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class_{k}" for k in range(100)]}))
    archive = folder / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(directory, directory.name)
    digests = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in directory.iterdir()}
    return archive, digests


@pytest.mark.parametrize("root", ["cifar-100-python.tar.gz", "cifar-100-python", "."])
def test_the_official_files_are_read_packed_and_unpacked(tmp_path, monkeypatch, root):
    """torchvision checks their MD5, so it gets those of a small replacement."""
    from data.sources.torchvision_datasets import CIFAR100

    archive, digests = official_archive(tmp_path)
    monkeypatch.setattr(CIFAR100, "train_list", [["train", digests["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", digests["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": digests["meta"]})
    if root == archive.name:
        shutil.rmtree(tmp_path / "cifar-100-python")
    source, notes = open_source(Kind.cifar100, tmp_path / root)
    assert notes == []
    assert (len(source.train), len(source.val), source.classes[99]) == (6, 3, "class_99")
    assert [source.train[index][1] for index in range(6)] == list(range(6))


def test_labels_outside_the_classes_are_rejected_when_writing_and_reading(tmp_path):
    source, _ = open_source(Kind.synthetic, None, per_class=1)
    encoding = Encoding(32, "raw", 90, resize=False, mixed=False)
    assert load_image(source, "train", 42, encoding).label == 42
    wrong = Source(source.train, source.val, source.name)
    wrong.train.classes = source.classes[:42]
    with pytest.raises(DataError, match="label 42, but there are 42 classes"):
        load_image(wrong, "train", 42, encoding)
    out = tmp_path / "out"
    assert convert("--source", "synthetic", "--per-class", 1, "--out", out, "--shards", 1).returncode == 0
    manifest = read_manifest(out)
    write_manifest(out, replace_field(manifest, classes=manifest.classes[:50]))
    with pytest.raises(DataError, match="label outside 0 to 49"):
        ShardReader(out, read_manifest(out), 10, workers=1, prefetch_batches=1, timeout=10)


def test_a_killed_conversion_has_no_manifest_and_can_be_repeated(tmp_path):
    command = ["--source", "synthetic", "--per-class", "40", "--shards", "2"]
    process = start([*PYTHON, "-m", "data.convert", *command, "--out", str(tmp_path / "out")])
    wait_until(lambda: list((tmp_path / "out").glob(".*.tmp")))
    os.kill(process.pid, signal.SIGKILL)
    kill_group(process)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert_rejected(run(trainer(tmp_path, tmp_path / "out")), "manifest.json")
    assert convert(*command, "--out", tmp_path / "out").returncode == 0
    assert not list((tmp_path / "out").glob(".*"))
    verify(tmp_path / "out", read_manifest(tmp_path / "out"), Verify.always)


def writers_of(process):
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return [int(pid) for pid in file.read().split()]


def test_a_writer_that_dies_aborts_the_conversion(tmp_path):
    command = ["--source", "synthetic", "--per-class", "400", "--shards", "2", "--out", str(tmp_path / "out")]
    process = start([*PYTHON, "-m", "data.convert", *command])
    wait_until(lambda: list((tmp_path / "out").glob(".*.tmp")))
    os.kill(writers_of(process)[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1, out + err
    assert "its writer process died (signal 9)" in err
    assert not list((tmp_path / "out").glob("*.json"))
    assert not list((tmp_path / "out").glob(".*.tmp"))


def test_a_writer_that_stalls_is_killed(tmp_path):
    source = class_folders(tmp_path / "images")
    path = source / "train" / "cat" / "2.png"
    path.unlink()
    os.mkfifo(path)  # reading it blocks forever
    options = ("--source", "folder", "--root", source, "--out", tmp_path / "out", "--shards", 2, "--resolution", 32)
    assert_rejected(convert(*options, "--timeout", 2), "no progress for 2 s", "--timeout", exit_code=1)


def test_a_full_disk_is_a_one_line_error(tmp_path):
    """With one writer at a time some shards are complete when the disk is full; they do not prevent a repetition."""
    command = ("--source", "synthetic", "--per-class", 10, "--workers", 1)
    with mounted_tmpfs(tmp_path / "disk", "size=10m") as disk:
        assert_rejected(convert(*command, "--shards", 2, "--out", disk / "out"), "No space left on device", exit_code=1)
        remaining = sorted(path.name for path in (disk / "out").iterdir())
        assert remaining == ["train-00000-of-00002.beton", "train-00001-of-00002.beton"]
        done = convert(*command, "--per-class", 5, "--shards", 1, "--out", disk / "out")
        assert done.returncode == 0, done.stderr
        verify(disk / "out", read_manifest(disk / "out"), Verify.always)


def test_a_short_write_without_an_error_is_detected(tmp_path):
    """The kernel writes all but five bytes of the last page of images, and reports success."""
    options = ("--source", "synthetic", "--per-class", 1, "--shards", 1)
    assert convert(*options, "--out", tmp_path / "complete").returncode == 0
    size = (tmp_path / "complete" / "train-00000-of-00001.beton").stat().st_size
    limit = size - 24 * 100 - 5  # FFCV ends a file with 24 bytes for each of the 100 samples
    done = convert(*options, "--out", tmp_path / "short", launcher=("prlimit", f"--fsize={limit}", *PYTHON))
    assert_rejected(done, "short write", exit_code=1)


def test_a_read_only_disk_is_a_one_line_error(tmp_path):
    with mounted_tmpfs(tmp_path / "disk", "ro") as disk:
        options = ("--source", "synthetic", "--per-class", 5, "--out", disk / "out")
        assert_rejected(convert(*options), "Read-only file system", exit_code=1)

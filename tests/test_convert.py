"""python -m data.convert as users call it, and what can be read back from the shards."""

import re
from dataclasses import replace as replace_field
from pathlib import Path

import numpy as np
import pytest
from converting import assert_rejected, convert, one_class_per_folder, plain, read_all
from images import class_folders
from limits import LIMIT
from PIL import Image
from processes import PYTHON, run
from run_directory import result
from thoroughness import parametrize_some

from data.convert import parser
from data.errors import DataError
from data.image_encoding import Encoding, load_image
from data.manifest import Verify, read_manifest, verify, write_manifest
from data.reading.shard_reader import ShardReader
from data.sampler import epoch_order
from data.sources.registry import Kind, open_source
from data.sources.source import Source


@parametrize_some("shards", [3, 1, 4])
def test_shards_contain_the_pixels_and_labels_of_the_files(tmp_path, shards):
    source = class_folders(tmp_path / "images")
    options = ("--source", "folder", "--root", source, "--out", tmp_path / "out", "--shards", shards)
    done = convert(*options, launcher=PYTHON)
    assert done.returncode == 0, done.stderr
    names = sorted(plain(path.name) for path in (tmp_path / "out").iterdir())
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
    reader = ShardReader(out, read_manifest(out), 5, workers=1, prefetch_batches=1, timeout=LIMIT)
    for images, labels, ids in reader.read("train", epoch_order(12, seed=1, epoch=2).split(5)):
        assert np.array_equal(images, in_order[0][ids])
        assert np.array_equal(labels, in_order[1][ids])


def test_the_same_images_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        out = tmp_path / name
        assert convert("--source", "synthetic", "--per-class", 5, "--out", out, "--shards", 3).returncode == 0
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


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
    assert f"note: {root} has no val/ or test/: 6 of 60 images, 10% (at least one) of every class" in done.stdout
    assert "note: images changed when read: 1 greyscale converted to RGB\n" in done.stdout
    assert f"{out}: 54 train + 6 val images, 3 classes" in done.stdout
    flags = ["--data.shards", str(out), "--runs_dir", str(tmp_path), "--tracking.wandb", "disabled"]
    flags += ["--train.epochs", "1", "--data.resolution", "32", "--train.device", "cpu", "--tracking.report", "false"]
    done = run([*PYTHON, "train_ddp.py", "--config", "configs/folder.yaml", *flags])
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "folder")["samples"] == 6


def test_wrong_usage_is_rejected_with_the_remedy(tmp_path):
    out = ("--out", tmp_path / "out")
    assert_rejected(convert("--source", "folder", *out), "--source folder needs --root")
    assert_rejected(convert("--source", "imagenet", *out), "'imagenet'", "'cifar100', 'folder', 'synthetic'", "--help")
    assert_rejected(convert("--source", "synthetic", *out, "--quality", 101), "must be 1 to 100, got 101")
    assert_rejected(convert("--source", "synthetic", *out, "--shards", "no"), "must be a positive integer, got 'no'")
    for seconds in ("x", "nan"):
        done = convert("--source", "synthetic", *out, "--timeout", seconds)
        assert_rejected(done, f"timeout: must be a positive number, got '{seconds}'")
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
        ShardReader(out, read_manifest(out), 10, workers=1, prefetch_batches=1, timeout=LIMIT)

"""--hold-out: a validation split from training images."""

import pytest
import torch
from converting import assert_rejected, convert, read_all
from images import class_folders

from data.errors import DataError
from data.sources.registry import Kind, open_source


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
    assert notes == [f"{tmp_path}: not used: test/"]
    names = [source.name(split, index) for split in ("train", "val") for index in range(len(source.split(split)))]
    assert len(set(names)) == 28


def test_a_class_with_one_image_is_only_trained_on(tmp_path):
    class_folders(tmp_path, classes=("ant", "bee"), train=5, val=1)
    class_folders(tmp_path, classes=("cat",), train=1, val=1)
    for amount in (1, 2, 8, 0.2, 0.9):
        source, notes = open_source(Kind.folder, tmp_path, validation=amount)
        train, val = numbers_per_class(source)
        assert (train[2], val[2]) == (1, 0)
        assert notes[1:] == [f"{val.count(0)} of 3 classes have no validation images"]
    with pytest.raises(DataError, match=r"--hold-out 9 is too large: of 11 training images .* 8 at most"):
        open_source(Kind.folder, tmp_path, validation=9)
    class_folders(tmp_path / "ones", train=1, val=1)
    with pytest.raises(DataError, match="3 training images in 3 classes are too few"):
        open_source(Kind.folder, tmp_path / "ones", validation=0.5)


@pytest.mark.parametrize(
    "value", ["0", "-3", "1.5", "0.0", "nan", "many", "1e3", pytest.param("9" * 5000, id="5000 digits")]
)
def test_an_impossible_hold_out_is_rejected_with_examples(tmp_path, value):
    done = convert("--source", "synthetic", "--out", tmp_path / "out", f"--hold-out={value}")
    assert_rejected(done, f"got '{value}'", "a number of images such as 500, or a fraction between 0 and 1 such as 0.2")

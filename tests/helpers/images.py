"""Datasets for the tests: synthetic shards and class-folder trees of images."""

from pathlib import Path

import numpy as np
from fork_server import ForkedCommand
from PIL import Image
from processes import run


def convert_synthetic(out: Path, per_class: int, shards: int) -> Path:
    options = ["--source", "synthetic", "--per-class", str(per_class), "--out", str(out), "--shards", str(shards)]
    done = run(ForkedCommand(["-m", "data.convert", *options]))
    assert done.returncode == 0, done.stderr
    return out


def class_folders(folder, side=32, classes=("ant", "bee", "cat"), train=4, val=2):
    """Noise images in <split>/<class>/ folders."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("test", val)):
        for name in classes:
            directory = folder / split / name
            directory.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(directory / f"{index}.png")
    return folder


def photo_folders(folder, train=24, val=8):
    """Photo-like images in <split>/<class>/ folders: sides of 120 to 260 pixels, JPEG and PNG; each class is a pattern.

    The background colour is random for each image and carries no class information.
    """
    random = np.random.default_rng(1)
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(("stripes", "bars", "checks", "plain")):
            directory = folder / split / name
            directory.mkdir(parents=True)
            for index in range(count):
                height, width = random.integers(120, 261, 2)
                y, x = np.mgrid[:height, :width] // 12 % 2
                pattern = (y, x, (x + y) % 2, 0 * x)[label]
                noise = random.integers(0, 20, (height, width, 1))
                pixels = random.integers(60, 140, 3) + 90 * pattern[..., None] + noise
                suffix = ".png" if index % 4 == 0 else ".jpg"
                Image.fromarray(pixels.astype(np.uint8)).save(directory / f"{index}{suffix}", quality=92)
    return folder

"""Data sets for the tests: generated, and as trees of class folders."""

from pathlib import Path

import numpy as np
from nursery import ForkedCommand
from PIL import Image
from programs import run


def convert_synthetic(out: Path, per_class: int, shards: int) -> Path:
    options = ["--source", "synthetic", "--per-class", str(per_class), "--out", str(out), "--shards", str(shards)]
    done = run(ForkedCommand(["-m", "data.convert", *options]))
    assert done.returncode == 0, done.stderr
    return out


def class_folders(folder, side=32, classes=("ant", "bee", "cat"), train=4, val=2):
    """A tree of class folders with images of noise."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("test", val)):
        for name in classes:
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")
    return folder


def photo_folders(folder, train=24, val=8):
    """Pictures as people have them: 120 to 260 pixels, wide and high, JPEG and PNG; each class is a pattern.

    The background tells nothing, since it is drawn anew for each.
    """
    random = np.random.default_rng(1)
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(("stripes", "bars", "checks", "plain")):
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(count):
                height, width = random.integers(120, 261, 2)
                y, x = np.mgrid[:height, :width] // 12 % 2
                pattern = (y, x, (x + y) % 2, 0 * x)[label]
                noise = random.integers(0, 20, (height, width, 1))
                pixels = random.integers(60, 140, 3) + 90 * pattern[..., None] + noise
                suffix = ".png" if index % 4 == 0 else ".jpg"
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}{suffix}", quality=92)
    return folder

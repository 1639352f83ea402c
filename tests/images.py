"""Data sets for the tests: generated, and as trees of class folders."""

from pathlib import Path

import numpy as np
from nursery import Forked
from PIL import Image
from programs import run


def convert_synthetic(out: Path, per_class: int, shards: int) -> Path:
    options = ["--source", "synthetic", "--per-class", str(per_class), "--out", str(out), "--shards", str(shards)]
    done = run(Forked(["-m", "data.convert", *options]))
    assert done.returncode == 0, done.stderr
    return out


def tree(folder, side=32, classes=("ant", "bee", "cat"), train=4, val=2):
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

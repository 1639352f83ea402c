import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import ROOT, run

CIFAR100_ZIPS = ROOT.parent / "shared" / "cifar100"


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Which shards were verified is remembered in the user's cache; not in that of whoever runs the tests."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


def convert_synthetic(out: Path, per_class: int, shards: int) -> Path:
    options = ["--source", "synthetic", "--per-class", str(per_class), "--out", str(out), "--shards", str(shards)]
    done = run([sys.executable, "-m", "data.convert", *options])
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """1,000 training and 200 validation images in three shards each."""
    return convert_synthetic(tmp_path_factory.mktemp("shards") / "three", 10, 3)


@pytest.fixture(scope="session")
def real_cifar100(tmp_path_factory):
    """The real CIFAR-100 as train/ and test/ class folders."""
    import zipfile

    if not CIFAR100_ZIPS.is_dir():
        pytest.skip(f"no real CIFAR-100 in {CIFAR100_ZIPS}")
    folder = tmp_path_factory.mktemp("cifar100")
    for archive in sorted(CIFAR100_ZIPS.glob("*.zip")):
        with zipfile.ZipFile(archive) as images:
            images.extractall(folder)
    return folder


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

"""The conversion for tests: the command, and what can be read back from the shards."""

import re

import numpy as np
import torch
from fork_server import ForkedCommand
from limits import LIMIT
from PIL import Image
from processes import run

from data.manifest import read_manifest
from data.reading.shard_reader import ShardReader


def convert(*options, launcher=()):
    command = ["-m", "data.convert", *map(str, options)]
    return run([*launcher, *command] if launcher else ForkedCommand(command))


def faulty_convert(fault, *options):
    """See tests/helpers/conversion_faults.py."""
    return ForkedCommand(["tests/helpers/conversion_faults.py", fault, *map(str, options)])


def assert_rejected(done, *words, exit_code=2):
    assert done.returncode == exit_code, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert str(word) in lines[0]


def plain(name):
    """A shard's file name without its digest."""
    return re.sub(r"-[0-9a-f]{8}\.beton$", ".beton", name)


def read_all(out, split, batch=7):
    """Every stored sample of a split, in the order of ids: pixels, labels, ids."""
    manifest = read_manifest(out)
    reader = ShardReader(out, manifest, batch, workers=1, prefetch_batches=2, timeout=LIMIT)
    batches = torch.arange(manifest.samples(split)).split(batch)
    parts = [tuple(part.clone() for part in item) for item in reader.read(split, batches)]
    return tuple(torch.cat(part).numpy() for part in zip(*parts, strict=True))


def one_class_per_folder(root, sizes, classes=("ant", "bee", "cat"), suffix=".png"):
    """Noise images of these (width, height) in folders of a class each, without train/ and val/."""
    random = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for index, (width, height) in enumerate(sizes):
            pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}{suffix}")
    return root


def replace_image(folder, image):
    path = folder / "train" / "bee" / "1.png"
    image.save(path)
    return path

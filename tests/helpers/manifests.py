"""A valid manifest for tests, and variations of it."""

import hashlib
import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from data.errors import DataError
from data.manifest import MANIFEST, Manifest, Shard, Verify, read_manifest, verify, write_manifest

CONTENTS = {"train-0.beton": b"first shard", "train-1.beton": b"the second", "val-0.beton": b"third " * 1000}


def shard(name, first_id, samples):
    content = CONTENTS[name]
    return Shard(name, first_id, samples, len(content), hashlib.sha256(content).hexdigest(), "0" * 64)


VALID = Manifest(
    source={"source": "synthetic", "per_class": 3, "max_resolution": None},
    resolution=32,
    mixed=False,
    classes=("cat", "dog"),
    mean=(0.5, 0.4, 0.3),
    std=(0.25, 0.2, 0.3),
    splits={
        "train": (shard("train-0.beton", 0, 4), shard("train-1.beton", 4, 3)),
        "val": (shard("val-0.beton", 0, 2),),
    },
    skipped=("broken.png",),
)


def write_valid(folder):
    """Shards and their manifest in a folder."""
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    write_manifest(folder, VALID)
    return folder


@contextmanager
def manifest_of(text):
    """A directory with this manifest and the shards of the valid one."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in CONTENTS.items():
            (Path(folder) / name).write_bytes(content)
        (Path(folder) / MANIFEST).write_bytes(text if isinstance(text, bytes) else text.encode())
        yield Path(folder)


def valid_record():
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder), VALID)
        return json.loads((Path(folder) / MANIFEST).read_text())


def resealed(record):
    """The text of a record with a digest that matches it, to test the other checks."""
    body = {key: value for key, value in record.items() if key != "sha256"}
    seal = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": seal})


def assert_one_line(caught):
    message = str(caught.value)
    assert message.strip()
    assert "\n" not in message
    return message


def read_error(directory):
    with pytest.raises(DataError) as caught:
        read_manifest(directory)
    return assert_one_line(caught)


def verify_error(directory, how=Verify.always):
    with pytest.raises(DataError) as caught:
        verify(directory, read_manifest(directory), how)
    return assert_one_line(caught)


def entry_paths(tree, path=()):
    """The paths of all entries of nested dicts and lists."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from entry_paths(value, (*path, key))
